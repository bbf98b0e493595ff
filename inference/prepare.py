"""Gets a model ready for the engine that will run it: fetched, converted, verified; does nothing when it already is.

`job.py` says where everything lies. An engine takes one of two forms: `gguf` (llama.cpp: a file) or `llama` (TGI and
LMDeploy: a folder in Llama's layout). The original is removed after its conversion unless INFERENCE_KEEP_ORIGINAL is
set: it is as large as the result, and can be fetched again. What a person has put there is never removed.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from inference.catalogue import FileSource, FolderSource, HubSource, Layout, Model, WheelSource
from inference.convert import convert
from inference.disk import only_one, plain_disk_errors
from inference.errors import Cancelled, InferenceError, SettingsError, VerifyError
from inference.fetching import fetch_first
from inference.job import Form, Job
from inference.model_config import read_config
from inference.settings import Settings
from inference.sources.half_clone import complete_clone
from inference.sources.local import check_local_file, check_local_folder
from inference.sources.pypi import PIP
from inference.sources.remote import Attempts
from inference.status import Progress, Report
from inference.to_gguf import write_gguf
from inference.verify import check_model


def prepare(
    model: Model,
    settings: Settings,
    report: Report,
    *,
    form: Form = "gguf",
    cancelled: threading.Event | None = None,
    pip: tuple[str, ...] = PIP,
) -> Path:
    """Returns what the engine takes, verified. Blocks (for a worker thread); set `cancelled` to stop it early.

    Raises SettingsError, SourceError, VerifyError, ConvertError, DiskFull, UnknownModel or Cancelled; all but the last
    are reported, too.
    """
    job = Job(model, settings, report, cancelled or threading.Event(), pip)
    try:
        with plain_disk_errors(settings.models_dir):
            return _prepare(job, form)
    except Cancelled:
        raise
    except InferenceError as error:
        report(Progress("failed", message=error.message))
        raise


def _prepare(job: Job, form: Form) -> Path:
    for source in job.model.sources:
        match source:
            case FileSource() if form == "gguf":
                return check_local_file(source.path)
            case FolderSource():
                return _made_of_folder(job, source.path, form)
            case _:
                continue
    if form == "gguf" and job.model.gguf_sources:
        return _ready_made(job)
    if not job.model.original_sources:
        raise SettingsError(
            f"{job.model.name} is a GGUF file, which only llama.cpp runs. Set INFERENCE_ENGINE=llamacpp, or choose "
            "another model."
        )
    return _made_of_original(job, form)


def _ready_made(job: Job) -> Path:
    """llama.cpp's file as the source has it."""
    sources = job.model.gguf_sources
    wanted = {
        sha256
        for source in sources
        for sha256 in (
            [source.sha256]
            if isinstance(source, WheelSource)
            else [file.sha256 for file in source.files]
            if isinstance(source, HubSource)
            else []
        )
        if sha256
    }
    if ready := _gguf_in(job, job.folder, wanted):
        return ready
    with _working(job):
        if ready := _gguf_in(job, job.folder, wanted):
            return ready
        fetched = fetch_first(job, sources, job.folder, "gguf", copies=1)
        return fetched if fetched.is_file() else check_local_file(next(fetched.glob("*.gguf")))


def _gguf_in(job: Job, folder: Path, wanted: set[str]) -> Path | None:
    manifest = job.intact(folder, wanted)
    names = [file.name for file in manifest.files if file.name.endswith(".gguf")] if manifest else []
    return folder / names[0] if names else None


def _made_of_original(job: Job, form: Form) -> Path:
    """Converted from the repository's own files, which are fetched when they are not here."""
    if ready := _made(job, form):
        return ready
    with _working(job):
        if ready := _made(job, form):
            return ready
        own = _put_there(job)
        original = own or _original(job)
        made = _make(job, original, form)
        if original not in (made, own) and not job.settings.keep_original:
            shutil.rmtree(original, ignore_errors=True)
        return made


def _made_of_folder(job: Job, folder: Path, form: Form) -> Path:
    """A folder of the person's own stays where it is, and is converted beside our other models when it has to be."""
    check_local_folder(folder)
    if form == "llama" and not _is_adapter(folder) and read_config(folder).layout == "llama":
        return _verified(job, folder)
    with _working(job):
        return _make(job, folder, form)


def _is_adapter(folder: Path) -> bool:
    return not (folder / "config.json").exists()


def _put_there(job: Job) -> Path | None:
    """MODELS_DIR/NAME, when a person has put the model's own files there; a half clone is completed."""
    if "local" not in job.settings.sources or not (job.folder / "config.json").exists():
        return None
    complete_clone(job.folder, job.settings.hubs, _attempts(job), job.report, job.stop)
    return check_local_folder(job.folder)


def _original(job: Job) -> Path:
    original = job.beside("-original")
    if job.intact(original):
        return original
    layout: Layout = job.model.layout
    return fetch_first(job, job.model.original_sources, original, layout, copies=1 if layout == "llama" else 2)


def _made(job: Job, form: Form) -> Path | None:
    """What an earlier run has made, when it is as it was."""
    folder = job.beside(f"-{form}")
    if form == "gguf":
        return _gguf_in(job, folder, set())
    return folder if job.intact(folder) else None


def _make(job: Job, source: Path, form: Form) -> Path:
    target = job.beside(f"-{form}")
    if form == "gguf":
        return _make_gguf(job, source, target)
    made = convert(source, target, job.report, cancelled=job.stop)
    if made == source and source == job.beside("-original"):  # it is in Llama's layout as it is
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
    elif made == source:
        return _verified(job, source)
    _verified(job, target)
    if job.intact(target) is None:
        job.record(target, f"converted from {source}")
    return target


def _make_gguf(job: Job, source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kind = job.settings.gguf_type
    file = write_gguf(source, folder / f"{job.model.name}-{kind}.gguf", kind, job.report, cancelled=job.stop)
    for other in folder.glob("*.gguf"):
        if other != file:
            other.unlink()
    job.record(folder, f"converted from {source}")
    return file


def _verified(job: Job, folder: Path) -> Path:
    job.report(Progress("verify", message=f"checking {folder}"))
    fatal = [problem for problem in check_model(folder) if problem.is_fatal]
    if fatal:
        told = " ".join(f"{problem.file}: {problem.message}" for problem in fatal)
        raise VerifyError(f"{folder} cannot be used. {told}")
    return folder


def _working(job: Job):  # type: ignore[no-untyped-def]
    job.settings.models_dir.mkdir(parents=True, exist_ok=True)
    return only_one(job.beside(".lock"), job.report, job.stop)


def _attempts(job: Job) -> Attempts:
    return Attempts(job.settings.download_attempts, job.report, job.stop)
