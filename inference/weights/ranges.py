"""Copies ranges of bytes into a new file: within the kernel where it can, else through one small buffer.

Measured on ext4 and tmpfs: `copy_file_range` into a file whose room was taken before is as fast as `cp`; so is
`pread` and `pwrite` of 8 MiB where the kernel has no such call for this pair of files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from inference.errors import ConvertError
from inference.weights.tensors import Piece

STEP_BYTES = 32 << 20
BUFFER_BYTES = 8 << 20
SYNC_BYTES = 128 << 20
_NOT_IN_KERNEL = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF, errno.ETXTBSY}

Copy = Callable[[int, int, int, int, int], int]
"""From a descriptor to another: source, target, bytes, source offset, target offset; returns how many were copied."""


def write_file(target: Path, head: bytes, pieces: Iterable[Piece], count: Callable[[int], None]) -> None:
    """Writes `target` anew: the head, then the pieces' bytes. It is on the disk when this returns.

    `count` is told the bytes of each step and may raise. Raises ConvertError when a source ends early; OSError.
    """
    runs = list(_runs(pieces))
    size = len(head) + sum(length for _, _, length in runs)
    sources: dict[Path, int] = {}
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        _take_room(out, size)
        _write_all(out, head, 0)
        count(len(head))
        position = len(head)
        copier = Copier()
        with _Writing(out, count) as writing:
            for file, offset, length in runs:
                if file not in sources:
                    sources[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                copier.copy(file, sources[file], out, length, offset, position, writing.count)
                position += length
        os.fsync(out)
    finally:
        for descriptor in (*sources.values(), out):
            os.close(descriptor)


class _Writing:
    """Sends to the disk what is copied, beside the copying, so that little is left for the end."""

    def __init__(self, out: int, count: Callable[[int], None]) -> None:
        self._out, self._count = out, count
        self._since = 0
        self._under_way: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writing")

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if self._under_way and kind is None:
            self._under_way.result()

    def count(self, size: int) -> None:
        self._count(size)
        self._since += size
        if self._since >= SYNC_BYTES and (self._under_way is None or self._under_way.done()):
            if self._under_way:
                self._under_way.result()
            self._since = 0
            self._under_way = self._thread.submit(os.fdatasync, self._out)


class Copier:
    """Changes from the first way to the second for good when the kernel refuses."""

    def __init__(self, ways: tuple[Copy, ...] | None = None) -> None:
        self._ways = list(ways or default_ways())

    def copy(
        self, file: Path, source: int, out: int, length: int, offset: int, position: int, count: Callable[[int], None]
    ) -> None:
        while length:
            try:
                done = self._ways[0](source, out, min(length, STEP_BYTES), offset, position)
            except OSError as error:
                if error.errno not in _NOT_IN_KERNEL or len(self._ways) == 1:
                    raise
                del self._ways[0]
                continue
            if not done:
                raise ConvertError(
                    f"{file} became shorter while it was read. Let nothing write to it, and begin again."
                )
            length, offset, position = length - done, offset + done, position + done
            count(done)


def default_ways() -> tuple[Copy, ...]:
    """In the order to try them; `copy_file_range` is Linux's."""
    if hasattr(os, "copy_file_range"):
        return (os.copy_file_range, Buffered())
    return (Buffered(),)


class Buffered:
    """The second way. One buffer for all calls."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def __call__(self, source: int, out: int, length: int, offset: int, position: int) -> int:
        part = self._buffer[: min(length, BUFFER_BYTES)]
        read = os.preadv(source, [part], offset)
        _write_all(out, part[:read], position)
        return read


def sync_folder(folder: Path) -> None:
    """Makes renames in it last. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_room(out: int, size: int) -> None:
    """A full disk is then known at once, and the file lies in one piece. Not every file system can."""
    if not size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(out, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _write_all(out: int, content: bytes | memoryview, position: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(out, view, position)
        view, position = view[done:], position + done


def _runs(pieces: Iterable[Piece]) -> Iterator[tuple[Path, int, int]]:
    """File, offset and bytes; neighbours in one file are joined."""
    run: tuple[Path, int, int] | None = None
    for piece in pieces:
        for offset, length in piece.ranges:
            if run and run[0] == piece.file and run[1] + run[2] == offset:
                run = (run[0], run[1], run[2] + length)
                continue
            if run:
                yield run
            run = (piece.file, offset, length)
    if run:
        yield run
