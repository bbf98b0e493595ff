"""A clone of the person's own that was interrupted: git has the tree, but weights are pointers still.

The tutorial's second start meets one: `git clone` refuses the folder, nobody looks at that, and the engine is given a
half model. Here `git lfs pull` goes on in it.
"""

from __future__ import annotations

import threading
from pathlib import Path

from inference.accounts import Hubs
from inference.errors import VerifyError
from inference.sizes import megabytes
from inference.sources.git import Git, GitFailed, require_git
from inference.sources.git_url import GitRemote, git_remote
from inference.sources.lfs import TransferLog, parse_pointer, rescue_incomplete
from inference.sources.local import pointer_files
from inference.sources.reasons import ConnectionLost, source_error
from inference.sources.remote import Attempts, check_room
from inference.status import Progress, Report


def complete_clone(folder: Path, hubs: Hubs, attempts: Attempts, report: Report, stop: threading.Event) -> None:
    """Fetches the weights that are pointers still; does nothing when there are none.

    Raises VerifyError when the folder is no clone, SourceError, DiskFull or Cancelled.
    """
    pointers = pointer_files(folder)
    if not pointers:
        return
    names = ", ".join(path.name for path in pointers)
    if not (folder / ".git").is_dir():
        raise VerifyError(
            f"{folder} holds only Git LFS pointers of {names}, not the weights, and is no clone that could go on. "
            "Clone it with git-lfs, or copy the files themselves."
        )
    require_git()
    git = Git(folder, _remote_of(folder, hubs, stop), stop)
    found = [pointer for path in pointers if (pointer := parse_pointer(path.read_bytes()))]
    total = sum(pointer.size_bytes for pointer in found)
    check_room(
        folder, 2 * total, f"The rest of {folder.name} ({megabytes(total)}, twice: in git's store and beside it)"
    )
    while True:
        rescue_incomplete(folder / ".git", (pointer.oid for pointer in found))
        log = TransferLog(folder / ".git" / "internlm-progress")
        log.path.unlink(missing_ok=True)

        def show(log: TransferLog = log) -> None:
            report(Progress("download", min(log.read(), total), total, f"going on with the clone {folder}: {names}"))

        try:
            git.network("lfs", "pull", "origin", environ={"GIT_LFS_PROGRESS": str(log.path)}, on_tick=show)
            return
        except GitFailed as error:
            failed = source_error(
                error.reason, error.said, where=git.remote.url, revision="HEAD", token_name="INFERENCE_GIT_TOKEN"
            )
            if not isinstance(failed, ConnectionLost):
                raise failed from None
            attempts.failed(failed, log.read())


def _remote_of(folder: Path, hubs: Hubs, stop: threading.Event) -> GitRemote:
    """The clone's origin, with our account there."""
    guest = Git(folder, git_remote(""), stop)
    try:
        url = guest.local("config", "remote.origin.url").decode().strip()
    except GitFailed:
        raise VerifyError(f"{folder} is a git repository without a remote, so its weights cannot be fetched.") from None
    is_openxlab = git_remote(url).origin == git_remote(hubs.openxlab_url).origin
    return git_remote(url, hubs.openxlab if is_openxlab else hubs.git)
