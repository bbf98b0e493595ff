"""The web UI's settings: read once from the environment, frozen, passed down."""

from __future__ import annotations

import math
import os
import secrets
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from webui.errors import KeyMissing, SettingsError

DEFAULT_GATEWAY_URL = "http://127.0.0.1:8000"
DEFAULT_TITLE = "InternLM Chat"
_SECRET_BYTES = 32


@dataclass(frozen=True)
class Settings:
    """Everything that may differ between two web UIs."""

    gateway_url: str = DEFAULT_GATEWAY_URL
    api_key: str = field(default="", repr=False)
    api_key_file: Path = Path("data/webui.key")
    secret: bytes = field(default=b"", repr=False)
    secret_file: Path = Path("data/webui.secret")
    title: str = DEFAULT_TITLE
    frame_ancestors: tuple[str, ...] = ()
    trusted_proxy_hops: int = 0
    connect_timeout_s: float = 3.0
    request_timeout_s: float = 15.0
    stream_idle_timeout_s: float = 300.0
    gone_timeout_s: float = 30.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str], root: Path) -> Settings:
        """Settings from `environ`; relative paths are taken from `root`, empty values count as missing."""
        given = {name: value.strip() for name, value in environ.items() if value.strip()}
        data_dir = root / given.get("DATA_DIR", "data")
        return cls(
            gateway_url=_url("WEBUI_GATEWAY_URL", given.get("WEBUI_GATEWAY_URL", DEFAULT_GATEWAY_URL)),
            api_key=given.get("WEBUI_API_KEY", ""),
            api_key_file=root / given.get("WEBUI_API_KEY_FILE", str(data_dir / "webui.key")),
            secret_file=root / given.get("WEBUI_SECRET_FILE", str(data_dir / "webui.secret")),
            title=given.get("WEBUI_TITLE", DEFAULT_TITLE),
            frame_ancestors=_ancestors("WEBUI_FRAME_ANCESTORS", given.get("WEBUI_FRAME_ANCESTORS", "")),
            trusted_proxy_hops=_hops("WEBUI_TRUSTED_PROXY_HOPS", given.get("WEBUI_TRUSTED_PROXY_HOPS", "0")),
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

    def load_secret(self) -> bytes:
        """The secret that signs people's cookies; made with mode 0600 where the file is missing."""
        return self.secret or _load_or_make_secret(self.secret_file)


def _load_or_make_secret(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_secret(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"WEBUI_SECRET_FILE: cannot use {path}: {error.strerror}") from error
    if len(secret) < _SECRET_BYTES:
        raise SettingsError(f"WEBUI_SECRET_FILE: {path} holds under {_SECRET_BYTES} bytes; delete it to get a new one")
    return secret


def _make_secret(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return  # another start was faster
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_SECRET_BYTES) + "\n")


def _url(name: str, value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"{name} must be an http:// or https:// address, not {value!r}")
    return value.rstrip("/")


def _ancestors(name: str, value: str) -> tuple[str, ...]:
    sources = tuple(value.replace(",", " ").split())
    if any(";" in source for source in sources):
        raise SettingsError(f"{name} must be addresses separated by spaces, without a semicolon: {value!r}")
    return sources


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
    if not 0 < seconds < math.inf:
        raise SettingsError(f"{name} must be a number of seconds above 0, not {text!r}")
    return seconds
