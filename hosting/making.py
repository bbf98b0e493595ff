"""A Python and the locked packages in a folder of ours, made where the machine has none that serves.

An interpreter comes from the machine, else from conda where conda is, else from uv, which is a package on PyPI and
fetches builds of CPython (python-build-standalone) from releases.astral.sh, GitHub, or a mirror of that; it compares
them with the SHA-256 it carries, so a mirror cannot change them. No trusted package on PyPI is an interpreter itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hosting.errors import CannotStart
from hosting.interpreters import NEWEST, OLDEST, Interpreter, ask, best_interpreter
from hosting.places import can_hold, free_mb, home_of, is_private
from hosting.platforms import XLAB_HOME
from hosting.processes import CommandFailed, run

LOCK = "requirements.lock"
NEEDED_MB = 1500
MIRROR = "UV_PYTHON_INSTALL_MIRROR"
# Known by their use in public projects; asked only after uv's own places, and only for what uv can check.
MIRRORS = (
    "https://registry.npmmirror.com/-/binary/python-build-standalone",
    "https://mirror.nju.edu.cn/github-release/astral-sh/python-build-standalone",
)
if TYPE_CHECKING:
    Tell = Callable[[str, int, int], None]
    """Takes a stage (a key of waiting_page.STAGES), how much of it is done, and of how much (0: not known)."""


def stamp_of(lock: Path, more: Sequence[str] = ()) -> str:
    """What the file `installed` of an environment with all of this lock file holds; scripts/setup.sh writes it too."""
    return " ".join([hashlib.sha256(lock.read_bytes()).hexdigest(), *more])


def ready_environment(root: Path, places: Iterator[Path], environ: Mapping[str, str]) -> str | None:
    """The interpreter of a complete environment: what `make` made in the checkout, or one of ours."""
    more = _more(environ)
    stamps = [stamp_of(root / name, more) for name in (LOCK, "requirements-dev.lock") if (root / name).is_file()]
    for venv in (root / ".venv", *(place / "venv" for place in places if is_private(place))):
        try:
            has = (venv / "installed").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
        python = str(venv / "bin" / "python")
        found = ask(python) if has in stamps else None
        if found and OLDEST <= found.version:
            return python
    return None


def make_environment(
    root: Path, places: Iterator[Path], environ: Mapping[str, str], tell: Tell, system: Path = Path("/")
) -> str:
    """Returns its interpreter. A later start goes on where this one was stopped. Raises CannotStart."""
    lock = root / LOCK
    if not lock.is_file():
        raise CannotStart(f"{lock} is missing, so the packages cannot be installed. Get the whole checkout.")
    place = _place(places, environ)
    environ = _clean(environ)
    tell("python", 0, 0)
    interpreter = best_interpreter(environ, system) or _make_interpreter(place, environ, tell, system)
    venv = place / "venv"
    python = str(venv / "bin" / "python")
    if (venv / "installed").exists():
        (venv / "installed").unlink()
    try:
        uv = _make_venv(interpreter, venv, place, environ)
        _install(python, lock, uv, environ, tell)
        _install_more(python, root, uv, environ, tell)
    except CommandFailed as error:
        raise CannotStart(
            f"The packages could not be installed with {interpreter.path}. It said last:\n{error}\n"
            "Start again to go on. Without internet access, point pip at a mirror, for example "
            "PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple"
        ) from None
    (venv / "installed").write_text(stamp_of(lock, _more(environ)) + "\n", encoding="utf-8")
    return python


def _place(places: Iterator[Path], environ: Mapping[str, str]) -> Path:
    tried = []
    for place in places:
        if not can_hold(place):
            tried.append(f"{place} cannot be written")
        elif not is_private(place):
            tried.append(f"{place} could be changed by others")
        elif free_mb(place) < NEEDED_MB and not environ.get("SETUP_SKIP_DISK_CHECK"):
            tried.append(f"{place} has {free_mb(place)} MB free of {NEEDED_MB}")
        else:
            return place
    raise CannotStart(
        f"There is no place for a Python environment: {'; '.join(tried)}. Set XDG_CACHE_HOME to a folder with room."
    )


def _make_interpreter(place: Path, environ: Mapping[str, str], tell: Tell, system: Path) -> Interpreter:
    """Raises CannotStart with what was tried."""
    known = [found for path in sorted(place.glob("python/**/bin/python3")) if (found := ask(str(path)))]
    if known:
        return known[0]
    tell("make-python", 0, 0)
    failures: list[str] = []
    for name, command, more in _ways(place, environ, failures, system):
        try:
            run(command, {**environ, **more})
        except CommandFailed as error:
            failures.append(f"{name}: {str(error).splitlines()[-1].strip()}")
            continue
        made = [found for path in sorted(place.glob("python/**/bin/python3")) if (found := ask(str(path)))]
        if made:
            return made[0]
        failures.append(f"{name}: it made none")
    raise CannotStart(
        "app.py needs Python %d.%d to %d.%d, and this is %d.%d. "
        % (*OLDEST, *NEWEST, *sys.version_info[:2])
        + f"None is on this machine, and none could be made ({'; '.join(failures)}). "
        "Install one (Debian 12, Ubuntu 22.04: apt-get install python3.11 python3.11-venv), "
        f"name one by PYTHON=/path/to/python3.11, or name a mirror of python-build-standalone by {MIRROR}."
    )


def _ways(
    place: Path, environ: Mapping[str, str], failures: list[str], system: Path
) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Commands that make an interpreter in place/python, with variables for them."""
    version = "%d.%d" % OLDEST
    conda = _conda(environ, system)
    if conda:
        shutil.rmtree(place / "python", ignore_errors=True)
        target = str(place / "python")
        yield "conda", [conda, "create", "--yes", "--quiet", "--prefix", target, f"python={version}", "pip"], {}
    else:
        failures.append("conda is not here")
    uv = _uv(place, environ, failures)
    if not uv:
        return
    folders = {
        "UV_PYTHON_INSTALL_DIR": str(place / "python"),
        "UV_PYTHON_BIN_DIR": str(place / "bin"),
        "UV_CACHE_DIR": str(place / "uv-cache"),
        "UV_NO_CONFIG": "1",
    }
    command = [*uv, "python", "install", version]
    own = environ.get("UV_PYTHON_INSTALL_MIRROR")
    if own:
        yield f"uv from {own}", command, folders
        return
    yield "uv", command, folders
    for mirror in MIRRORS:
        yield f"uv from {mirror}", command, {**folders, MIRROR: mirror}


def _conda(environ: Mapping[str, str], system: Path) -> str | None:
    named = [environ.get(name, "") for name in ("MAMBA_EXE", "CONDA_EXE")]
    found = [shutil.which(name, path=environ.get("PATH")) or "" for name in ("mamba", "conda", "micromamba")]
    homes = [home for home in (home_of(environ), system / XLAB_HOME, system / "root", system / "opt") if home]
    usual = [str(home / name / "bin/conda") for home in homes for name in ("miniconda3", "anaconda3", "conda")]
    return next((path for path in (*named, *found, *usual) if path and os.access(path, os.X_OK)), None)


def _uv(place: Path, environ: Mapping[str, str], failures: list[str]) -> list[str] | None:
    """uv from the PATH, else what requirements.txt brought for an old Python, else from PyPI by this Python's pip."""
    found = shutil.which("uv", path=environ.get("PATH"))
    if found:
        return [found]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    program = place / "uv" / "bin" / "uv"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", str(place / "uv"), "uv"]
        try:
            run(command, environ)
        except CommandFailed as error:
            failures.append(f"uv: {str(error).splitlines()[-1].strip()}")
            return None
    return [str(program)]


def _make_venv(interpreter: Interpreter, venv: Path, place: Path, environ: Mapping[str, str]) -> list[str] | None:
    """Returns uv's command where uv has to install too, because the interpreter brings no pip."""
    there = ask(str(venv / "bin" / "python"))
    if interpreter.can_make_venv:
        if not (there and there.version == interpreter.version and list(venv.glob("lib/python*/site-packages/pip"))):
            run([interpreter.path, "-m", "venv", "--clear", str(venv)], environ)
        return None
    failures: list[str] = []
    uv = _uv(place, environ, failures)
    if not uv:
        raise CommandFailed(
            f"{interpreter.path} has no venv module, and {'; '.join(failures)}. apt-get install python3-venv mends it."
        )
    if not there:
        run([*uv, "venv", "--clear", "--python", interpreter.path, str(venv)], environ)
    return uv


def _install(python: str, lock: Path, uv: list[str] | None, environ: Mapping[str, str], tell: Tell) -> None:
    """pip with the user's own settings; uv, which knows none of them, gets the index."""
    total = len(re.findall(r"^[\w.-]+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    tell("packages", 0, total)
    if uv:
        index = environ.get("PIP_INDEX_URL") or ""
        more = {"UV_DEFAULT_INDEX": index} if index and not environ.get("UV_DEFAULT_INDEX") else {}
        run([*uv, "pip", "install", "--python", python, "--require-hashes", "-r", str(lock)], {**environ, **more})
        return
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if line.startswith("Collecting "):
            done += 1
            tell("packages", done, total)
        elif line.startswith("Installing collected"):
            tell("unpacking", 0, 0)
        elif line.startswith(("WARNING: Retrying", "ERROR:")):
            print(line, flush=True)

    options = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--require-hashes")
    run([python, "-m", "pip", "install", *options, "-r", str(lock)], environ, count)


def _install_more(python: str, root: Path, uv: list[str] | None, environ: Mapping[str, str], tell: Tell) -> None:
    """What APP_PACKAGES names, such as an engine for a card; our own packages keep their versions."""
    more = _more(environ)
    if more:
        tell("more", 0, 0)
        command = [*uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install", "--no-input"]
        run([*command, "-c", str(root / "requirements.txt"), *more], environ)


def _more(environ: Mapping[str, str]) -> list[str]:
    return environ.get("APP_PACKAGES", "").split()


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what ties a child to the Python that runs now."""
    ours = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONUSERBASE")
    return {**{name: value for name, value in environ.items() if name not in ours}, "PYTHONUNBUFFERED": "1"}
