"""Folders of models on the disk: one process at a time, whole or not at all, and errors in plain words."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.errors import Cancelled, DiskFull, InferenceError, SourceError
from inference.status import Progress, Report


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards, unless it was renamed to its final place."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def only_one(path: Path, report: Report, cancelled: threading.Event) -> Iterator[None]:
    """Hold the lock file; waits for another process that holds it. The file stays, the lock ends with the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try_lock(descriptor):
            if cancelled.is_set():
                raise Cancelled("Stopped while waiting for another process that fetches the same model.")
            report(Progress("download", message="another process is fetching this model; waiting for it"))
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def plain_disk_errors(models_dir: Path) -> Iterator[None]:
    """File system errors on the way become ours."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error, models_dir) from None


def _disk_error(error: OSError, models_dir: Path) -> InferenceError:
    where = error.filename or models_dir
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The disk became full at {where}. Free some space, or set MODELS_DIR to another disk.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SourceError(f"{where} may not be written by this user. Mend its permissions, or set MODELS_DIR.")
    return SourceError(f"The models folder cannot be used: {where}: {error.strerror}. Set MODELS_DIR to another one.")
