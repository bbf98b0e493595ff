"""Addresses and tokens of hubs: where they come from, and that nothing shows them."""

import pytest

from inference.accounts import Account, Hubs, Secret, redact
from inference.errors import SettingsError
from inference.settings import Settings, child_environment, read_sources
from inference.sources.git_url import git_remote

pytestmark = pytest.mark.unit
HF = "hf_" + "a1B2c3D4e5" * 4


def test_a_token_comes_from_its_variable_or_from_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert Hubs.from_env({"HF_TOKEN": "from-variable"}).huggingface.token == Secret("from-variable")
    assert Hubs.from_env({"OPENXLAB_TOKEN_FILE": str(file)}).openxlab.token == Secret("from-file")
    both = {"MODELSCOPE_API_TOKEN": "from-variable", "MODELSCOPE_API_TOKEN_FILE": str(file)}
    assert Hubs.from_env(both).modelscope.token == Secret("from-variable")
    assert Hubs.from_env({}).git == Account()


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"HF_TOKEN_FILE": "/none"}, "HF_TOKEN_FILE names /none"),
        ({"OPENXLAB_TOKEN": "two words"}, "OPENXLAB_TOKEN holds a space"),
        ({"HF_HUB_OFFLINE": "nonsense"}, "HF_HUB_OFFLINE must be true or false"),
        ({"HF_ENDPOINT": "hf-mirror.com"}, "HF_ENDPOINT must be an address"),
        ({"HF_ENDPOINT": "https://me:secret@hf-mirror.com"}, "must not hold a name or a token"),
    ],
)
def test_what_cannot_be_used_names_the_variable(environ, part):
    with pytest.raises(SettingsError) as caught:
        Hubs.from_env(environ)
    assert part in caught.value.message
    assert "secret" not in caught.value.message
    assert "two words" not in caught.value.message


def test_hugging_face_is_left_out_by_the_words_of_its_own_package():
    assert all(Hubs.from_env({"HF_HUB_OFFLINE": word}).is_offline for word in ("1", "true", "YES", "On"))
    assert not any(Hubs.from_env({"HF_HUB_OFFLINE": word}).is_offline for word in ("", "0", "false", "no", "off"))


def test_an_empty_token_file_is_named(tmp_path):
    (tmp_path / "token").write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        Hubs.from_env({"INFERENCE_GIT_TOKEN_FILE": str(tmp_path / "token")})


def test_a_secret_is_in_no_representation(tmp_path):
    settings = Settings.from_env({"HF_TOKEN": "canary-1", "INFERENCE_GIT_TOKEN": "canary-2"}, tmp_path)
    assert "canary" not in f"{settings!r} {settings} {settings.hubs.secrets()} {settings.hubs.git.token}"


def test_no_other_child_gets_a_token(monkeypatch):
    for name in ("HF_TOKEN", "OPENXLAB_TOKEN", "MODELSCOPE_API_TOKEN", "INFERENCE_GIT_TOKEN"):
        monkeypatch.setenv(name, "canary")
    assert "canary" not in child_environment().values()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:abc@host/x", "at https://***@host/x"),
        (f"header {HF} end", "header *** end"),
        ("the canary here", "the *** here"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_is_secret_is_taken_out(text, shown):
    assert redact(text, [Secret("canary"), None]) == shown


@pytest.mark.parametrize(
    ("pasted", "url", "origin"),
    [
        ("https://code.openxlab.org.cn//me/model.git", "https://code.openxlab.org.cn/me/model.git", None),
        (" https://host:8443/a///b.git/ ", "https://host:8443/a/b.git", "https://host:8443"),
        ("git@code.openxlab.org.cn:me/model.git", "git@code.openxlab.org.cn:me/model.git", ""),
        ("ssh://git@host//me/model.git", "ssh://git@host//me/model.git", ""),
        ("file:///srv/model.git", "file:///srv/model.git", ""),
    ],
)
def test_addresses_are_mended_or_left(pasted, url, origin):
    remote = git_remote(pasted, Account("me", Secret("t")))
    assert remote.url == url
    assert remote.origin == ("https://code.openxlab.org.cn" if origin is None else origin)


@pytest.mark.parametrize(
    ("pasted", "account"),
    [
        ("https://you:pass%2Fword@host/x", Account("you", Secret("pass/word"))),
        ("https://you@host/x", Account("you", Secret("t"))),
        (f"https://{HF}@host/x", Account("me", Secret(HF))),
        ("https://host/x", Account("me", Secret("t"))),
    ],
)
def test_credentials_in_an_address_are_taken_out_and_used(pasted, account):
    remote = git_remote(pasted, Account("me", Secret("t")))
    assert remote.account == account
    assert remote.url == "https://host/x"


def test_sources_are_a_list_of_names_and_addresses():
    assert read_sources("S", "") == ("local", "pypi", "modelscope", "huggingface", "openxlab")
    assert read_sources("S", "openxlab, https://host/a.git") == ("openxlab", "https://host/a.git")
    with pytest.raises(SettingsError, match="S names 'hf'"):
        read_sources("S", "hf")
