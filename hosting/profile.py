"""What a platform wants set: address, frames, folders, engine. The environment's own values always count first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hosting.places import NAME, cache_of, can_hold, can_hold_database, home_of, is_private, temporary
from hosting.platforms import Platform, find_platform

ZERO_GPU = (
    "ZeroGPU lends its card to single functions of this process for seconds; an inference server, which is a process "
    "of its own and keeps the model, cannot have it."
)


# What a Space without a volume needs as Secrets, and what each of them keeps. They are not copied with a duplicate.
SPACE_SECRETS = {
    "DATABASE_URL": "the conversations, on a PostgreSQL server",
    "WEBUI_SECRET": "who people are, in their browsers",
    "GATEWAY_ADMIN_KEY": "your API key",
}


@dataclass(frozen=True)
class Profile:
    """`settings` are defaults for variables that are not set; `process` is set in any case, for children too.

    `notes` are lines for whoever runs it; `refusal`, when there is one, says why it cannot be run as asked.
    """

    platform: Platform
    settings: dict[str, str]
    process: dict[str, str]
    notes: tuple[str, ...] = ()
    refusal: str = ""


def make_profile(
    environ: Mapping[str, str],
    root: Path,
    system: Path = Path("/"),
    is_mount: Callable[[Path], bool] = os.path.ismount,
) -> Profile:
    """`root` is the checkout, `system` the root of the file system. Tries which folders can be written; makes them."""
    platform = find_platform(environ, system)
    folders, notes = _folders(environ, root, platform, system, is_mount)
    process, more = _homes(environ, folders.get("DATA_DIR") or environ.get("DATA_DIR") or str(root / "data"), root)
    settings = {**_settings(platform), **folders}
    notes = [*notes, *more]
    refusal = ""
    if platform.is_zero_gpu:
        if environ.get("INFERENCE_ENGINE") in (None, "", "auto", "llamacpp"):
            process["INFERENCE_ENGINE"] = "llamacpp"
            notes.append(f"{ZERO_GPU} The model runs on the CPU.")
        else:
            refusal = (
                f"INFERENCE_ENGINE={environ['INFERENCE_ENGINE']} cannot run here. {ZERO_GPU} Leave it out, which takes "
                "the CPU, or choose a Space with a GPU of its own."
            )
    return Profile(platform, settings, process, tuple(notes), refusal)


def _settings(platform: Platform) -> dict[str, str]:
    settings = {}
    if platform.is_contained:
        settings["HOST"] = "0.0.0.0"  # only the platform reaches the port, and 127.0.0.1 would hide it
    if platform.is_hosted:
        settings["WEBUI_TRUSTED_PROXY_HOPS"] = "1"
        settings["WEBUI_FRAME_ANCESTORS"] = platform.frame_ancestors
    return settings


def _folders(
    environ: Mapping[str, str], root: Path, platform: Platform, system: Path, is_mount: Callable[[Path], bool]
) -> tuple[dict[str, str], list[str]]:
    """DATA_DIR and MODELS_DIR where they are not set and the checkout's own folders are not right.

    Beside them WEBUI_KEEPS_CHATS, when what people say may be gone after a restart.
    """
    found: dict[str, str] = {}
    notes: list[str] = []
    for name, part, can in (("DATA_DIR", "data", can_hold_database), ("MODELS_DIR", "models", can_hold)):
        if environ.get(name):
            continue
        passed_over: list[str] = []
        for base, lasts in _bases(environ, root, platform, system, is_mount):
            folder = base / part
            if can(folder) and (base != temporary(environ) or is_private(base)):
                if base != root:
                    found[name] = str(folder)
                notes += _told(name, folder, lasts, passed_over, environ)
                if name == "DATA_DIR" and lasts != "yes":
                    if not (environ.get("DATABASE_URL") and environ.get("WEBUI_SECRET")):
                        found["WEBUI_KEEPS_CHATS"] = "no"
                    notes += _missing_secrets(environ, platform)
                break
            passed_over.append(str(folder))
        else:
            notes.append(f"No place for {name} works here: tried were {', '.join(passed_over)}. Set {name}.")
    return found, notes


def _bases(
    environ: Mapping[str, str], root: Path, platform: Platform, system: Path, is_mount: Callable[[Path], bool]
) -> Iterator[tuple[Path, str]]:
    """Where to try, best first, and how long what lies there lasts: `yes`, `maybe` or `no`."""
    mounted = system / "data"
    if platform.is_hosted and is_mount(mounted):
        yield mounted / NAME, "yes"
    if platform.keeps:
        yield platform.keeps / NAME, "maybe"
    yield root, "no" if platform.is_hosted else "yes"
    named, home = environ.get("XDG_DATA_HOME", ""), home_of(environ)
    if named.startswith("/") or home:
        share = Path(named) if named.startswith("/") else (home or root) / ".local" / "share"
        yield share / NAME, "no" if platform.is_hosted else "yes"
    yield temporary(environ), "no"


def _told(name: str, folder: Path, lasts: str, passed_over: list[str], environ: Mapping[str, str]) -> Iterator[str]:
    if passed_over:
        yield f"{name} is {folder}, because {' and '.join(passed_over)} cannot be used here."
    if name == "DATA_DIR" and lasts != "yes":
        beside_chats = "keys are" if environ.get("WEBUI_SECRET") else "keys and people's cookies are"
        what = beside_chats if environ.get("DATABASE_URL") else "conversations and keys are"
        when = "may be" if lasts == "maybe" else "will be"
        yield (
            f"What lies in {folder} {when} gone after a restart or a sleep of the platform; {what} there. "
            "Mount a volume at /data (or set DATA_DIR), or set DATABASE_URL to a PostgreSQL server."
        )


def _missing_secrets(environ: Mapping[str, str], platform: Platform) -> list[str]:
    missing = [f"{name} ({kept})" for name, kept in SPACE_SECRETS.items() if not environ.get(name)]
    if not missing or not platform.is_space:
        return []
    return [
        "Not set as Secrets of this Space (under Settings, Variables and secrets; a duplicate has to set them anew): "
        f"{', '.join(missing)}."
    ]


def _homes(environ: Mapping[str, str], data_dir: str, root: Path) -> tuple[dict[str, str], list[str]]:
    """Caches of libraries go where they can be written; a home that is not there becomes one that is."""
    home = home_of(environ)
    if home and can_hold(home / ".cache"):
        return {}, []
    data = root / os.path.expanduser(data_dir)
    cache = data / "cache"
    process = {} if environ.get("XDG_CACHE_HOME") else {"XDG_CACHE_HOME": str(cache)}
    if home is None:
        process["HOME"] = str(data)
        return process, [f"This user has no home folder; HOME is {process['HOME']}."]
    if not process or cache_of(environ) == cache:
        return {}, []
    return process, [f"{home} cannot be written; caches go to {cache}."]
