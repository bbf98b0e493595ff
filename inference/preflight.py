"""What is checked before a start, and by `doctor`: each finding is one line, and says how to mend what fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inference.catalogue import FileSource, FolderSource, HubSource, WheelSource
from inference.errors import DiskFull, InferenceError, SettingsError
from inference.machine import Machine, free_bytes
from inference.manifest import MANIFEST_NAME
from inference.plan import LaunchPlan, what_lacks
from inference.settings import Settings
from inference.sizes import gibibytes, megabytes

State = Literal["ok", "warning", "fatal"]
NEWEST_TRIED = (3, 14)
DATA_BYTES = 200 << 20  # the history, logs of at most 23 MB, and room for SQLite's log to grow
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Check:
    """`fix` is one sentence, empty where nothing is wrong. `exit_code` is the one that a fatal finding ends with."""

    name: str
    state: State
    text: str
    fix: str = ""
    exit_code: int = InferenceError.exit_code

    def __str__(self) -> str:
        return f"{self.state}: {self.name}: {self.text}" + (f" {self.fix}" if self.fix else "")


def preflight(plan: LaunchPlan, settings: Settings, machine: Machine, *, meminfo: Path = MEMINFO) -> list[Check]:
    """For the model that is to be run. Looks only: nothing is fetched, nothing outside of this machine is asked."""
    return [
        check_python(),
        check_data(settings),
        _check_memory(plan, machine, meminfo),
        _check_card(plan, machine),
        *_check_model(plan, settings),
        check_tokens(settings),
    ]


def check_python(version: tuple[int, int] = sys.version_info[:2], bits: int = sys.maxsize.bit_length() + 1) -> Check:
    text = f"{version[0]}.{version[1]}, {bits} bits"
    if bits != 64:
        return Check("Python", "fatal", text, "The engines want 64 bits: install a 64-bit Python.")
    if version > NEWEST_TRIED:
        return Check("Python", "warning", text, "The packages were locked for 3.11 to 3.14: take one of those.")
    return Check("Python", "ok", text)


def check_data(settings: Settings) -> Check:
    """DATA_DIR is made here when it is missing: only then it is known whether it can be."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        code = SettingsError.exit_code
        return Check("DATA_DIR", "fatal", f"{folder} cannot be written.", "Set DATA_DIR to a folder that can.", code)
    free = free_bytes(folder)
    text = f"{folder}, {megabytes(free)} free"
    if free < DATA_BYTES:
        return Check(
            "DATA_DIR", "warning", f"{text}.", "Free some, or set DATA_DIR to another disk: history needs room."
        )
    return Check("DATA_DIR", "ok", text)


def check_tokens(settings: Settings) -> Check:
    """Whether there are any, never which; git hosts want a name beside one."""
    hubs = settings.hubs
    named = (("OPENXLAB", hubs.openxlab), ("INFERENCE_GIT", hubs.git))
    nameless = [name for name, account in named if account.token and not account.username]
    if nameless:
        fix = f"Set {nameless[0]}_USERNAME to the user name that the token belongs to."
        return Check("tokens", "warning", f"{nameless[0]}_TOKEN is set, but {nameless[0]}_USERNAME is not.", fix)
    hubs_with = (("openxlab", hubs.openxlab), ("huggingface", hubs.huggingface), ("modelscope", hubs.modelscope))
    there = [name for name, account in (*hubs_with, ("git", hubs.git)) if account.token]
    return Check("tokens", "ok", f"for {', '.join(there)}" if there else "none, which private models would want")


def _check_memory(plan: LaunchPlan, machine: Machine, meminfo: Path) -> Check:
    """What does not fit the machine at all has no plan; here it is what others have taken."""
    if plan.gpu is not None:
        return Check("memory", "ok", f"{gibibytes(machine.memory_bytes)}; the model lies on the card")
    available = _available(meminfo)
    text = f"{gibibytes(machine.memory_bytes)}, of which the model takes about {gibibytes(plan.memory_bytes)}"
    if available is not None and available < plan.memory_bytes:
        fix = "Stop other programs, or set INFERENCE_SLOTS or INFERENCE_CONTEXT lower."
        return Check("memory", "warning", f"{text}, but only {gibibytes(available)} are free.", fix)
    return Check("memory", "ok", text)


def _check_card(plan: LaunchPlan, machine: Machine) -> Check:
    cards = ", ".join(f"{card.name} with {gibibytes(card.memory_bytes)} usable" for card in machine.cards)
    if not machine.cards:
        return Check("card", "ok", "none; the model runs on the CPU")
    if plan.gpu is not None:
        return Check("card", "ok", f"{cards}; {plan.engine} takes about {gibibytes(plan.memory_bytes)}")
    if plan.model.layout == "gguf":
        fix = "Choose a model for the card, such as MODEL=internlm2-chat-7b."
    else:
        fix = f"To use it: {what_lacks('lmdeploy', plan.model, machine) or plan.reason}."
    return Check("card", "warning", f"{cards}, but the model runs on the CPU.", fix)


def _check_model(plan: LaunchPlan, settings: Settings) -> Iterator[Check]:
    """Whether its files are there; where not, whether there is room, and something to fetch them with."""
    model = plan.model
    if own := next((source for source in model.sources if isinstance(source, FileSource | FolderSource)), None):
        yield Check("model", "ok", f"{model.name}: {own.path}")
        if isinstance(own, FileSource) or model.layout == "llama":
            return
    elif (ready := ready_folder(plan, settings)) is not None:
        yield Check("model", "ok", f"{model.name} is ready in {ready}")
        return
    elif ways := _ways(plan, settings):
        yield Check(
            "model", "ok", f"{model.name} is not here yet; {megabytes(model.size_bytes)} come from {' or '.join(ways)}"
        )
        lacks = [lack for way in ways if (lack := _lacks(way))]
        if len(lacks) == len(ways):
            yield Check("download", "fatal", f"{lacks[0]}.", "Or take another source: INFERENCE_SOURCES.", 4)
    else:
        fix = "Take another source: INFERENCE_SOURCES, or put its files into MODELS_DIR."
        yield Check("model", "fatal", f"{model.name} is not here, and no source of INFERENCE_SOURCES has it.", fix, 4)
    yield _check_room(plan, settings)


def ready_folder(plan: LaunchPlan, settings: Settings) -> Path | None:
    """Where the model is, in the form of the plan. By its manifest; the files are compared with it at the start."""
    suffixes = ("-llama",) if plan.form == "llama" else ("", "-gguf")
    folders = (settings.models_dir / f"{plan.model.name}{suffix}" for suffix in suffixes)
    return next((folder for folder in folders if (folder / MANIFEST_NAME).is_file()), None)


def _ways(plan: LaunchPlan, settings: Settings) -> list[str]:
    """The names of the sources that would be asked, in their order; addresses of git hosts count as `git`."""
    model = plan.model
    if "local" in settings.sources and (settings.models_dir / model.name / "config.json").exists():
        return ["local"]
    sources = model.gguf_sources if plan.form == "gguf" and model.gguf_sources else model.original_sources
    hubs: set[str] = {source.hub for source in sources if isinstance(source, HubSource)}
    hubs |= {"pypi" for source in sources if isinstance(source, WheelSource)}
    known = ("local", "pypi", "modelscope", "huggingface", "openxlab")
    return [name if name in known else "git" for name in settings.sources if name in hubs or name not in known]


def _lacks(way: str) -> str:
    """What is not installed, with its cure; empty when nothing is missing."""
    if way in ("openxlab", "git"):
        missing = [name for name in ("git", "git-lfs") if shutil.which(name) is None]
        return f"{' and '.join(missing)} not installed (apt-get install git git-lfs)" if missing else ""
    if way == "modelscope" and importlib.util.find_spec("modelscope_hub") is None:
        return "the package modelscope-hub is not installed (pip install modelscope-hub)"
    return ""


def _check_room(plan: LaunchPlan, settings: Settings) -> Check:
    folder = settings.models_dir
    needed, free = _bytes_needed(plan, settings), free_bytes(folder)
    text = f"{megabytes(needed)} are still needed in {folder}, {megabytes(free)} are free"
    if free < needed:
        fix = "Free some, set MODELS_DIR to another disk, or choose a smaller model."
        return Check("disk", "fatal", f"{text}.", fix, DiskFull.exit_code)
    return Check("disk", "ok", text)


def _bytes_needed(plan: LaunchPlan, settings: Settings) -> int:
    """What is still to be written into MODELS_DIR. A copy takes no more than the original that is already here."""
    folder, model = settings.models_dir, plan.model
    own = next((source.path for source in model.sources if isinstance(source, FolderSource)), None)
    if own is None and _ways(plan, settings) == ["local"]:
        own = folder / model.name
    if own is not None:
        begun = _bytes_in(folder / f"{model.name}-llama") if plan.form == "llama" else 0
        return max(0, min(plan.disk_bytes, _bytes_in(own)) - begun)
    there = sum(_bytes_in(folder / f"{model.name}{suffix}") for suffix in (".partial", "-original"))
    return max(0, plan.disk_peak_bytes - there)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _available(meminfo: Path) -> int | None:
    """MemAvailable of proc(5), in bytes; in a container that of the machine around it."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
