"""Git LFS's own formats: the pointer that stands for a file, the progress that git-lfs writes, its store on this disk.

Pointer: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md (UTF-8 text below 1024 bytes; keys `version`, `oid`,
`size`). Progress (GIT_LFS_PROGRESS, git-lfs-config(5)): lines `<direction> <n>/<files> <done>/<bytes> <name>`.
Store: `.git/lfs/objects/aa/bb/OID`; `.git/lfs/incomplete/OID.part` is what git-lfs goes on from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LFS_MARK = b"version https://git-lfs"
MOST_POINTER_BYTES = 1024
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize (\d+)\n?"
)
_PROGRESS = re.compile(r"(\w+) (\d+)/(\d+) (\d+)/(\d+) (.*)")


@dataclass(frozen=True)
class Pointer:
    """What a pointer stands for: the file's SHA-256 (lower-case hex) and its size in bytes."""

    oid: str
    size_bytes: int

    def encode(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size_bytes}\n".encode()


def parse_pointer(content: bytes) -> Pointer | None:
    """The pointer that these bytes are, or None when they are something else."""
    found = _POINTER.fullmatch(content) if len(content) < MOST_POINTER_BYTES else None
    return Pointer(found[1].decode(), int(found[2])) if found else None


def is_pointer_file(path: Path) -> bool:
    """Whether the file was checked out without LFS. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(LFS_MARK)) == LFS_MARK


def object_path(git_folder: Path, oid: str) -> Path:
    return git_folder / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


def rescue_incomplete(git_folder: Path, oids: Iterable[str]) -> None:
    """Lets git-lfs go on where a killed one stopped.

    It loads into `incomplete/OID<random>` and renames that to `OID.part` when a connection breaks, but not when it is
    killed; and it goes on from `OID.part` only.
    """
    folder = git_folder / "lfs" / "incomplete"
    for oid in oids:
        found = sorted(folder.glob(f"{oid}*"), key=lambda path: path.stat().st_size)
        with suppress(OSError):
            for smaller in found[:-1]:
                smaller.unlink()
            if found:
                found[-1].rename(folder / f"{oid}.part")


@dataclass
class TransferLog:
    """Reads the file of GIT_LFS_PROGRESS while git-lfs writes it; `done_bytes` is the sum over all files."""

    path: Path
    _offset: int = 0
    _rest: str = ""
    _done: dict[str, int] = field(default_factory=dict)

    def read(self) -> int:
        """Take what is new; returns the bytes that have been moved so far."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            block = file.read()
            self._offset += len(block)
            *lines, self._rest = (self._rest + block.decode("utf-8", "replace")).split("\n")
            for line in lines:
                if (found := _PROGRESS.fullmatch(line)) and found[1] in ("download", "upload"):
                    self._done[found[6]] = int(found[4])
        return sum(self._done.values())
