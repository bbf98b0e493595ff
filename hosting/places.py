"""Folders that can be written here: for the history, for models, for a Python of our own."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAME = "internlm-stack"


def home_of(environ: Mapping[str, str]) -> Path | None:
    """The user's home; None where the user has none (no HOME, and no entry in passwd)."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(home) if home.startswith("/") and os.path.isdir(home) else None


def cache_of(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("XDG_CACHE_HOME", "")
    home = home_of(environ)
    return Path(named) if named.startswith("/") else home / ".cache" if home else None


def temporary(environ: Mapping[str, str]) -> Path:
    """A folder of this user in TMPDIR or /tmp; the name tells users apart."""
    named = environ.get("TMPDIR", "")
    return Path(named if named.startswith("/") else "/tmp") / ("%s-%d" % (NAME, os.getuid()))


def can_hold(folder: Path) -> bool:
    """Whether the folder is there, or can be made, and files can be written in it."""
    return _works(folder, _write)


def can_hold_database(folder: Path) -> bool:
    """The same, and SQLite works in it: it wants locks and shared memory, which network volumes may lack."""
    return _works(folder, _write_as_database)


def is_private(folder: Path) -> bool:
    """Whether nobody else could have put something into it, or put another one in its place."""
    try:
        found, above = os.lstat(folder), os.stat(folder.parent)
    except OSError:
        return False
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    is_open = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    return is_ours and above.st_uid in (0, os.getuid()) and not is_open


def free_mb(folder: Path) -> int:
    """Of the disk where the folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize // 1_000_000


def _works(folder: Path, attempt: object) -> bool:
    """A folder that did not exist before is left only where the attempt succeeded."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            assert callable(attempt)
            attempt(file)
        return True
    except OSError:
        for path in made:
            _remove_if_empty(path)
        return False


def _write(file: tempfile._TemporaryFileWrapper[bytes]) -> None:
    file.write(b"\0" * mmap.PAGESIZE)
    file.flush()


def _write_as_database(file: tempfile._TemporaryFileWrapper[bytes]) -> None:
    _write(file)
    os.fsync(file.fileno())
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with mmap.mmap(file.fileno(), mmap.PAGESIZE) as shared:
        shared[0] = 1
        shared.flush()


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
