"""Publishes a model's folder: checked, compared with what is there, sent, read back. Does nothing when all is there.

Nothing is written to the folder. The work lies in DATA_DIR/publish/PLACE; the next run goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from inference.disk import only_one
from inference.errors import SourceError, UploadError, VerifyError
from inference.manifest import MANIFEST_NAME, read_manifest, sha256_of
from inference.publishing.contents import Contents, read_contents
from inference.publishing.create import create_repository
from inference.publishing.git_push import GitPush
from inference.publishing.hub_push import HubPush
from inference.publishing.target import Target
from inference.settings import Settings
from inference.sizes import megabytes
from inference.sources.child import stop_if
from inference.sources.git import Git, require_git
from inference.sources.reasons import ConnectionLost
from inference.sources.remote import Attempts, check_room
from inference.status import Progress, Report
from inference.verify import check_model

T = TypeVar("T")
WORK_BYTES = 100_000_000  # git's store of small files; weights are not copied


@dataclass(frozen=True)
class Published:
    """What happened: `added` and `removed` files of the repository; nothing was `sent` in a dry run or a second run."""

    where: str
    commit: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: tuple[str, ...]
    size_bytes: int
    sent: bool


def publish(
    folder: Path,
    target: Target,
    settings: Settings,
    report: Report,
    *,
    is_dry_run: bool = False,
    create: bool = False,
    cancelled: threading.Event | None = None,
) -> Published:
    """Blocks (for a worker thread); set `cancelled` to stop it early. `create`: make the repository if there is none.

    Raises UploadError, VerifyError (the folder cannot be used), SourceError (git is missing), DiskFull or Cancelled.
    """
    stop = cancelled or threading.Event()
    try:
        _check(folder, report)
        contents = read_contents(folder, settings.hubs.secrets())
        work = settings.data_dir / "publish" / _slug(target.title)
        work.mkdir(parents=True, exist_ok=True)
        check_room(work, WORK_BYTES, "A publication")
        if create and not is_dry_run:
            create_repository(target, settings.hubs, stop)
        with only_one(work / "lock", report, stop):
            hashes = _hashes(folder, contents, work / "hashes.json", report, stop)
            report(Progress("publish", message=f"comparing {folder} with {target.title}"))
            attempts = Attempts(settings.download_attempts, report, stop)
            return _repeated(_sender(folder, target, contents, hashes, work, report, stop, is_dry_run), attempts)
    except OSError as error:
        raise UploadError(f"{error.filename or folder} cannot be used: {error.strerror}.") from None


def _check(folder: Path, report: Report) -> None:
    if not folder.is_dir():
        raise VerifyError(f"{folder} is no folder. Name the folder that holds the model's files.")
    report(Progress("verify", message=f"checking {folder}"))
    if fatal := [problem for problem in check_model(folder) if problem.is_fatal]:
        raise VerifyError(f"{folder} is not fit to be published. " + " ".join(map(str, fatal)))


def _sender(
    folder: Path,
    target: Target,
    contents: Contents,
    hashes: dict[str, str],
    work: Path,
    report: Report,
    stop: threading.Event,
    is_dry_run: bool,
) -> Callable[[], Published]:
    """One attempt, as a function."""
    name = folder.resolve().name
    push: GitPush | HubPush
    if target.git:
        require_git()
        push = GitPush(Git(work, target.git, stop), contents, hashes, name=name, token_name=target.token_name)
    else:
        push = HubPush(target, contents, hashes, work, stop, name=name)

    def attempt() -> Published:
        change, send = push.plan()
        is_sent = change.is_needed and not is_dry_run
        commit = change.base if is_dry_run else send(report)
        return Published(
            target.title, commit, change.added, change.removed, contents.left_out, contents.size_bytes, is_sent
        )

    return attempt


def _repeated(work: Callable[[], T], attempts: Attempts) -> T:
    while True:
        try:
            return work()
        except ConnectionLost as error:
            try:
                attempts.failed(error)
            except SourceError as last:
                raise UploadError(last.message) from None


def _hashes(
    folder: Path, contents: Contents, known_file: Path, report: Report, stop: threading.Event
) -> dict[str, str]:
    """The SHA-256 of each file; those of unchanged files are known from the last run or from our own manifest."""
    known = _known_hashes(folder, known_file)
    hashes: dict[str, str] = {}
    done = 0
    for name, path in contents.files.items():

        def count(size: int, before: int = done) -> None:
            stop_if(stop)
            report(Progress("verify", before + size, contents.size_bytes, "computing the files' hashes"))

        key = _key(name, path)
        hashes[key] = known.get(key) or sha256_of(path, count)
        done += path.stat().st_size
        known_file.write_text(json.dumps({**known, **hashes}), encoding="utf-8")
    return {name: hashes[_key(name, path)] for name, path in contents.files.items()}


def _known_hashes(folder: Path, known_file: Path) -> dict[str, str]:
    known: dict[str, str] = {}
    if (folder / MANIFEST_NAME).exists():
        known = {f"{one.name} {one.size_bytes} {one.mtime_ns}": one.sha256 for one in read_manifest(folder).files}
    try:
        content = json.loads(known_file.read_text(encoding="utf-8"))
        return {**known, **{str(key): str(value) for key, value in content.items()}}
    except (OSError, ValueError, AttributeError):
        return known


def _key(name: str, path: Path) -> str:
    found = path.stat()
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def _slug(title: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", title.partition("://")[2] or title).strip("-")[-60:]
    return f"{readable}-{hashlib.sha256(title.encode()).hexdigest()[:8]}"


def told(published: Published, *, is_dry_run: bool) -> str:
    """The result as people read it."""
    lines = [f"  {'would add' if is_dry_run else 'added'}: {name}" for name in published.added]
    lines += [f"  {'would remove' if is_dry_run else 'removed'}: {name}" for name in published.removed]
    lines += [f"  left out: {name}" for name in published.left_out]
    if not published.added and not published.removed:
        return "\n".join([f"{published.where} has it all already; nothing was sent.", *lines])
    head = "A dry run; nothing was sent to" if is_dry_run else "Published at"
    return "\n".join([f"{head} {published.where} ({megabytes(published.size_bytes)})", *lines])
