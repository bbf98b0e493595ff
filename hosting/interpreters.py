"""Which Pythons lie on this machine, beside the one that runs: on the PATH, and where people and platforms put them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hosting.places import home_of
from hosting.platforms import XLAB_HOME

OLDEST, NEWEST = (3, 11), (3, 14)  # what the locked packages have wheels for
_PROGRAMS = ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python")
_ASK = (
    "import ssl, sqlite3, struct, sys, importlib.util as u; "
    "print('%d.%d' % sys.version_info[:2], sys.implementation.name, struct.calcsize('P'), "
    "'venv' if u.find_spec('ensurepip') and u.find_spec('venv') else '-', sys.executable)"
)
# Under the home: conda in its usual folders, pyenv, uv.
_IN_HOME = (
    "miniconda3/bin", "miniconda3/envs/*/bin", "anaconda3/bin", "anaconda3/envs/*/bin", "miniforge3/bin",
    "miniforge3/envs/*/bin", "mambaforge/bin", ".conda/envs/*/bin", ".pyenv/versions/*/bin", ".local/bin",
    ".local/share/uv/python/*/bin",
)  # fmt: skip
_IN_SYSTEM = ("usr/bin", "usr/local/bin", "opt/python*/bin", "opt/conda/bin", "opt/conda/envs/*/bin")


@dataclass(frozen=True)
class Interpreter:
    """`path` is its own word for it: a shim's answer names the real one. `can_make_venv`: Debian ships venv apart."""

    path: str
    version: tuple[int, int]
    can_make_venv: bool


def best_interpreter(environ: Mapping[str, str], system: Path = Path("/")) -> Interpreter | None:
    """The first between OLDEST and NEWEST that can make a venv; else the first of them; PYTHON's before all."""
    second = None
    for path in _paths(environ, system):
        found = ask(path)
        if found and OLDEST <= found.version <= NEWEST:
            if found.can_make_venv:
                return found
            second = second or found
    return second


def ask(path: str) -> Interpreter | None:
    """Runs it; None where it is no Python that can serve: broken, without TLS or SQLite, not CPython, 32 bits."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", _ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    matched = re.match(rb"(\d+)\.(\d+) cpython 8 (venv|-) (/.+)\n$", done.stdout)
    if not matched:
        return None
    return Interpreter(os.fsdecode(matched[4]), (int(matched[1]), int(matched[2])), matched[3] == b"venv")


def _paths(environ: Mapping[str, str], system: Path) -> Iterator[str]:
    """Each file once, though links lead to it from many folders. Those that cannot be new enough are left out."""
    seen = set()
    for path in _named(environ, system):
        real = os.path.realpath(path)
        is_old = re.search(r"python(2|3\.(?:\d|10))$", real)
        if real not in seen and not is_old and os.access(path, os.X_OK):
            seen.add(real)
            yield path


def _named(environ: Mapping[str, str], system: Path) -> Iterator[str]:
    if environ.get("PYTHON"):
        yield shutil.which(environ["PYTHON"], path=environ.get("PATH")) or environ["PYTHON"]
    folders = [Path(part) for part in environ.get("PATH", "").split(os.pathsep) if part.startswith("/")]
    folders += [Path(environ[name]) / "bin" for name in ("CONDA_PREFIX", "PYENV_ROOT") if environ.get(name)]
    homes = [home for home in (home_of(environ), system / XLAB_HOME, system / "root") if home]
    places = [(home, pattern) for home in dict.fromkeys(homes) for pattern in _IN_HOME]
    for base, pattern in [*((system, pattern) for pattern in _IN_SYSTEM), *places]:
        folders += _glob(base, pattern)
    if environ.get("PYENV_ROOT"):
        folders += _glob(Path(environ["PYENV_ROOT"]), "versions/*/bin")
    for folder in folders:
        yield from (str(folder / program) for program in _PROGRAMS)


def _glob(base: Path, pattern: str) -> list[Path]:
    """Newest names last; nothing where the folder may not be read."""
    try:
        return sorted(base.glob(pattern))
    except OSError:
        return []
