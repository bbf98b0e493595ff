"""What MODEL= may be, and what is said when it cannot be used."""

import os

import pytest

from inference.catalogue import FileSource, load_catalogue
from inference.choose import find_model
from inference.errors import UnknownModel, VerifyError

pytestmark = pytest.mark.unit


def test_a_catalogue_name_is_found(tmp_path):
    assert find_model("internlm2-chat-7b", load_catalogue(), tmp_path).title == "InternLM2 Chat 7B"


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UnknownModel) as caught:
        find_model("gpt-9", load_catalogue(), tmp_path)
    assert "smollm2-135m-instruct" in caught.value.message
    assert "MODEL=/path/to/file.gguf" in caught.value.message


def test_a_file_is_taken_from_the_root_and_tells_about_itself(write, gguf_bytes, llama_head, tmp_path):
    path = write("files/My model (1).gguf", gguf_bytes(llama_head))
    model = find_model("files/My model (1).gguf", {}, tmp_path)
    assert model.name == "My-model-1"
    assert model.sources == (FileSource(path),)
    assert model.context_tokens == 2048
    assert model.kv_bytes_per_token == 3 * 2 * (16 + 16) * 2
    assert model.size_bytes == path.stat().st_size


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnknownModel, match=r"There is no model file .*nothing\.gguf"):
        find_model("nothing.gguf", {}, tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\x89PNG....", "is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"GGUF\x63\x00\x00\x00" + bytes(16), "GGUF version 99"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, "head is damaged"),
    ],
)
def test_what_is_no_model_is_refused(write, tmp_path, content, complaint):
    write("bad.gguf", content)
    with pytest.raises(VerifyError) as caught:
        find_model("bad.gguf", {}, tmp_path)
    assert complaint in caught.value.message


def test_a_head_cut_anywhere_is_refused(write, gguf_bytes, llama_head, tmp_path):
    whole = gguf_bytes(llama_head)
    for size in range(4, len(whole)):
        write("cut.gguf", whole[:size])
        with pytest.raises(VerifyError, match="cut short or damaged"):
            find_model("cut.gguf", {}, tmp_path)


def test_a_folder_names_the_file_in_it(write, gguf_bytes, llama_head, tmp_path):
    path = write("folder/a.gguf", gguf_bytes(llama_head))
    with pytest.raises(VerifyError, match=f"MODEL={path}"):
        find_model(str(path.parent), {}, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_how_to_mend_it(write, gguf_bytes, llama_head, tmp_path):
    write("a.gguf", gguf_bytes(llama_head)).chmod(0)
    with pytest.raises(VerifyError, match=r"chmod u\+r"):
        find_model("a.gguf", {}, tmp_path)
