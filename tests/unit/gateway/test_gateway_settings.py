"""Settings: defaults that fit, and one sentence that names the variable for each value that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from gateway.settings import Places, Settings, SettingsError, UpstreamAddress
from gateway.wire import Address

pytestmark = pytest.mark.unit
ROOT = Path("/checkout")
GOOD = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:8080"}


def test_one_variable_is_enough() -> None:
    settings = Settings.from_env(GOOD, ROOT)
    assert settings.upstreams == (UpstreamAddress("llamacpp", "http://127.0.0.1:8080", None),)
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8000, ROOT / "data")
    assert settings.database == f"sqlite:///{ROOT}/data/gateway.sqlite3"


def test_empty_values_mean_the_defaults() -> None:
    names = ("DATA_DIR", "MODEL", "HOST", "PORT", "GATEWAY_SLOTS", "GATEWAY_MODEL_TITLE", "GATEWAY_UPSTREAM_KEYS")
    assert Settings.from_env(GOOD | dict.fromkeys(names, ""), ROOT) == Settings.from_env(GOOD, ROOT)


def test_a_path_may_start_at_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = GOOD | {"DATA_DIR": "~/data", "GATEWAY_METRICS_TOKEN_FILE": "~/token"}
    settings, places = Settings.from_env(environ, ROOT), Places.from_env(environ, ROOT)
    assert (settings.data_dir, settings.metrics_token_file) == (tmp_path / "data", tmp_path / "token")
    assert settings.webui_key_file == places.webui_key_file == tmp_path / "data" / "webui.key"
    assert (places.data_dir, settings.database) == (tmp_path / "data", places.database)


def test_everything_set() -> None:
    environ = {
        "GATEWAY_UPSTREAMS": " llamacpp=unix:/run/x.sock ",
        "GATEWAY_UPSTREAM_KEYS": "llamacpp=se=cret",
        "DATA_DIR": "/data",
        "PORT": "0",
        "GATEWAY_SLOTS": "7",
        "GATEWAY_MAX_WAIT_S": "0.5",
        "GATEWAY_DRAIN_TIMEOUT_S": "0",
    }
    settings = Settings.from_env(environ, ROOT)
    assert settings.upstreams == (UpstreamAddress("llamacpp", "unix:/run/x.sock", "se=cret"),)
    assert settings.data_dir == Path("/data")
    assert (settings.slots, settings.max_wait_s, settings.timeouts.drain_s) == (7, 0.5, 0)
    assert "se=cret" not in repr(settings)


BAD = [
    ("PORT", "x"),
    ("PORT", "70000"),
    ("PORT", "-1"),
    ("PORT", "80.5"),
    *[
        (name, value)
        for name in (
            "GATEWAY_CONTEXT_TOKENS",
            "GATEWAY_SLOTS",
            "GATEWAY_MAX_WAITING",
            "GATEWAY_MAX_WAIT_S",
            "GATEWAY_MAX_BODY_BYTES",
            "GATEWAY_KEY_RPM",
            "GATEWAY_KEY_TPM",
            "GATEWAY_KEY_TPD",
            "GATEWAY_KEY_STREAMS",
            "GATEWAY_USER_RPM",
            "GATEWAY_USER_TPM",
            "GATEWAY_USER_TPD",
            "GATEWAY_USER_STREAMS",
            "GATEWAY_ALL_USERS_RPM",
            "GATEWAY_ADDRESS_RPM",
            "GATEWAY_CONNECT_TIMEOUT_S",
            "GATEWAY_FIRST_TOKEN_TIMEOUT_S",
            "GATEWAY_BETWEEN_TOKENS_TIMEOUT_S",
            "GATEWAY_TURN_TIMEOUT_S",
            "GATEWAY_DRAIN_TIMEOUT_S",
        )
        for value in ("many", "-1", "nan", "inf", "1e99")
    ],
    ("GATEWAY_UPSTREAMS", ""),
    ("GATEWAY_UPSTREAMS", "http://127.0.0.1:8080"),
    ("GATEWAY_UPSTREAMS", "llamacpp"),
    ("GATEWAY_UPSTREAMS", "llamacpp="),
    ("GATEWAY_UPSTREAMS", "vllm=http://x"),
    ("GATEWAY_UPSTREAMS", "llamacpp=ftp://x"),
    ("GATEWAY_UPSTREAMS", "llamacpp=unix:relative.sock"),
    ("GATEWAY_UPSTREAMS", "llamacpp=http://"),
    ("GATEWAY_UPSTREAMS", "llamacpp=http://:80"),
    ("GATEWAY_UPSTREAMS", "llamacpp=http://x:99999"),
    ("GATEWAY_UPSTREAMS", "llamacpp=http://x:port"),
    ("GATEWAY_UPSTREAMS", "llamacpp=http://[::1"),
    ("GATEWAY_UPSTREAMS", "llamacpp=http://x/a b"),
    ("REDIS_URL", "127.0.0.1:6379"),
    ("REDIS_URL", "http://127.0.0.1:6379"),
    ("REDIS_URL", "redis://"),
    ("REDIS_URL", "redis://x:port"),
    ("REDIS_URL", "redis://[::1"),
    ("GATEWAY_LIMITS_WITHOUT_REDIS", "perhaps"),
    ("GATEWAY_UPSTREAM_KEYS", "secret"),
    ("GATEWAY_UPSTREAM_KEYS", "vllm=secret"),
    ("GATEWAY_UPSTREAM_KEYS", "llamacpp=se cret"),
    ("GATEWAY_UPSTREAM_KEYS", "llamacpp=schlüssel"),
    ("GATEWAY_UPSTREAM_KEYS", "llamacpp=se\r\ncret"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(GOOD | {name: value}, ROOT)
    message = str(refused.value)
    assert message.startswith(name)
    assert "\n" not in message
    if name == "GATEWAY_UPSTREAM_KEYS":
        assert value not in message  # a secret, perhaps only mistyped


@pytest.mark.parametrize(
    ("url", "host", "port", "named"),
    [
        ("http://h", "h", 80, "h"),
        ("http://h:8080/pre/", "h", 8080, "h:8080"),
        ("https://h", "h", 443, "h"),
        ("http://[::1]:80", "::1", 80, "[::1]"),
        ("http://[::1]:81", "::1", 81, "[::1]:81"),
        ("unix:/run/x.sock", "localhost", 0, "localhost"),
    ],
)
def test_addresses(url: str, host: str, port: int, named: str) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.authority) == (host, port, named)
    assert address.prefix == ("/pre" if "pre" in url else "")
    assert (address.tls is not None) == url.startswith("https")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("", f"sqlite:///{ROOT}/data/gateway.sqlite3"),
        ("sqlite:///history.db", f"sqlite:///{ROOT}/history.db"),
        ("sqlite:////var/lib/history.db", "sqlite:////var/lib/history.db"),
        ("postgresql://u:p%40@db:5433/stack?sslmode=require", "postgresql://u:p%40@db:5433/stack?sslmode=require"),
        ("postgres://u@db/stack", "postgresql://u@db/stack"),
        ("postgresql+psycopg:///stack?host=/run/postgresql", "postgresql:///stack?host=/run/postgresql"),
    ],
)
def test_where_the_history_is(given: str, meant: str) -> None:
    environ = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:8080", "DATABASE_URL": given}
    settings = Settings.from_env(environ, ROOT)
    assert settings.database == Places.from_env(environ, ROOT).database == meant
    assert "p%40" not in repr(settings)


@pytest.mark.parametrize(
    "given",
    [
        "mysql://u:secret@db/stack",
        "postgresql:/u:secret@db/stack",
        "postgresql://u:secret@db",
        "postgresql://u:secret@db:port/stack",
        "postgresql://u:secret#1@db/stack",
        "sqlite:///",
        "secret",
    ],
)
def test_a_database_url_that_is_none_is_refused_without_showing_it(given: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Places.from_env({"DATABASE_URL": given}, ROOT)
    assert "DATABASE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgresql://u@db:5433/x?sslmode=require", "postgresql://u:p%40%2F%23%25%20%C3%A9@db:5433/x?sslmode=require"),
        ("postgres://u%40h@[::1]/x", "postgresql://u%40h:p%40%2F%23%25%20%C3%A9@[::1]/x"),
        ("postgresql://u@h@db/x", "postgresql://u@h:p%40%2F%23%25%20%C3%A9@db/x"),
        ("postgresql://u:own@db/x", "postgresql://u:own@db/x"),
        ("postgresql://u:@db/x", "postgresql://u:@db/x"),
        ("postgresql://u@db/x?password=own", "postgresql://u@db/x?password=own"),
        ("postgresql:///x?host=/run/postgresql", "postgresql:///x?host=/run/postgresql"),
        ("sqlite:////x.db", "sqlite:////x.db"),
    ],
)
def test_a_password_is_read_from_a_file_where_the_url_has_a_user_and_none(
    given: str, meant: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("p@/#% é\n")
    environ = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:8080", "DATABASE_PASSWORD_FILE": "key"}
    places = Places.from_env(environ | {"DATABASE_URL": given}, tmp_path)
    assert places.database == Settings.from_env(environ | {"DATABASE_URL": given}, tmp_path).database == meant
    assert "p%40" not in repr(places)
    password = make_url(meant).password if meant.startswith("postgresql") else None
    assert password in ("p@/#% é", "own", "", None), "as SQLAlchemy reads it"


def test_a_password_file_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "empty").write_text("\n")
    for name, words in {"bytes": "it is no text", "empty": "is empty", "none": "No such file or directory"}.items():
        environ = {"DATABASE_URL": "postgresql://u@db/x", "DATABASE_PASSWORD_FILE": name}
        with pytest.raises(SettingsError, match=f"DATABASE_PASSWORD_FILE={name} .*{words}"):
            Places.from_env(environ, tmp_path)
        assert Places.from_env(environ | {"DATABASE_URL": "postgresql://u:own@db/x"}, tmp_path).is_elsewhere
