"""Who may run an engine for a data folder, and what a killed owner has left behind.

Each process of an engine has the owner's mark in its environment and each container has it as a label, so that what
has left its process group, or is no child of ours, is found again. A lock on `DATA_DIR/engine.lock` is held while an
engine runs: whoever holds it knows that everything with its mark is a leftover.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inference.errors import StartFailed

OWNER_VARIABLE = "INFERENCE_OWNER"
PROCESSES = Path("/proc")


def owner_mark(data_dir: Path) -> str:
    return hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]


@contextmanager
def claimed(data_dir: Path) -> Iterator[None]:
    """Hold the lock. Raises StartFailed when another process holds it."""
    path = data_dir / "engine.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartFailed(f"{path} cannot be written: {error.strerror}. Set DATA_DIR to a folder that can.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartFailed(
            f"Another process runs an engine for {data_dir} already. Stop that one, or set DATA_DIR to another folder."
        ) from None
    finally:
        os.close(descriptor)


def end_strays(mark: str) -> int:
    """Kill every process with this mark but ourselves; returns how many. On systems without /proc there are none."""
    ended = 0
    wanted = f"{OWNER_VARIABLE}={mark}".encode()
    for folder in PROCESSES.glob("[0-9]*"):
        pid = int(folder.name)
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if pid != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                ended += 1
    return ended
