"""Our record of a prepared model folder: which files belong to it, how large they are and what is in them.

Format: `manifest.json` in the folder, a JSON object with `source` (text for people) and `files`, a list of objects
with `name`, `size_bytes`, `sha256` and `mtime_ns`. A file whose size and modification time are as recorded is taken
for unchanged; otherwise it is hashed again. So a start costs two look-ups, and a changed file is never used unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from inference.errors import VerifyError

MANIFEST_NAME = "manifest.json"
BLOCK_BYTES = 1 << 20

Count = Callable[[int], None]
"""Is called with the number of bytes worked on so far; may raise to stop the work."""


@dataclass(frozen=True)
class FileRecord:
    name: str
    size_bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    source: str
    files: tuple[FileRecord, ...]


def record_file(path: Path, sha256: str) -> FileRecord:
    """The record of a file whose hash is known already."""
    found = path.stat()
    return FileRecord(path.name, found.st_size, sha256, found.st_mtime_ns)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it atomically. Raises OSError."""
    beside = folder / f".{MANIFEST_NAME}.{os.getpid()}"
    beside.write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    beside.replace(folder / MANIFEST_NAME)


def read_manifest(folder: Path) -> Manifest:
    """Raises VerifyError when it is missing or is not ours."""
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(FileRecord(**one) for one in content["files"])
        return Manifest(str(content["source"]), files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerifyError(f"{path} cannot be read ({error}).") from None


def verify_folder(folder: Path, count: Count) -> Manifest:
    """Check all files against the manifest; returns it with the modification times found now.

    Raises VerifyError naming the file with the expected and the found size or hash.
    """
    manifest = read_manifest(folder)
    return replace(manifest, files=tuple(_verified(folder, record, count) for record in manifest.files))


def _verified(folder: Path, record: FileRecord, count: Count) -> FileRecord:
    path = folder / record.name
    try:
        found = path.stat()
    except OSError as error:
        raise VerifyError(f"{path} is missing ({error.strerror}).") from None
    if found.st_size != record.size_bytes:
        raise VerifyError(f"{path} has {found.st_size} bytes instead of {record.size_bytes}.")
    if found.st_mtime_ns == record.mtime_ns:
        return record
    check_sha256(path, record.sha256, count)
    return replace(record, mtime_ns=found.st_mtime_ns)


def check_sha256(path: Path, expected: str, count: Count) -> None:
    """Raises VerifyError when the file's SHA-256 is another one, or when it cannot be read."""
    found = sha256_of(path, count)
    if found != expected:
        raise VerifyError(f"{path} has the SHA-256 {found} instead of {expected}.")


def sha256_of(path: Path, count: Count) -> str:
    """In lower-case hex. Raises VerifyError when the file cannot be read."""
    digest = hashlib.sha256()
    done = 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                count(done)
    except OSError as error:
        raise VerifyError(f"{path} cannot be read ({error.strerror}).") from None
    return digest.hexdigest()
