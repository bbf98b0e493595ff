"""What every place that a model can be fetched from has in common, and how one is fetched from it.

A fetch goes on in the folder where an earlier one stopped. It tries again after a broken connection, and stops trying
when several attempts in a row have brought nothing. At the end every file has its size, and its SHA-256 where the
repository or the catalogue tells it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from inference.catalogue import RemoteFile
from inference.errors import DiskFull, SourceError, VerifyError
from inference.manifest import FileRecord, check_sha256, record_file, sha256_of
from inference.sizes import megabytes
from inference.sources.child import stop_if
from inference.sources.reasons import ConnectionLost
from inference.status import Progress, Report

DISK_MARGIN_BYTES = 64 << 20
LONGEST_PAUSE_S = 30.0

OnBytes = Callable[[int], None]
"""Is told how many bytes of all wanted files are there now."""


class Remote(Protocol):
    """One model repository somewhere. `title` names it for people."""

    title: str

    def list_files(self, folder: Path, stop: threading.Event) -> tuple[RemoteFile, ...]:
        """All its files with their sizes. Raises SourceError; ConnectionLost when it may help to ask again."""

    def fetch(self, files: tuple[RemoteFile, ...], folder: Path, on_bytes: OnBytes, stop: threading.Event) -> None:
        """Bring these files into `folder`, going on from what is there. Raises as `list_files`, and DiskFull."""


class Attempts:
    """Counts failures in a row without progress; pauses 1, 2, 4 … 30 s between them."""

    def __init__(self, most: int, report: Report, stop: threading.Event, *, first_pause_s: float = 1.0) -> None:
        self._most = most
        self._report = report
        self._stop = stop
        self._first_pause_s = first_pause_s
        self._failed = 0
        self._done = -1

    def failed(self, error: ConnectionLost, done: int = 0) -> None:
        """Pause before the next attempt; raises the error when there is none. `done` bytes are there by now."""
        self._failed = 1 if done > self._done else self._failed + 1
        self._done = max(done, self._done)
        if self._failed >= self._most:
            raise SourceError(f"{error.message} Given up after {_times(self._most)}; the next start goes on from here.")
        pause = min(LONGEST_PAUSE_S, self._first_pause_s * 2 ** (self._failed - 1))
        self._report(
            Progress(
                "download", message=f"{error.message} Trying again in {pause:.0f} s ({self._failed} of {self._most})."
            )
        )
        self._stop.wait(pause)
        stop_if(self._stop)


def _times(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def list_files(remote: Remote, folder: Path, attempts: Attempts, stop: threading.Event) -> tuple[RemoteFile, ...]:
    while True:
        try:
            return remote.list_files(folder, stop)
        except ConnectionLost as error:
            attempts.failed(error)


def fetch_files(
    remote: Remote,
    files: tuple[RemoteFile, ...],
    folder: Path,
    attempts: Attempts,
    report: Report,
    stop: threading.Event,
) -> tuple[FileRecord, ...]:
    """Bring the files into `folder` and check them; returns their records."""
    total = total_bytes(files)
    message = f"fetching {len(files)} files ({megabytes(total)}) from {remote.title}"
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done = count
        report(Progress("download", min(count, total), total, message))

    while True:
        try:
            remote.fetch(files, folder, on_bytes, stop)
            break
        except ConnectionLost as error:
            attempts.failed(error, done)
    on_bytes(total)
    return check_files(folder, files, report, stop)


def check_files(
    folder: Path, files: tuple[RemoteFile, ...], report: Report, stop: threading.Event
) -> tuple[FileRecord, ...]:
    """Sizes and hashes against what was promised. A file that differs is removed, so that it is fetched again."""
    total = total_bytes(files)
    records = []
    before = 0
    for file in files:

        def count(done: int, before: int = before, name: str = file.name) -> None:
            stop_if(stop)
            report(Progress("verify", before + done, total, "checking what was fetched"))

        path = folder / file.name
        try:
            records.append(_checked(path, file, count))
        except VerifyError as error:
            path.unlink(missing_ok=True)
            raise VerifyError(f"{error.message} It was removed; start again to fetch it anew.") from None
        before += records[-1].size_bytes
    return tuple(records)


def _checked(path: Path, file: RemoteFile, count: Callable[[int], None]) -> FileRecord:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VerifyError(f"{path.name} did not come ({error.strerror}).") from None
    if file.size_bytes is not None and size != file.size_bytes:
        raise VerifyError(f"{path.name} has {size} bytes instead of {file.size_bytes}: it was cut.")
    if file.sha256 is None:
        return record_file(path, sha256_of(path, count))
    check_sha256(path, file.sha256, count)
    return record_file(path, file.sha256)


def agreed(listed: Iterable[RemoteFile], promised: Iterable[RemoteFile], title: str) -> tuple[RemoteFile, ...]:
    """The listed files, with what the catalogue promises about them. Raises VerifyError where the two differ."""
    known = {file.name: file for file in promised}
    result = []
    for file in listed:
        promise = known.get(file.name, file)
        for ours, theirs in ((promise.size_bytes, file.size_bytes), (promise.sha256, file.sha256)):
            if ours is not None and theirs is not None and ours != theirs:
                raise VerifyError(
                    f"{title} offers another {file.name} than the catalogue names ({theirs} instead of {ours}). "
                    "It may have been renewed: look there, and correct the entry, or take another source."
                )
        result.append(
            replace(file, size_bytes=file.size_bytes or promise.size_bytes, sha256=file.sha256 or promise.sha256)
        )
    return tuple(result)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises DiskFull with the numbers. `needed` bytes are what is still to be written."""
    free = shutil.disk_usage(folder).free
    if free < needed + DISK_MARGIN_BYTES:
        raise DiskFull(
            f"{what} needs {megabytes(needed + DISK_MARGIN_BYTES)} of free disk, but {folder} has {megabytes(free)}. "
            "Free some space, or set MODELS_DIR to another disk."
        )


def total_bytes(files: Iterable[RemoteFile]) -> int:
    return sum(file.size_bytes or 0 for file in files)


def bytes_there(files: Iterable[RemoteFile], folder: Path) -> int:
    """How much of these files is complete in `folder`."""
    return sum(file.size_bytes or 0 for file in files if is_there(file, folder))


def is_there(file: RemoteFile, folder: Path) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size_bytes
