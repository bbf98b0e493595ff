"""The parts of publishing that touch no network: where to, what, .gitattributes and the card."""

import json

import pytest

from inference.accounts import Account, Hubs, Secret
from inference.errors import SettingsError, UploadError
from inference.publishing.card import gitattributes, model_card
from inference.publishing.contents import read_contents
from inference.publishing.target import parse_target

pytestmark = pytest.mark.unit
HUBS = Hubs(openxlab=Account("me", Secret("t")), modelscope=Account("oauth2", Secret("m")))


@pytest.mark.parametrize(
    ("to", "title", "token_name"),
    [
        ("openxlab:me/model", "https://code.openxlab.org.cn/me/model.git", "OPENXLAB_TOKEN"),
        ("modelscope:me/model", "https://www.modelscope.cn/me/model.git", "MODELSCOPE_API_TOKEN"),
        ("hf:me/model", "https://huggingface.co/me/model", "HF_TOKEN"),
        ("https://code.openxlab.org.cn//me/m.git", "https://code.openxlab.org.cn/me/m.git", "OPENXLAB_TOKEN"),
        ("https://git.example.org/me/m.git", "https://git.example.org/me/m.git", "INFERENCE_GIT_TOKEN"),
        ("git@git.example.org:me/m.git", "git@git.example.org:me/m.git", "INFERENCE_GIT_TOKEN"),
    ],
)
def test_places_have_an_address_and_the_variable_of_their_token(to, title, token_name):
    target = parse_target(to, HUBS)
    assert target.title == title
    assert target.token_name.startswith(token_name)


def test_a_known_host_gets_its_own_account_and_others_do_not():
    assert parse_target("https://code.openxlab.org.cn//me/m.git", HUBS).account == HUBS.openxlab
    assert parse_target("https://git.example.org/me/m.git", HUBS).account == Account()


def test_a_token_is_asked_for_only_where_one_helps():
    assert not parse_target("openxlab:me/model", HUBS).wants_token
    assert parse_target("openxlab:me/model", Hubs()).wants_token
    assert not parse_target("git@git.example.org:me/m.git", Hubs()).wants_token
    typed = parse_target("openxlab:me/model", Hubs()).with_token(Secret("typed"))
    assert typed.git is not None
    assert typed.git.account.token == Secret("typed")


@pytest.mark.parametrize("to", ["openxlab:model", "hf:", "hf:a/b/c", "somewhere", "", "openxlab:../x"])
def test_other_places_are_refused_with_the_forms_that_there_are(to):
    with pytest.raises(SettingsError, match=r"USER/REPO"):
        parse_target(to, HUBS)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internlm2", "num_hidden_layers": 2}))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    return tmp_path


def test_links_to_files_are_followed_and_links_to_folders_are_not(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("cache")
    (elsewhere / "blob").write_bytes(b"x")
    (folder / "tokenizer.model").symlink_to(elsewhere / "blob")
    (folder / "linked").symlink_to(elsewhere)
    assert set(read_contents(folder, ()).files) == {"config.json", "model.safetensors", "tokenizer.model"}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UploadError, match="nothing to publish"):
        read_contents(tmp_path, ())


def test_binary_files_are_not_searched_for_secrets(folder):
    (folder / "model.bin").write_bytes(b"\0\1\2 my-token")
    assert "model.bin" in read_contents(folder, [Secret("my-token")]).files


def test_large_json_files_get_a_line_of_their_own(folder):
    (folder / "tokenizer.json").write_bytes(b" " * 1_000_000)
    lines = gitattributes(read_contents(folder, ()).files).splitlines()
    assert "*.safetensors filter=lfs diff=lfs merge=lfs -text" in lines
    assert "tokenizer.json filter=lfs diff=lfs merge=lfs -text" in lines
    assert "config.json filter=lfs diff=lfs merge=lfs -text" not in lines


def test_lines_that_are_there_stay_and_none_comes_twice(folder):
    present = "*.md text\n*.safetensors filter=lfs diff=lfs merge=lfs -text"
    made = gitattributes(read_contents(folder, ()).files, present)
    assert made.startswith(present + "\n")
    assert made.count("*.safetensors") == 1


def test_the_card_says_what_the_files_say(folder):
    card = model_card("my-model", read_contents(folder, ()).files)
    assert card.startswith("---\nlicense: other\n")
    assert "layers 2" in card
    assert "中文" in card
    assert "MODEL=/path/to/my-model make run" in card
