"""A folder of converted files that appears whole: each file under another name until it is on the disk, one last.

TARGET/.conversion.json       what is finished, and from which source; a second run goes on from it
TARGET/.NAME.partial          a file under way; engines open `*.safetensors` only
TARGET/config.json            (of an adapter: adapter_config.json) written last; without it nothing loads the folder

A shard is taken for finished when the record says so, its size and head are as planned, and the source's file has the
size and the modification time that it had.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inference.errors import Cancelled, ConvertError, DiskFull, InferenceError
from inference.sizes import megabytes
from inference.status import Progress, Report
from inference.weights.ranges import sync_folder, write_file
from inference.weights.safetensors import render_head
from inference.weights.tensors import Piece

RECORD_NAME = ".conversion.json"
DISK_MARGIN_BYTES = 64 << 20
_VERSION = 1  # of what is written; a higher one has everything written anew


@dataclass(frozen=True)
class Output:
    """A file of weights to be made of `pieces`; with `link` that file is taken as it is, by a link where possible."""

    name: str
    pieces: tuple[Piece, ...]
    link: Path | None = None

    @property
    def source(self) -> Path:
        return self.link or self.pieces[0].file

    @property
    def head(self) -> bytes:
        return b"" if self.link else render_head(self.pieces, {"format": "pt"})

    @property
    def size_bytes(self) -> int:
        return self.link.stat().st_size if self.link else len(self.head) + sum(one.size_bytes for one in self.pieces)


@dataclass(frozen=True)
class Finished:
    """The record of one file of weights: what it was made of."""

    name: str
    size_bytes: int
    plan_sha256: str
    source_bytes: int
    source_mtime_ns: int


@dataclass(frozen=True)
class SmallFile:
    """A small file to be written, by `write`, to the path that it is given."""

    name: str
    write: Callable[[Path], None]


def write_folder(
    target: Path,
    outputs: Sequence[Output],
    small: Sequence[SmallFile],
    settings: Sequence[Path],
    report: Report,
    cancelled: threading.Event,
) -> None:
    """Makes the folder, or what is missing of it. `settings` are the files that the small files are made of.

    The last of `small` is the one without which the folder cannot be used. Raises ConvertError, DiskFull, Cancelled.
    """
    with plain_disk_errors(target):
        _check_target(target, outputs)
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            _Work(target, outputs, small, _sha256(settings), report, cancelled).run()


class _Work:
    def __init__(
        self,
        target: Path,
        outputs: Sequence[Output],
        small: Sequence[SmallFile],
        settings: str,
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        self._target, self._outputs, self._small = target, outputs, small
        self._settings, self._report, self._cancelled = settings, report, cancelled
        self._finished: list[Finished] = []
        self._done = self._total = 0
        self._message = ""

    def run(self) -> None:
        before = read_record(self._target)
        planned = {output.name: _finished(output) for output in self._outputs}
        self._finished = [one for one in before.finished if self._is_there(one, planned)]
        left = [output for output in self._outputs if planned[output.name] not in self._finished]
        last = self._target / self._small[-1].name
        if not left and before.is_complete and before.settings == self._settings and self._has_small():
            self._report(Progress("convert", message=f"{self._target} is converted already"))
            return
        last.unlink(missing_ok=True)
        self._clear(before, planned)
        self._write_record()
        self._check_room(left)
        self._total = sum(output.size_bytes for output in left)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="small-files") as beside:
            small = beside.submit(self._write_small, self._small[:-1])
            for number, output in enumerate(left, start=len(self._outputs) - len(left) + 1):
                self._message = f"converting the weights to {self._target}: file {number} of {len(self._outputs)}"
                self._write(output, planned[output.name])
            self._report(Progress("convert", message="writing the tokenizer and the settings"))
            small.result()
        self._write_small(self._small[-1:])
        self._write_record(is_complete=True)

    def _write_small(self, files: Sequence[SmallFile]) -> None:
        """Beside the weights, since the tokenizer takes a second of computing and they take none."""
        for one in files:
            self._stop_if_cancelled()
            self._place(one.name, one.write)

    def _has_small(self) -> bool:
        return all((self._target / one.name).exists() for one in self._small)

    def _is_there(self, one: Finished, planned: dict[str, Finished]) -> bool:
        path = self._target / one.name
        if planned.get(one.name) != one or not path.is_file() or path.stat().st_size != one.size_bytes:
            return False
        head = next(output.head for output in self._outputs if output.name == one.name)
        with path.open("rb") as file:
            return file.read(len(head)) == head

    def _clear(self, before: Record, planned: dict[str, Finished]) -> None:
        """Remove what an earlier run left: files under way, and weights that are not of this conversion."""
        for path in self._target.glob(".*.partial"):
            path.unlink()
        kept = {one.name for one in self._finished}
        small = {one.name for one in self._small}
        for name in (before.names | set(before.small)) - kept - small:
            (self._target / name).unlink(missing_ok=True)
        strays = [path.name for path in self._target.glob("*.safetensors") if path.name not in kept | planned.keys()]
        if strays:
            raise ConvertError(
                f"{self._target} holds {', '.join(sorted(strays))}, which engines would load too. Remove it, or name "
                "another folder."
            )

    def _check_room(self, left: Sequence[Output]) -> None:
        needed = sum(output.size_bytes for output in left if not output.link) + DISK_MARGIN_BYTES
        free = shutil.disk_usage(self._target).free
        if free < needed:
            raise DiskFull(
                f"The conversion needs {megabytes(needed)} more, but {self._target} has {megabytes(free)} free. Free "
                "some space, or name a folder on another disk."
            )

    def _write(self, output: Output, finished: Finished) -> None:
        self._place(output.name, lambda path: self._fill(path, output))
        if _finished(output) != finished:
            (self._target / output.name).unlink()
            raise ConvertError(f"{output.source} was changed while it was converted. Begin again when it is complete.")
        self._finished.append(finished)
        self._write_record()

    def _fill(self, path: Path, output: Output) -> None:
        if output.link is None:
            write_file(path, output.head, output.pieces, self._count)
            return
        try:
            os.link(output.link.resolve(), path)
            self._count(output.size_bytes)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            size = output.size_bytes
            write_file(path, b"", [Piece("", "U8", (size,), output.link, ((0, size),))], self._count)

    def _place(self, name: str, write: Callable[[Path], None]) -> None:
        """The file, under its name only when it is whole and on the disk."""
        path = self._target / f".{name}.partial"
        path.unlink(missing_ok=True)
        try:
            write(path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(self._target / name)
        except BaseException:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        sync_folder(self._target)

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("Stopped while the model was being converted. The next run goes on with the next file.")

    def _count(self, size: int) -> None:
        self._stop_if_cancelled()
        self._done += size
        self._report(Progress("convert", self._done, self._total, self._message))

    def _write_record(self, *, is_complete: bool = False) -> None:
        finished = sorted(self._finished, key=lambda one: one.name)
        small = tuple(one.name for one in self._small)
        record = Record(is_complete, self._settings, tuple(finished), small)
        self._place(RECORD_NAME, lambda path: write_json(path, {"version": _VERSION, **asdict(record)}))


@dataclass(frozen=True)
class Record:
    """`settings` is the hash of the small files' sources, `small` are their names."""

    is_complete: bool
    settings: str
    finished: tuple[Finished, ...]
    small: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        return {one.name for one in self.finished}


def read_record(target: Path) -> Record:
    """What an earlier run finished; nothing when there is no record, or one that cannot be understood."""
    try:
        content = json.loads((target / RECORD_NAME).read_bytes())
        finished = tuple(Finished(**one) for one in content["finished"])
        small = tuple(map(str, content["small"]))
        names = [*small, *(one.name for one in finished)]
        if content["version"] == _VERSION and not any("/" in name or name in ("", ".", "..") for name in names):
            return Record(bool(content["is_complete"]), str(content["settings"]), finished, small)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return Record(False, "", (), ())


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def plain_disk_errors(target: Path) -> Iterator[None]:
    """File system errors on the way become ours."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error, target) from None


def _disk_error(error: OSError, target: Path) -> InferenceError:
    where = error.filename or target
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"The disk became full at {target}. Free some space, and begin again; what is finished stays.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConvertError(f"{where} may not be written (or read) by this user. Mend its permissions.")
    return ConvertError(f"{where} cannot be used: {error.strerror}.")


def _check_target(target: Path, outputs: Sequence[Output]) -> None:
    if target.exists() and not target.is_dir():
        raise ConvertError(f"{target} is a file. Name a folder to write the converted model to.")
    sources = {output.source.parent.resolve() for output in outputs} | {output.source.parent for output in outputs}
    if target.resolve() in sources:
        raise ConvertError(f"{target} is the model's own folder. Nothing is converted in place; name another folder.")
    foreign = [path.name for path in target.iterdir() if not path.name.startswith(".")] if target.exists() else []
    if foreign and not (target / RECORD_NAME).exists():
        raise ConvertError(
            f"{target} holds other files ({sorted(foreign)[0]} and so on). Name an empty folder, or one that is not "
            "there yet."
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConvertError(f"Another process is converting to {target}. Wait for it, or name another folder.") from None
    finally:
        os.close(descriptor)


def _finished(output: Output) -> Finished:
    """What the record will say once the file is there. The plan comes from the source's head and config."""
    found = output.source.stat()
    plan = repr([(one.name, one.dtype, one.shape, one.ranges) for one in output.pieces])
    sha256 = hashlib.sha256(f"{output.source.resolve()} {plan}".encode()).hexdigest()
    return Finished(output.name, output.size_bytes, sha256, found.st_size, found.st_mtime_ns)


def _sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {os.fstat(file.fileno()).st_size}\n".encode())
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
