"""Client libraries under build/, installed from their lock files: once, and again when a lock file has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build"


def javascript() -> Path:
    """A folder with the cases of tests/clients/js beside the packages that they import."""
    if not shutil.which("node") or not shutil.which("npm"):
        _do_without("no node or npm: install the packages `nodejs` and `npm` of Debian or Ubuntu")
    folder = BUILD / "clients-js"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (HERE / "js").iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    _once(folder, folder / "package-lock.json", ["npm", "ci", "--no-audit", "--no-fund"])
    return folder


def python() -> Path:
    """The Python of a virtual environment with what requirements-clients.lock names."""
    folder, lock = BUILD / "clients-venv", ROOT / "requirements-clients.lock"
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _once(folder, lock, [*install, "--require-hashes", "-r", str(lock)])
    return interpreter


def _once(folder: Path, lock: Path, command: list[str]) -> None:
    stamp, wanted = folder / "installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        _do_without(f"what {lock.name} names could not be installed:\n{done.stdout[-2000:]}")
    stamp.write_text(wanted)


def _do_without(reason: str) -> None:
    """Skips; in CI, where these tests may not be skipped, fails."""
    say = pytest.fail if "clients" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
    say(reason)
