"""Gets a model ready for the engine that will run it: fetched, converted, verified; does nothing when it already is.

`job.py` says where everything lies. An engine takes one of two forms: `gguf` (llama.cpp: a file) or `llama` (TGI and
LMDeploy: a folder in Llama's layout). The original is removed after its conversion unless INFERENCE_KEEP_ORIGINAL is
set: it is as large as the result, and can be fetched again. What a person has put there is never removed.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from inference.catalogue import FileSource, FolderSource, Model, WheelSource
from inference.convert import convert
from inference.disk import only_one, plain_disk_errors
from inference.errors import Cancelled, InferenceError, SettingsError, VerifyError
from inference.fetching import fetch_first
from inference.job import Job
from inference.manifest import MANIFEST_NAME, Manifest
from inference.model_config import read_config
from inference.plan import Form
from inference.settings import Settings
from inference.sources.half_clone import complete_clone
from inference.sources.local import check_local_file, check_local_folder
from inference.sources.pypi import PIP
from inference.status import Progress, Report
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
            case FileSource():
                if form == "llama":
                    raise _only_for_llamacpp(job)
                return check_local_file(source.path)
            case FolderSource():
                return _made_of_folder(job, source.path, form)
    if form == "llama" and not job.model.original_sources:
        raise _only_for_llamacpp(job)
    if ready := _ready(job, form):
        return ready
    with _working(job):
        return _ready(job, form) or _made(job, form)


def _only_for_llamacpp(job: Job) -> SettingsError:
    return SettingsError(
        f"{job.model.name} is a GGUF file, which only llama.cpp runs. Set INFERENCE_ENGINE=llamacpp, or choose another "
        "model."
    )


def _ready(job: Job, form: Form) -> Path | None:
    """What an earlier run left, when it is as it was."""
    if form == "llama":
        folder = job.beside("-llama")
        return folder if job.intact(folder) else None
    wheels = [source for source in job.model.gguf_sources if isinstance(source, WheelSource)]
    wanted = {source.sha256 for source in wheels}
    return (_gguf_in(job, job.folder, wanted) if wanted else None) or _gguf_in(job, job.beside("-gguf"))


def _gguf_in(job: Job, folder: Path, wanted: Collection[str] = ()) -> Path | None:
    manifest = job.intact(folder, wanted)
    names = [file.name for file in manifest.files if file.name.endswith(".gguf")] if manifest else []
    return folder / names[0] if names else None


def _made(job: Job, form: Form) -> Path:
    """Made of what a person has put there, or of what is fetched."""
    if own := _put_there(job):
        return _make(job, own, form)
    if form == "gguf" and job.model.gguf_sources:
        fetched = fetch_first(job, job.model.gguf_sources, job.beside("-gguf"), "gguf", copies=1)
        return fetched if fetched.is_file() else check_local_file(next(fetched.glob("*.gguf")))
    original = _original(job)
    made = _make(job, original, form)
    if original != made and not job.settings.keep_original:
        shutil.rmtree(original, ignore_errors=True)
    return made


def _put_there(job: Job) -> Path | None:
    """MODELS_DIR/NAME, when a person has put the model's own files there; a half clone is completed."""
    if "local" not in job.settings.sources or not (job.folder / "config.json").exists():
        return None
    complete_clone(job.folder, job.settings.hubs, job.attempts(), job.report, job.stop)
    return check_local_folder(job.folder)


def _original(job: Job) -> Path:
    original = job.beside("-original")
    if job.intact(original):
        return original
    layout = job.model.layout
    return fetch_first(job, job.model.original_sources, original, layout, copies=1 if layout == "llama" else 2)


def _made_of_folder(job: Job, folder: Path, form: Form) -> Path:
    """A folder of the person's own stays where it is; when it has to be converted, the result lies in MODELS_DIR."""
    check_local_folder(folder)
    if form == "llama" and (folder / "config.json").exists() and read_config(folder).layout == "llama":
        return _verified(job, folder)
    with _working(job):
        return _make(job, folder, form)


def _make(job: Job, source: Path, form: Form) -> Path:
    """Converted, verified and recorded, unless that has been done with these very files."""
    origin = f"converted from {source} ({_fingerprint(source)})"
    target = job.beside(f"-{form}")
    manifest = job.intact(target)
    if form == "gguf":
        return _make_gguf(job, source, target, manifest, origin)
    if manifest is None or manifest.source != origin:
        (target / MANIFEST_NAME).unlink(missing_ok=True)
        made = convert(source, target, job.report, cancelled=job.stop)
        if made == source and source == job.beside("-original"):  # it is in Llama's layout as it is
            shutil.rmtree(target, ignore_errors=True)
            source.rename(target)
            return _verified(job, target)
        if made == source:
            return _verified(job, source)
        job.record(_verified(job, target), origin, manifest.files if manifest else ())
    return target


def _make_gguf(job: Job, source: Path, folder: Path, manifest: Manifest | None, origin: str) -> Path:
    from inference.to_gguf import write_gguf  # not at the top: only this path needs NumPy

    kind = job.settings.gguf_type
    file = folder / f"{job.model.name}-{kind}.gguf"
    if manifest is None or manifest.source != origin or not file.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_gguf(source, file, kind, job.report, cancelled=job.stop)
        job.record(folder, origin)
    return file


def _fingerprint(folder: Path) -> str:
    """Tells whether the files are still those of the conversion, by their names, sizes and dates."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _verified(job: Job, folder: Path) -> Path:
    job.report(Progress("verify", message=f"checking {folder}"))
    fatal = [problem for problem in check_model(folder) if problem.is_fatal]
    if fatal:
        raise VerifyError(f"{folder} cannot be used. " + " ".join(map(str, fatal)))
    return folder


def _working(job: Job) -> AbstractContextManager[None]:
    job.settings.models_dir.mkdir(parents=True, exist_ok=True)
    return only_one(job.beside(".lock"), job.report, job.stop)
