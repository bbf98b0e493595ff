"""Everything that can be set, read from the environment once and validated once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar
from urllib.parse import quote, unquote, urlsplit

TOOL_FORMATS = ("engine", "internlm2")
ENGINES = ("llamacpp", "tgi", "lmdeploy", "openai")
_HEADER_WORD = re.compile(r"[\x21-\x7e]+")
Number = TypeVar("Number", int, float)


class SettingsError(ValueError):
    """One sentence that names the variable."""


@dataclass(frozen=True)
class UpstreamAddress:
    """Where an inference server listens.

    Attributes:
        engine: which dialect it speaks, one of ENGINES.
        url: `http://host:port`, or `unix:/path/to.sock`.
        key: the bearer token it wants, or None.
    """

    engine: str
    url: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Timeouts:
    """In seconds, one for each phase of a turn."""

    connect_s: float = 5.0
    first_token_s: float = 180.0
    between_tokens_s: float = 60.0
    turn_s: float = 1800.0
    drain_s: float = 10.0


@dataclass(frozen=True)
class TraceSettings:
    """Where OpenTelemetry's traces go; the variables are those of its specification.

    Attributes:
        endpoint: where traces are posted, OTLP over HTTP with protobuf.
        headers: what is sent along, such as the collector's key.
        service_name: ours, in the traces.
        sampled: which share of the traces that begin here is kept, 0 to 1; one that a caller began goes by its word.
    """

    endpoint: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_name: str = "internlm-gateway"
    sampled: float = 1.0
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Places:
    """Where the history and its secrets lie, for what needs nothing else: keys, migrations, backups."""

    DATABASE_NAME: ClassVar[str] = "gateway.sqlite3"

    data_dir: Path
    database: str = field(repr=False)
    webui_key_file: Path
    webui_secret_file: Path

    @property
    def is_elsewhere(self) -> bool:
        """Whether the history is in a server's database and not in a file."""
        return not self.database.startswith("sqlite:///")

    @classmethod
    def from_env(cls, environ: Mapping[str, str], root: Path) -> Places:
        """The web UI keeps its secret beside its key unless it is told otherwise. Raises SettingsError."""
        data_dir = _path(environ, "DATA_DIR", root) or root / "data"
        key_file = _path(environ, "WEBUI_API_KEY_FILE", root) or data_dir / "webui.key"
        return cls(
            data_dir=data_dir,
            database=_database_url(environ, root) or f"sqlite:///{data_dir / cls.DATABASE_NAME}",
            webui_key_file=key_file,
            webui_secret_file=_path(environ, "WEBUI_SECRET_FILE", root) or key_file.with_name("webui.secret"),
        )


@dataclass(frozen=True)
class Settings:
    """The gateway's settings; `from_env` documents the variables."""

    data_dir: Path
    model: str
    upstreams: tuple[UpstreamAddress, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    context_tokens: int = 4096
    slots: int = 4
    max_waiting: int = 64
    max_wait_s: float = 120.0
    max_body_bytes: int = 1_048_576
    key_rpm: int = 600
    key_tpm: int | None = None
    key_tpd: int | None = None
    key_streams: int | None = None
    user_rpm: int = 30
    user_tpm: int | None = None
    user_tpd: int | None = None
    user_streams: int | None = 4
    all_users_rpm: int = 1200
    address_rpm: int = 120
    tool_format: str = "engine"
    redis_url: str | None = field(default=None, repr=False)
    limits_without_redis: str = "open"
    model_title: str | None = None
    model_note: Mapping[str, str] | None = None
    database_url: str | None = field(default=None, repr=False)
    database_wait_s: float = 30.0
    retention_days: int = 0
    response_retention_days: int = 30
    timeouts: Timeouts = field(default_factory=Timeouts)
    metrics_token: str | None = field(default=None, repr=False)
    metrics_token_file: Path | None = None
    admin_key: str | None = field(default=None, repr=False)
    traces: TraceSettings | None = None
    webui_key_file: Path | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def database(self) -> str:
        """Where the history is: `sqlite:///path` or `postgresql://…`."""
        return self.database_url or f"sqlite:///{self.data_dir / Places.DATABASE_NAME}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], root: Path) -> Settings:
        """Reads the settings.

        Args:
            environ: the environment.
            root: the folder that relative paths start from.

        Raises:
            SettingsError: a value that is missing or cannot be; the sentence names the variable.
        """
        data_dir = _path(environ, "DATA_DIR", root) or root / "data"
        return cls(
            data_dir=data_dir,
            model=environ.get("MODEL") or "smollm2-135m-instruct",
            upstreams=_upstreams(environ),
            host=environ.get("HOST") or "127.0.0.1",
            port=_number(environ, "PORT", 8000, 0, 65535),
            context_tokens=_number(environ, "GATEWAY_CONTEXT_TOKENS", 4096, 64, 10_000_000),
            slots=_number(environ, "GATEWAY_SLOTS", 4, 1, 100_000),
            max_waiting=_number(environ, "GATEWAY_MAX_WAITING", 64, 0, 1_000_000),
            max_wait_s=_number(environ, "GATEWAY_MAX_WAIT_S", 120.0, 0.0, 3600.0),
            max_body_bytes=_number(environ, "GATEWAY_MAX_BODY_BYTES", 1_048_576, 1024, 1 << 30),
            key_rpm=_number(environ, "GATEWAY_KEY_RPM", 600, 1, 1_000_000),
            key_tpm=_limit(environ, "GATEWAY_KEY_TPM"),
            key_tpd=_limit(environ, "GATEWAY_KEY_TPD"),
            key_streams=_limit(environ, "GATEWAY_KEY_STREAMS"),
            user_rpm=_number(environ, "GATEWAY_USER_RPM", 30, 1, 1_000_000),
            user_tpm=_limit(environ, "GATEWAY_USER_TPM"),
            user_tpd=_limit(environ, "GATEWAY_USER_TPD"),
            user_streams=_number(environ, "GATEWAY_USER_STREAMS", 4, 1, 1_000_000),
            all_users_rpm=_number(environ, "GATEWAY_ALL_USERS_RPM", 1200, 1, 1_000_000),
            address_rpm=_number(environ, "GATEWAY_ADDRESS_RPM", 120, 1, 1_000_000),
            tool_format=_one_of(environ, "GATEWAY_TOOL_FORMAT", TOOL_FORMATS),
            database_url=_database_url(environ, root),
            database_wait_s=_number(environ, "GATEWAY_DATABASE_WAIT_S", 30.0, 0.0, 3600.0),
            redis_url=_redis_url(environ),
            limits_without_redis=_one_of(environ, "GATEWAY_LIMITS_WITHOUT_REDIS", ("open", "closed")),
            retention_days=_number(environ, "GATEWAY_RETENTION_DAYS", 0, 0, 36_500),
            response_retention_days=_number(environ, "GATEWAY_RESPONSE_RETENTION_DAYS", 30, 0, 36_500),
            model_title=environ.get("GATEWAY_MODEL_TITLE") or None,
            webui_key_file=_path(environ, "WEBUI_API_KEY_FILE", root) or data_dir / "webui.key",
            metrics_token=_header_word(environ, "GATEWAY_METRICS_TOKEN"),
            metrics_token_file=_path(environ, "GATEWAY_METRICS_TOKEN_FILE", root),
            admin_key=_admin_key(environ),
            traces=_traces(environ),
            timeouts=Timeouts(
                connect_s=_number(environ, "GATEWAY_CONNECT_TIMEOUT_S", 5.0, 0.1, 3600.0),
                first_token_s=_number(environ, "GATEWAY_FIRST_TOKEN_TIMEOUT_S", 180.0, 0.1, 86400.0),
                between_tokens_s=_number(environ, "GATEWAY_BETWEEN_TOKENS_TIMEOUT_S", 60.0, 0.1, 86400.0),
                turn_s=_number(environ, "GATEWAY_TURN_TIMEOUT_S", 1800.0, 1.0, 86400.0),
                drain_s=_number(environ, "GATEWAY_DRAIN_TIMEOUT_S", 10.0, 0.0, 3600.0),
            ),
        )


def _path(environ: Mapping[str, str], name: str, root: Path) -> Path | None:
    """A relative one starts at `root`, `~` is the user's home."""
    path = environ.get(name)
    return root / os.path.expanduser(path) if path else None


def _number(environ: Mapping[str, str], name: str, default: Number, low: Number, high: Number) -> Number:
    text = environ.get(name)
    if not text:
        return default
    kind = type(default)
    try:
        value = kind(text)
    except ValueError:
        raise SettingsError(f"{name}={text!r} is not a number.") from None
    if not low <= value <= high:
        raise SettingsError(f"{name}={text} is outside {low} to {high}.")
    return value


def _limit(environ: Mapping[str, str], name: str) -> int | None:
    """A limit that is absent by default."""
    return _number(environ, name, 1, 1, 1_000_000_000) if environ.get(name) else None


def _one_of(environ: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    """One of `values`, by default the first."""
    value = environ.get(name) or values[0]
    if value not in values:
        raise SettingsError(f"{name}={value!r} is none of: {', '.join(values)}.")
    return value


def _database_url(environ: Mapping[str, str], root: Path) -> str | None:
    """The complaints never show the value: a password may be in it."""
    url = environ.get("DATABASE_URL")
    if not url:
        return None
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite" and rest.startswith("/") and rest.strip("/"):
        return f"sqlite:///{root / os.path.expanduser(rest[1:])}"
    if separator and scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        try:
            parts = urlsplit(f"postgresql://{rest}")
            is_whole = parts.port != 0 and bool(parts.path.strip("/")) and not parts.fragment
        except ValueError:  # a port that is none, or half an IPv6 address
            is_whole = False
        if is_whole:
            return _with_password(environ, root, f"postgresql://{rest}")
        raise SettingsError(
            "DATABASE_URL must have the form postgresql://user:password@host:port/database; special characters in the "
            "password are written as %40 (@), %2F (/), %23 (#)."
        )
    raise SettingsError(
        "DATABASE_URL must be postgresql://user:password@host:port/database or sqlite:///path; unset it for a SQLite "
        "file in DATA_DIR."
    )


def _admin_key(environ: Mapping[str, str]) -> str | None:
    """For where nobody can read DATA_DIR/admin.key. Short ones can be guessed."""
    key = _header_word(environ, "GATEWAY_ADMIN_KEY")
    if key is not None and len(key) < 32:
        raise SettingsError(
            "GATEWAY_ADMIN_KEY must have 32 characters or more, such as what `openssl rand -hex 32` prints."
        )
    return key


def _with_password(environ: Mapping[str, str], root: Path, url: str) -> str:
    """The URL with the password of DATABASE_PASSWORD_FILE, when it names a user and has no password of its own."""
    path, parts = _path(environ, "DATABASE_PASSWORD_FILE", root), urlsplit(url)
    if path is None or not parts.username or parts.password is not None or "password=" in parts.query:
        return url
    named = f"DATABASE_PASSWORD_FILE={environ['DATABASE_PASSWORD_FILE']}"
    try:
        password = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{named} cannot be read: {why}.") from None
    if not password:
        raise SettingsError(f"{named} is empty; write the database user's password into it.")
    at = len("postgresql://") + parts.netloc.rindex("@")
    return f"{url[:at]}:{quote(password, safe='')}{url[at:]}"


def _header_word(environ: Mapping[str, str], name: str) -> str | None:
    """A secret for a header; it is not shown when it is wrong."""
    value = environ.get(name) or None
    if value is not None and not _HEADER_WORD.fullmatch(value):
        raise SettingsError(f"{name} holds what no HTTP header can carry; take printable ASCII without spaces.")
    return value


def _traces(environ: Mapping[str, str]) -> TraceSettings | None:
    """None unless an endpoint is named. Form of the variables: OpenTelemetry's specification, OTLP exporter."""
    sampled = _number(environ, "OTEL_TRACES_SAMPLER_ARG", 1.0, 0.0, 1.0)
    timeout_s = _number(environ, "OTEL_EXPORTER_OTLP_TIMEOUT", 10_000, 1, 600_000) / 1000
    headers = {}
    for part in environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(","):
        name, separator, value = part.strip().partition("=")
        if part.strip() and not (separator and _HEADER_WORD.fullmatch(name)):
            raise SettingsError("OTEL_EXPORTER_OTLP_HEADERS must be pairs such as name=value, with commas between.")
        if part.strip():
            headers[name.lower()] = unquote(value)
    is_off = _one_of(environ, "OTEL_SDK_DISABLED", ("false", "true")) == "true"
    url = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not url:
        return None
    if not _is_http(url):  # it may hold a password, so it is not shown
        raise SettingsError("OTEL_EXPORTER_OTLP_ENDPOINT must be such as http://127.0.0.1:4318 or https://host.")
    traces = TraceSettings(
        endpoint=url.rstrip("/") + "/v1/traces",
        headers=headers,
        service_name=environ.get("OTEL_SERVICE_NAME") or "internlm-gateway",
        sampled=sampled,
        timeout_s=timeout_s,
    )
    return None if is_off else traces


def _redis_url(environ: Mapping[str, str]) -> str | None:
    url = environ.get("REDIS_URL") or None
    try:
        is_good = url is None or (
            urlsplit(url).scheme in ("redis", "rediss", "unix")
            and bool(urlsplit(url).hostname or urlsplit(url).scheme == "unix")
            and urlsplit(url).port != 0
        )
    except ValueError:
        is_good = False
    if not is_good:  # it may hold a password, so it is not shown
        raise SettingsError("REDIS_URL must be such as redis://127.0.0.1:6379/0, rediss://… or unix:///path.")
    return url


def _pairs(environ: Mapping[str, str], name: str) -> list[tuple[str, str]]:
    pairs = []
    for part in environ.get(name, "").split(","):
        if not part.strip():
            continue
        engine, separator, value = part.strip().partition("=")
        if not separator or not value:
            raise SettingsError(f"{name} must be pairs such as llamacpp=http://127.0.0.1:8080, with commas between.")
        if engine not in ENGINES:
            raise SettingsError(f"{name} must begin with the engine's name; this version knows: {', '.join(ENGINES)}.")
        pairs.append((engine, value))
    return pairs


def _upstreams(environ: Mapping[str, str]) -> tuple[UpstreamAddress, ...]:
    addresses = _pairs(environ, "GATEWAY_UPSTREAMS")
    if not addresses:
        raise SettingsError(
            "GATEWAY_UPSTREAMS is not set. Say where the inference server listens, for example "
            "GATEWAY_UPSTREAMS=llamacpp=http://127.0.0.1:8080."
        )
    keys: dict[str, list[str]] = {}
    for engine, key in _pairs(environ, "GATEWAY_UPSTREAM_KEYS"):
        if not _HEADER_WORD.fullmatch(key):
            raise SettingsError(
                "GATEWAY_UPSTREAM_KEYS holds a key that no HTTP header can carry; keys are printable ASCII."
            )
        keys.setdefault(engine, []).append(key)
    upstreams = []
    for engine, url in addresses:
        if not (_is_http(url) or url.startswith("unix:/")):
            raise SettingsError(f"GATEWAY_UPSTREAMS: {url!r} is neither http://host:port, https://host nor unix:/path.")
        own = keys.get(engine, [])
        # The second server of an engine takes the engine's second key; where there are fewer, the last one serves all.
        own_key = own.pop(0) if len(own) > 1 else (own[0] if own else None)
        upstreams.append(UpstreamAddress(engine=engine, url=url, key=own_key))
    return tuple(upstreams)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname and _HEADER_WORD.fullmatch(url))
            and parts.port != 0
        )
    except ValueError:  # a port that is none, or half an IPv6 address
        return False
