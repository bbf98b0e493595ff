"""Settings name the variable that is wrong; secrets are made once and kept closed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from webui.errors import KeyMissing, SettingsError
from webui.settings import Settings

pytestmark = pytest.mark.unit


def test_defaults_need_no_environment(tmp_path: Path) -> None:
    settings = Settings.from_env({}, tmp_path)
    assert settings.gateway_url == "http://127.0.0.1:8000"
    assert settings.api_key_file == tmp_path / "data" / "webui.key"
    assert settings.secret_file == tmp_path / "data" / "webui.secret"


def test_proxies_are_trusted_only_when_they_are_counted(tmp_path: Path) -> None:
    assert Settings.from_env({}, tmp_path).trusted_proxy_hops == 0
    assert Settings.from_env({"WEBUI_TRUSTED_PROXY_HOPS": "2"}, tmp_path).trusted_proxy_hops == 2


def test_data_dir_moves_both_files_and_each_can_be_named(tmp_path: Path) -> None:
    settings = Settings.from_env({"DATA_DIR": "elsewhere", "WEBUI_API_KEY_FILE": "/run/key"}, tmp_path)
    assert settings.secret_file == tmp_path / "elsewhere" / "webui.secret"
    assert settings.api_key_file == Path("/run/key")


def test_a_path_may_start_at_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = Settings.from_env({"DATA_DIR": "~/data", "WEBUI_USERS_FILE": "~/people"}, tmp_path)
    assert settings.api_key_file == tmp_path / "home" / "data" / "webui.key"
    assert settings.secret_file == tmp_path / "home" / "data" / "webui.secret"
    assert settings.users_file == tmp_path / "home" / "people"


def test_sites_that_may_frame_stand_between_commas_or_spaces(tmp_path: Path) -> None:
    for value in ("https://a https://b", "https://a,https://b", "https://a, https://b"):
        assert Settings.from_env({"WEBUI_FRAME_ANCESTORS": value}, tmp_path).frame_ancestors == (
            "https://a",
            "https://b",
        )
    with pytest.raises(SettingsError, match="commas or spaces"):
        Settings.from_env({"WEBUI_FRAME_ANCESTORS": "https://a; https://b"}, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBUI_GATEWAY_URL", "127.0.0.1:8000"),
        ("WEBUI_GATEWAY_URL", "ftp://gateway"),
        ("WEBUI_FRAME_ANCESTORS", "https://a; script-src *"),
        ("WEBUI_STREAM_IDLE_TIMEOUT_S", "soon"),
        ("WEBUI_STREAM_IDLE_TIMEOUT_S", "-1"),
        ("WEBUI_SECRET", "short"),
        ("WEBUI_SECRET", "long" * 8 + " short"),
        ("WEBUI_KEEPS_CHATS", "perhaps"),
        ("WEBUI_STREAM_IDLE_TIMEOUT_S", "86401"),
        ("WEBUI_GONE_TIMEOUT_S", "1e9"),
        ("WEBUI_GONE_TIMEOUT_S", "inf"),
        ("WEBUI_TRUSTED_PROXY_HOPS", "-1"),
        ("WEBUI_TRUSTED_PROXY_HOPS", "one"),
        ("WEBUI_TRUSTED_PROXY_HOPS", "100"),
        ("WEBUI_TRUSTED_PROXY_HOPS", "²"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value}, tmp_path)


def test_the_key_is_read_when_it_is_needed(tmp_path: Path) -> None:
    settings = Settings.from_env({"DATA_DIR": str(tmp_path)}, tmp_path)
    with pytest.raises(KeyMissing, match="WEBUI_API_KEY_FILE"):
        settings.read_api_key()
    (tmp_path / "webui.key").write_text("sk-1\n")
    assert settings.read_api_key() == "sk-1"
    (tmp_path / "webui.key").write_text("sk-2\n")
    assert settings.read_api_key() == "sk-2"


def test_the_secret_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    settings = Settings.from_env({"DATA_DIR": str(tmp_path / "new")}, tmp_path)
    secret = settings.load_secrets()
    assert len(secret[0]) >= 32
    assert settings.load_secrets() == secret
    assert stat.S_IMODE(settings.secret_file.stat().st_mode) == 0o600


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "webui.secret").write_text("short")
    with pytest.raises(SettingsError, match="WEBUI_SECRET_FILE"):
        Settings.from_env({"DATA_DIR": str(tmp_path)}, tmp_path).load_secrets()


def test_the_secret_may_come_from_the_environment_and_then_no_file_is_made(tmp_path: Path) -> None:
    given = {"DATA_DIR": str(tmp_path), "WEBUI_SECRET": f"{'n' * 32} {'o' * 40}"}
    settings = Settings.from_env(given, tmp_path)
    assert settings.load_secrets() == [b"n" * 32, b"o" * 40]
    assert list(tmp_path.iterdir()) == []
    assert "nnn" not in repr(settings)
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"WEBUI_SECRET": "hunter2"}, tmp_path)
    assert "hunter2" not in str(refused.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="WEBUI_SECRET_FILE"):
        Settings.from_env({"DATA_DIR": str(tmp_path / "file" / "data")}, tmp_path).load_secrets()


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    assert "sk-1" not in repr(Settings(api_key="sk-1", secret=b"sk-1"))


def test_each_line_is_a_secret_so_that_they_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "webui.secret").write_text("n" * 32 + "\n" + "o" * 40 + "\n")
    assert Settings.from_env({"DATA_DIR": str(tmp_path)}, tmp_path).load_secrets() == [b"n" * 32, b"o" * 40]
    (tmp_path / "webui.secret").write_text("n" * 32 + "\nshort\n")
    with pytest.raises(SettingsError, match="WEBUI_SECRET_FILE"):
        Settings.from_env({"DATA_DIR": str(tmp_path)}, tmp_path).load_secrets()


OIDC = {"WEBUI_OIDC_ISSUER": "https://login.example.org", "WEBUI_OIDC_CLIENT_ID": "chat"}


@pytest.mark.parametrize(
    "given",
    [
        {"WEBUI_ROOT_PATH": "chat"},
        {"WEBUI_ROOT_PATH": "/a/../b"},
        {"WEBUI_ROOT_PATH": "//evil"},
        {"WEBUI_ROOT_PATH": "ftp://a/b"},
        {"WEBUI_ANONYMOUS": "maybe"},
        {"WEBUI_OWN_KEYS": "yes"},
        {"WEBUI_PERSON_DAYS": "0"},
        {"WEBUI_LOGIN_DAYS": "4000"},
        {"WEBUI_LOGIN_DAYS": "x"},
        {"WEBUI_OIDC_ISSUER": "login.example.org"},
        {**OIDC, "WEBUI_OIDC_ISSUER": "http://login.example.org"},
        {"WEBUI_OIDC_CLIENT_ID": "", "WEBUI_OIDC_ISSUER": "https://login.example.org"},
        {**OIDC, "WEBUI_OIDC_SCOPES": "profile"},
        {**OIDC, "WEBUI_OIDC_CLIENT_SECRET_FILE": "nothing-there"},
    ],
    ids=str,
)
def test_a_wrong_setting_of_people_is_named(given: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^WEBUI_"):
        Settings.from_env(given, tmp_path)


def test_the_providers_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "oidc.secret").write_text("hush\n")
    given = {**OIDC, "WEBUI_OIDC_CLIENT_SECRET_FILE": "oidc.secret", "WEBUI_OIDC_NAME": "Example"}
    settings = Settings.from_env(given, tmp_path)
    assert settings.oidc.client_secret == "hush"
    assert settings.oidc.name == "Example"
    assert "hush" not in repr(settings)


def test_anonymous_people_may_chat_until_there_is_a_login(tmp_path: Path) -> None:
    def of(**given: str) -> Settings:
        return Settings.from_env({"DATA_DIR": str(tmp_path), **given}, tmp_path)

    assert of().allows_anonymous
    assert not of(**OIDC).allows_anonymous
    assert of(**OIDC, WEBUI_ANONYMOUS="yes").allows_anonymous
    with pytest.raises(SettingsError, match="users add"):
        of(WEBUI_ANONYMOUS="no").allows_anonymous  # noqa: B018
    (tmp_path / "webui.users").write_text("")
    assert not of().allows_anonymous
