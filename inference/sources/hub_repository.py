"""Model repositories on hubs that have a Python package of their own, asked through `hub_child.py`.

What is on the disk is what is done: progress is read there, so a resumed fetch starts where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inference.accounts import Account, redact
from inference.catalogue import Hub, RemoteFile
from inference.errors import SourceError
from inference.sources.hub_ask import ask_hub
from inference.sources.reasons import REASONS, Reason, source_error
from inference.sources.remote import OnBytes, bytes_there, is_there


class HubRepository:
    """A `Remote`. `environ` is what the hub's package wants to be told besides; `install` how to get that package."""

    def __init__(
        self,
        hub: Hub,
        title: str,
        repository: str,
        revision: str,
        *,
        endpoint: str,
        account: Account,
        token_name: str,
        environ: Mapping[str, str],
        install: str,
    ) -> None:
        self.title = f"{title} ({repository})"
        self._job = {"hub": hub, "endpoint": endpoint, "id": repository, "revision": revision, "command": "list"}
        self._account = account
        self._token_name = token_name
        self._environ = environ
        self._install = install

    def list_files(self, folder: Path, stop: threading.Event) -> tuple[RemoteFile, ...]:
        """Also pins the revision to the commit that it is now, where the hub tells that."""
        answer = self._ask(self._job, stop)
        self._job = {**self._job, "revision": answer["commit"] or self._job["revision"]}
        return tuple(RemoteFile(str(name), int(size), sha256) for name, size, sha256 in answer["files"])

    def fetch(self, files: tuple[RemoteFile, ...], folder: Path, on_bytes: OnBytes, stop: threading.Event) -> None:
        missing = [file for file in files if not is_there(file, folder)]
        if missing:
            job = {**self._job, "command": "fetch", "folder": str(folder), "names": [file.name for file in missing]}
            self._ask(job, stop, lambda: on_bytes(bytes_there(files, folder) + _unfinished_bytes(folder)))

    def _ask(
        self, job: dict[str, Any], stop: threading.Event, on_tick: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        answer = ask_hub(job, self._environ, self._account, stop, on_tick=on_tick)
        if "reason" not in answer:
            return answer
        said = redact(str(answer["said"]), [self._account.token])
        if answer["reason"] == "package":
            raise SourceError(f"{self.title} needs a Python package that is not installed ({said}). {self._install}")
        reason: Reason = next((one for one in REASONS if one == answer["reason"]), "other")
        raise source_error(reason, said, where=self.title, revision=self._job["revision"], token_name=self._token_name)


def _unfinished_bytes(folder: Path) -> int:
    """What the packages have of files under way; both name them `*.incomplete`."""
    total = 0
    for path in folder.rglob("*.incomplete"):
        try:
            total += path.stat().st_size
        except OSError:  # it was finished and renamed just now
            continue
    return total
