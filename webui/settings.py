"""The web UI's settings: read once from the environment, frozen, passed down."""

from __future__ import annotations

import math
import os
import re
import secrets
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from webui.errors import KeyMissing, SettingsError

DEFAULT_GATEWAY_URL = "http://127.0.0.1:8000"
DEFAULT_TITLE = "InternLM Chat"
OWN_KEYS = ("no", "allowed", "required")
_SECRET_BYTES = 32
_DAY_S = 24 * 3600
_ROOT_PATH = re.compile(r"(https?://[A-Za-z0-9._:\[\]-]+)?((/[A-Za-z0-9._~-]+)*)/?")


@dataclass(frozen=True)
class Oidc:
    """An OpenID Connect provider that people log in at; without an issuer there is none."""

    issuer: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    name: str = ""
    scopes: str = "openid profile email"


@dataclass(frozen=True)
class Settings:
    """Everything that may differ between two web UIs."""

    gateway_url: str = DEFAULT_GATEWAY_URL
    api_key: str = field(default="", repr=False)
    api_key_file: Path = Path("data/webui.key")
    secret: bytes = field(default=b"", repr=False)  # or several, with spaces between
    secret_file: Path = Path("data/webui.secret")
    title: str = DEFAULT_TITLE
    frame_ancestors: tuple[str, ...] = ()
    trusted_proxy_hops: int = 0
    root_path: str = ""
    users_file: Path = Path("data/webui.users")
    oidc: Oidc = Oidc()
    anonymous: str = ""  # yes, no, or "": yes unless there is a way to log in
    own_keys: str = "no"
    keeps_chats: bool = True
    person_days: int = 365
    login_days: int = 30
    connect_timeout_s: float = 3.0
    request_timeout_s: float = 15.0
    stream_idle_timeout_s: float = 300.0
    gone_timeout_s: float = 30.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str], root: Path) -> Settings:
        """Settings from `environ`; relative paths are taken from `root`, empty values count as missing."""
        given = {name: value.strip() for name, value in environ.items() if value.strip()}
        data_dir = _path(given, "DATA_DIR", root) or root / "data"
        return cls(
            gateway_url=_url("WEBUI_GATEWAY_URL", given.get("WEBUI_GATEWAY_URL", DEFAULT_GATEWAY_URL)),
            api_key=given.get("WEBUI_API_KEY", ""),
            api_key_file=_path(given, "WEBUI_API_KEY_FILE", root) or data_dir / "webui.key",
            secret=_secret("WEBUI_SECRET", given.get("WEBUI_SECRET", "")),
            secret_file=_path(given, "WEBUI_SECRET_FILE", root) or data_dir / "webui.secret",
            title=given.get("WEBUI_TITLE", DEFAULT_TITLE),
            frame_ancestors=_ancestors("WEBUI_FRAME_ANCESTORS", given.get("WEBUI_FRAME_ANCESTORS", "")),
            trusted_proxy_hops=_hops("WEBUI_TRUSTED_PROXY_HOPS", given.get("WEBUI_TRUSTED_PROXY_HOPS", "0")),
            root_path=_root_path("WEBUI_ROOT_PATH", given.get("WEBUI_ROOT_PATH", "")),
            users_file=_path(given, "WEBUI_USERS_FILE", root) or data_dir / "webui.users",
            oidc=_oidc(given, root),
            anonymous=_one_of("WEBUI_ANONYMOUS", given.get("WEBUI_ANONYMOUS", ""), ("", "yes", "no")),
            own_keys=_one_of("WEBUI_OWN_KEYS", given.get("WEBUI_OWN_KEYS", "no"), OWN_KEYS),
            keeps_chats=_one_of("WEBUI_KEEPS_CHATS", given.get("WEBUI_KEEPS_CHATS", "yes"), ("yes", "no")) == "yes",
            person_days=_days("WEBUI_PERSON_DAYS", given, 365),
            login_days=_days("WEBUI_LOGIN_DAYS", given, 30),
            stream_idle_timeout_s=_seconds("WEBUI_STREAM_IDLE_TIMEOUT_S", given, 300.0),
            gone_timeout_s=_seconds("WEBUI_GONE_TIMEOUT_S", given, 30.0),
        )

    def read_api_key(self) -> str:
        """The key for the gateway, read when it is needed: the gateway makes it at its own first start."""
        if self.api_key:
            return self.api_key
        try:
            key = self.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyMissing(f"WEBUI_API_KEY_FILE: cannot read {self.api_key_file.name}: {error!r}") from error
        if not key:
            raise KeyMissing(f"WEBUI_API_KEY_FILE: {self.api_key_file.name} is empty")
        return key

    def load_secrets(self) -> list[bytes]:
        """The secrets for people's tickets, one a line: the first seals, all open. Made where there is no file."""
        return self.secret.split() if self.secret else _load_or_make_secrets(self.secret_file)

    @property
    def has_login(self) -> bool:
        """Whether there is a way to log in."""
        return bool(self.oidc.issuer) or self.users_file.exists()

    @property
    def allows_anonymous(self) -> bool:
        """Whether people may chat who have not logged in. Raises SettingsError when nobody could."""
        if self.anonymous == "no" and not self.has_login:
            raise SettingsError(
                "WEBUI_ANONYMOUS=no, but nobody can log in: add somebody with `python -m webui users add NAME` "
                "or set WEBUI_OIDC_ISSUER"
            )
        return self.anonymous == "yes" or (self.anonymous == "" and not self.has_login)

    @property
    def person_s(self) -> int:
        """Seconds for which somebody anonymous is known after the last visit."""
        return self.person_days * _DAY_S

    @property
    def login_s(self) -> int:
        """Seconds that a login lasts."""
        return self.login_days * _DAY_S


def _load_or_make_secrets(path: Path) -> list[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_secret(path)
        secrets_found = path.read_bytes().split()
    except OSError as error:
        raise SettingsError(f"WEBUI_SECRET_FILE: cannot use {path}: {error.strerror}") from error
    if not secrets_found or min(len(one) for one in secrets_found) < _SECRET_BYTES:
        raise SettingsError(
            f"WEBUI_SECRET_FILE: {path} holds a secret of under {_SECRET_BYTES} bytes; delete it to get a new one"
        )
    return secrets_found


def _make_secret(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return  # another start was faster
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_SECRET_BYTES) + "\n")


def _secret(name: str, value: str) -> bytes:
    """Never tells the value."""
    if any(len(one.encode()) < _SECRET_BYTES for one in value.split()):
        raise SettingsError(f"{name} must have {_SECRET_BYTES} characters or more: `openssl rand -hex 32` prints such")
    return value.encode()


def _path(given: Mapping[str, str], name: str, root: Path) -> Path | None:
    """A relative one starts at `root`, `~` is the user's home."""
    path = given.get(name)
    return root / os.path.expanduser(path) if path else None


def _url(name: str, value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"{name} must be an http:// or https:// address, not {value!r}")
    return value.rstrip("/")


def _ancestors(name: str, value: str) -> tuple[str, ...]:
    sources = tuple(value.replace(",", " ").split())
    if any(";" in source for source in sources):
        raise SettingsError(f"{name} must be addresses with commas or spaces between, without a semicolon: {value!r}")
    return sources


def _root_path(name: str, value: str) -> str:
    if not _ROOT_PATH.fullmatch(value) or ".." in value:
        raise SettingsError(
            f"{name} must be a path such as /chat or an address such as https://example.org/chat: {value!r}"
        )
    return value.rstrip("/")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SettingsError(f"{name} must be {' or '.join(one for one in allowed if one)}, not {value!r}")
    return value


def _days(name: str, given: Mapping[str, str], default: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 3650 and len(text) < 6):
        raise SettingsError(f"{name} must be a number of days from 1 to 3650, not {text!r}")
    return int(text)


def _oidc(given: Mapping[str, str], root: Path) -> Oidc:
    issuer = given.get("WEBUI_OIDC_ISSUER", "")
    scopes = given.get("WEBUI_OIDC_SCOPES", "openid profile email")
    if not issuer:
        return Oidc(scopes=scopes)
    parts = urllib.parse.urlsplit(_url("WEBUI_OIDC_ISSUER", issuer))
    if parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise SettingsError(f"WEBUI_OIDC_ISSUER must be an https:// address, not {issuer!r}")
    if not given.get("WEBUI_OIDC_CLIENT_ID"):
        raise SettingsError("WEBUI_OIDC_CLIENT_ID is missing: the provider gives it to you beside its secret")
    if "openid" not in scopes.split():
        raise SettingsError(f"WEBUI_OIDC_SCOPES must contain openid, not {scopes!r}")
    return Oidc(
        issuer=issuer,
        client_id=given["WEBUI_OIDC_CLIENT_ID"],
        client_secret=_client_secret(given, root),
        name=given.get("WEBUI_OIDC_NAME", ""),
        scopes=scopes,
    )


def _client_secret(given: Mapping[str, str], root: Path) -> str:
    path = _path(given, "WEBUI_OIDC_CLIENT_SECRET_FILE", root)
    if path is None:
        return given.get("WEBUI_OIDC_CLIENT_SECRET", "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"WEBUI_OIDC_CLIENT_SECRET_FILE: cannot read {path}: {error}") from error


def _hops(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 3):
        raise SettingsError(f"{name} must be a number of proxies from 0 to 99, not {value!r}")
    return int(value)


def _seconds(name: str, given: Mapping[str, str], default: float) -> float:
    text = given.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _DAY_S:
        raise SettingsError(f"{name} must be a number of seconds above 0 and up to {_DAY_S}, not {text!r}")
    return seconds
