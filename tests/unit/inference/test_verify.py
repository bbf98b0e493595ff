"""What `verify` finds: each way to spoil a good folder, the sentence, and the engines in which it goes wrong."""

from __future__ import annotations

import json
import shutil
import struct
import time

import gguf
import pytest

from inference.checks.gguf_file import TYPE_SIZES
from inference.convert import convert
from inference.gguf import read_gguf
from inference.manifest import Manifest, check_sha256, record_file, write_manifest
from inference.to_gguf import write_gguf
from inference.verify import check_model
from tests.internlm2_models import Form, write_model, write_safetensors

pytestmark = pytest.mark.unit
SERVERS = ("tgi", "lmdeploy")
ALL = (*SERVERS, "llamacpp")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_model(folder / "source", Form(shards=2, has_bias=True))
    convert(folder / "source", folder / "llama", lambda news: None)
    write_gguf(folder / "source", folder / "model.gguf", "F16", lambda news: None)
    return folder


@pytest.fixture
def llama(good, tmp_path):
    return shutil.copytree(good / "llama", tmp_path / "llama")


@pytest.fixture
def source(good, tmp_path):
    return shutil.copytree(good / "source", tmp_path / "source")


@pytest.fixture
def model_file(good, tmp_path):
    return shutil.copy(good / "model.gguf", tmp_path / "model.gguf")


def change(path, **changes):
    """Change a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def only(path):
    """The one problem that there is."""
    problems = check_model(path)
    assert len(problems) == 1, problems
    return problems[0]


def test_good_models_have_no_problem_and_originals_a_note(good):
    assert check_model(good / "llama") == []
    assert check_model(good / "model.gguf") == []
    note = only(good / "source")
    assert not note.is_fatal
    assert note.engines == SERVERS
    assert "python -m inference convert" in note.message


SETTINGS = [
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "TGI ignores rope_scaling of the type linear", ("tgi",)),
    ({"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "type 'su', which TGI refuses", ("tgi",)),
    (
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "TGI then takes 10000 and no scaling",
        ("tgi",),
    ),
    ({"attention_bias": False}, "has biases, but config.json says attention_bias false", ALL),
    ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map", ("tgi",)),
    ({"architectures": ["InternLM2ForCausalLM"]}, "architectures is", SERVERS),
    ({"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is missing", ALL),
    ({"vocab_size": 500}, "has the shape [292, 128], but by config.json it should have [500, 128]", ALL),
    ({"model_type": "gpt2"}, "model_type is 'gpt2'", ALL),
    ({"hidden_size": "many"}, "hidden_size must be a whole number", ALL),
    ({"num_key_value_heads": 5}, "cannot be divided by num_key_value_heads 5", ALL),
]


@pytest.mark.parametrize(("changes", "part", "engines"), SETTINGS, ids=[case[1][:40] for case in SETTINGS])
def test_a_config_that_goes_wrong_somewhere_is_named(llama, changes, part, engines):
    change(llama / "config.json", **changes)
    found = [problem for problem in check_model(llama) if part in problem.message]
    assert found, check_model(llama)
    assert found[0].is_fatal
    assert found[0].engines == engines


OTHERS = [
    ("generation_config.json", {"eos_token_id": 2}, "no list: TGI then ignores the file", ("tgi",)),
    ("generation_config.json", {"eos_token_id": [2]}, "lacks 290, the id of <|im_end|>", SERVERS),
    ("generation_config.json", {"eos_token_id": [2, 290, 9999]}, "9999, which is no token", SERVERS),
    ("tokenizer_config.json", {"chat_template": None}, "There is no chat template", SERVERS),
    ("tokenizer_config.json", {"chat_template": "{% for %}"}, "The chat template is wrong", SERVERS),
    ("tokenizer_config.json", {"chat_template": "{{ bos_token }}[UNUSED_TOKEN_146]"}, "old names", SERVERS),
    ("tokenizer_config.json", {"chat_template": 5}, "chat_template must be a text", SERVERS),
    ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"}, "only PreTrainedTokenizerFast", SERVERS),
    ("tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"}, "does not load in TGI", ("tgi",)),
    ("tokenizer_config.json", {"auto_map": {}}, "auto_map", ("tgi",)),
    ("tokenizer.json", {"model": {"vocab": {"a": 292}}}, "gives ids up to 292", SERVERS),
    ("tokenizer.json", {"model": None}, "holds no vocabulary", SERVERS),
]


@pytest.mark.parametrize(("name", "changes", "part", "engines"), OTHERS, ids=[case[2][:40] for case in OTHERS])
def test_small_files_that_go_wrong_somewhere_are_named(llama, name, changes, part, engines):
    change(llama / name, **changes)
    found = [problem for problem in check_model(llama) if part in problem.message]
    assert found, check_model(llama)
    assert found[0].is_fatal
    assert found[0].engines == engines


NOTES = [
    ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}, "spaces before punctuation are lost"),
    ("tokenizer_config.json", {"model_max_length": 10}, "model_max_length 10 is below"),
    ("tokenizer_config.json", {"chat_template": "{{ messages }}"}, "does not write bos_token"),
    ("config.json", {"torch_dtype": "float16"}, "torch_dtype is float16, but the weights are bfloat16"),
    ("config.json", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "Dynamic scaling acts beyond 64"),
]


@pytest.mark.parametrize(("name", "changes", "part"), NOTES, ids=[case[2] for case in NOTES])
def test_what_is_worth_knowing_is_a_note(llama, name, changes, part):
    change(llama / name, **changes)
    problem = only(llama)
    assert part in problem.message
    assert not problem.is_fatal


def test_a_template_that_tgi_never_reads_is_named(llama):
    change(llama / "tokenizer_config.json", chat_template=None)
    (llama / "chat_template.jinja").write_text("{{ bos_token }}hi")
    problem = only(llama)
    assert "chat_template.jinja only, which TGI never reads" in problem.message
    assert problem.engines == ("tgi",)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"[]", b"{", b"version https://git-lfs.github.com/spec"])
def test_a_small_file_that_is_missing_or_damaged_is_named(llama, name, content):
    (llama / name).unlink()
    if content is not None:
        (llama / name).write_bytes(content)
    assert any(problem.file.name == name and problem.is_fatal for problem in check_model(llama))


def test_special_tool_markers_are_noted(llama):
    content = json.loads((llama / "tokenizer.json").read_text())
    content["added_tokens"][-1] |= {"content": "<|plugin|>", "special": True}
    (llama / "tokenizer.json").write_text(json.dumps(content))
    assert any("<|plugin|> are special, so TGI hides them" in problem.message for problem in check_model(llama))


def test_missing_cut_and_unpulled_shards_are_named(llama):
    first, second = sorted(llama.glob("*.safetensors"))
    content = second.read_bytes()
    for damaged, part in (
        (content[:-10], "is cut short"),
        (content[:20], "cut short within its head"),
        (content + b"x", "1 bytes too many"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "only a Git LFS pointer"),
        (b"", "is empty"),
    ):
        second.write_bytes(damaged)
        problem = only(llama)
        assert (problem.file, problem.engines, problem.is_fatal) == (second, ALL, True)
        assert part in problem.message
    second.unlink()
    problem = only(llama)
    assert (problem.file, problem.message) == (second, "This file is missing. Fetch or copy it.")
    first.unlink()
    assert len([problem for problem in check_model(llama) if "is missing" in problem.message]) == 2


def test_missing_doubled_and_foreign_tensors_are_named(tmp_path, llama):
    (llama / "model.safetensors.index.json").unlink()
    shutil.copy(llama / "model-00002-of-00002.safetensors", llama / "zcopy.safetensors")
    assert all("is also in model-00002-of-00002.safetensors" in problem.message for problem in check_model(llama))
    (llama / "zcopy.safetensors").unlink()
    weights = write_model(tmp_path / "source", Form())
    del weights["model.layers.1.ffn_norm.weight"]
    weights["v_head.weight"] = weights["model.norm.weight"]
    write_safetensors(tmp_path / "source" / "model.safetensors", weights, "BF16")
    found = [problem for problem in check_model(tmp_path / "source") if problem.is_fatal]
    assert "reward model" in found[0].message
    assert "'model.layers.1.ffn_norm.weight' is missing" in found[1].message


def test_a_file_beside_the_index_is_what_tgi_loads_too(llama):
    shutil.copy(llama / "model-00002-of-00002.safetensors", llama / "old.safetensors")
    problem = only(llama)
    assert (problem.file.name, problem.engines, problem.is_fatal) == ("old.safetensors", ("tgi",), True)
    write_safetensors(llama / "old.safetensors", {}, "BF16")
    assert not only(llama).is_fatal
    (llama / "old.safetensors").write_bytes(b"half")
    assert "cut short" in only(llama).message


def test_an_index_that_names_a_tensor_in_vain_is_named(llama):
    path = llama / "model.safetensors.index.json"
    listed = json.loads(path.read_text())["weight_map"]
    change(path, weight_map=listed | {"model.layers.7.x.weight": "model-00001-of-00002.safetensors"})
    assert "names 'model.layers.7.x.weight', which is in none of the files" in only(llama).message
    path.write_text("{")
    assert any("cannot be read as an index" in problem.message for problem in check_model(llama))


def test_a_name_that_tgi_skips_is_named(llama):
    (llama / "model.safetensors.index.json").unlink()
    write_model(llama / "x", Form())
    for number, path in enumerate(sorted(llama.glob("*.safetensors"))):
        path.rename(llama / f"pretraining_{number}.safetensors")
    assert any(problem.is_fatal for problem in check_model(llama))


def test_an_interrupted_conversion_says_so(source, tmp_path, reports):
    convert(source, tmp_path / "new", reports)
    (tmp_path / "new" / "config.json").unlink()
    record = json.loads((tmp_path / "new" / ".conversion.json").read_text())
    (tmp_path / "new" / ".conversion.json").write_text(json.dumps(record | {"is_complete": False}))
    assert "A conversion to it was interrupted" in check_model(tmp_path / "new")[0].message


def test_a_source_without_its_tokenizer_cannot_be_converted(source):
    (source / "tokenizer.model").unlink()
    found = [problem for problem in check_model(source) if problem.is_fatal]
    assert [problem.file.name for problem in found] == ["tokenizer.model"]


def test_torch_files_in_llamas_layout_are_noted(llama, tmp_path):
    write_model(tmp_path / "bins", Form(kind="bin"))
    for path in llama.glob("*.safetensors*"):
        path.unlink()
    (llama / "pytorch_model.bin").write_bytes((tmp_path / "bins" / "pytorch_model.bin").read_bytes())
    assert any("only .bin files" in problem.message and not problem.is_fatal for problem in check_model(llama))


def test_a_manifest_is_compared(llama):
    path = llama / "model-00001-of-00002.safetensors"
    record = record_file(path, "0" * 64)
    write_manifest(llama, Manifest("here", (record,)))
    assert check_model(llama) == []  # not touched since it was recorded
    path.touch()
    assert "has the SHA-256" in only(llama).message
    with pytest.raises(Exception, match="SHA-256"):
        check_sha256(path, "0" * 64, lambda done: None)


def test_nothing_and_something_else_are_named(tmp_path):
    assert "no such file or folder" in only(tmp_path / "nothing").message
    (tmp_path / "empty").mkdir()
    assert {problem.file.name for problem in check_model(tmp_path / "empty")} == {"config.json", "empty"}
    (tmp_path / "text.txt").write_text("hello")
    assert "not a GGUF file" in only(tmp_path / "text.txt").message
    assert "There is no model file" in only(tmp_path / "nothing.gguf").message


def test_gguf_files_that_are_cut_are_named(model_file):
    whole = model_file.read_bytes()
    for size in (*range(0, 300, 7), len(whole) // 4, len(whole) // 2, len(whole) - 40):
        model_file.write_bytes(whole[:size])
        problems = check_model(model_file)
        assert problems
        assert all(problem.engines == ("llamacpp",) for problem in problems)
        assert any(problem.is_fatal for problem in problems)


def test_gguf_files_with_a_missing_tensor_or_tokens_are_named(model_file):
    whole = model_file.read_bytes()
    model_file.write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    assert "'blk.1.ffn_up.weight' is missing" in only(model_file).message
    model_file.write_bytes(whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
    assert "holds no tokenizer" in only(model_file).message
    model_file.write_bytes(whole.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatz"))
    assert "no chat template" in only(model_file).message
    start = whole.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    count = struct.unpack_from("<Q", whole, start)[0]
    assert count == 292


def test_a_folder_of_gguf_files_is_looked_through(model_file, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(model_file, folder / "a.gguf")
    assert check_model(folder) == []
    (folder / "b.gguf").write_bytes(b"GGUF")
    assert only(folder).file.name == "b.gguf"


def test_a_part_of_a_split_gguf_that_is_missing_is_named(tmp_path, gguf_bytes, llama_head):
    path = tmp_path / "m-00001-of-00003.gguf"
    path.write_bytes(gguf_bytes(llama_head | {"split.count": 3, "split.no": 0, "tokenizer.ggml.model": "llama"}))
    (tmp_path / "m-00003-of-00003.gguf").write_bytes(b"x")
    names = [problem.file.name for problem in check_model(path) if problem.is_fatal]
    assert names == ["m-00002-of-00003.gguf"]


def test_sizes_of_types_are_those_of_the_package():
    ours = {gguf.GGMLQuantizationType(number): sizes for number, sizes in TYPE_SIZES.items()}
    theirs = {kind: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items() if kind in ours}
    assert theirs == ours


def test_a_head_read_by_us_is_the_head_read_by_the_package(model_file):
    ours, theirs = read_gguf(model_file), gguf.GGUFReader(model_file)
    assert {tensor.name: (tensor.shape, tensor.kind) for tensor in ours.tensors} == {
        tensor.name: (tuple(tensor.shape.tolist()), tensor.tensor_type) for tensor in theirs.tensors
    }
    assert ours.data_start == theirs.data_offset


def test_large_files_are_looked_at_in_no_time(tmp_path):
    """Heads only: a sparse file of 20 GB."""
    path = tmp_path / "model.safetensors"
    size = 20_000_000_000
    head = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        out.truncate(8 + len(head) + size)
    begun = time.monotonic()
    assert check_model(tmp_path)
    assert time.monotonic() - begun < 2
