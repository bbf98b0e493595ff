"""Where an engine listens: a private folder for its Unix socket, or ports of this machine for those without one.

Only this user gets into the folder, and its path is short enough.

Linux takes socket paths of at most 107 bytes, so the data folder will not do. The name holds our process id; what a
killed run left is removed by the next one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from inference.errors import SettingsError, StartFailed

LONGEST_FOLDER = 80
_NAME = re.compile(r"inference-(\d+)-\w+")


@contextmanager
def socket_folder(parents: Sequence[Path]) -> Iterator[Path]:
    """A new folder with mode 0700 in the first of `parents` that will do; removed afterwards with what is in it.

    Raises SettingsError when none will do.
    """
    folder = _make(parents)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(parents: Sequence[Path]) -> Path:
    for parent in parents:
        if len(os.fsencode(parent)) > LONGEST_FOLDER:
            continue
        try:
            _remove_leftovers(parent)
            return Path(tempfile.mkdtemp(prefix=f"inference-{os.getpid()}-", dir=parent))
        except OSError:
            continue
    names = ", ".join(map(str, parents))
    raise SettingsError(
        f"No folder for the engine's socket: {names} cannot be written, or the path is too long. "
        "Set TMPDIR to a folder with a short path that this user can write."
    )


def _remove_leftovers(parent: Path) -> None:
    for folder in parent.glob("inference-*"):
        match = _NAME.fullmatch(folder.name)
        if match and not _is_running(int(match[1])) and folder.lstat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def free_ports(count: int) -> tuple[int, ...]:
    """Different TCP ports of the loopback address that nobody has now; the kernel gives out others for a good while."""
    with ExitStack() as held:
        taken = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return tuple(one.getsockname()[1] for one in taken)


def check_port(port: int) -> None:
    """Raises StartFailed when another program has it: an engine finds out only after loading its model."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartFailed(
                f"Port {port} on 127.0.0.1, where the engine is to listen, cannot be used: {error.strerror}. "
                "Start again: another port is chosen then."
            ) from None
