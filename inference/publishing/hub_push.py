"""To Hugging Face, through `huggingface_hub`: its git does not take files above 5 GB without an agent of its own.

Large files go first, each under its hash, and one commit at the end makes them visible; what the hub has already is not
sent again, so an interrupted run goes on with the next file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inference.accounts import redact
from inference.errors import DiskFull, UploadError
from inference.publishing.card import gitattributes, model_card
from inference.publishing.change import WEIGHTS, Change, Send
from inference.publishing.contents import Contents
from inference.publishing.target import Target
from inference.sources.hub_ask import HUGGINGFACE_ENVIRON, ask_hub
from inference.sources.reasons import ConnectionLost
from inference.status import Progress, Report


@dataclass(frozen=True, kw_only=True)
class HubChange(Change):
    """`size_bytes` is that of the files that are added."""

    size_bytes: int


class HubPush:
    """One publication to Hugging Face. Small files that are made for it lie in `work`."""

    def __init__(
        self,
        target: Target,
        contents: Contents,
        hashes: dict[str, str],
        work: Path,
        stop: threading.Event,
        *,
        name: str,
    ) -> None:
        self._target = target
        self._contents = contents
        self._hashes = hashes
        self._work = work
        self._stop = stop
        self._name = name

    def plan(self) -> tuple[Change, Send]:
        """Compares the folder with the repository; returns the change, and how to send it.

        Raises UploadError, DiskFull or Cancelled, and ConnectionLost when it may help to repeat.
        """
        answer = self._ask("compare", [])
        remote = set(answer["files"])
        made = self._made_files(remote)
        wanted = self._files() | made
        changed = tuple(self._ask("compare", self._rows(wanted))["changed"])
        removed = tuple(name for name in remote if name not in wanted and WEIGHTS.fullmatch(name))
        size = sum(wanted[name].stat().st_size for name in changed)
        change = HubChange(base=answer["commit"], added=changed, removed=removed, size_bytes=size)
        return change, partial(self._push, change)

    def _push(self, change: HubChange, report: Report) -> str:
        if not change.is_needed:
            return change.base
        message = f"sending {len(change.added)} files to {self._target.title}"

        def show(done: int) -> None:
            report(Progress("publish", min(done, change.size_bytes), change.size_bytes, message))

        wanted = self._files() | self._made_files(set())
        rows = self._rows({name: wanted[name] for name in change.added})
        answer = self._ask("push", rows, removed=list(change.removed), message=f"Publish {self._name}", on_bytes=show)
        left = self._ask("compare", rows)["changed"]
        if left:
            raise UploadError(f"{self._target.title} has another {', '.join(left)} than the folder. Start again.")
        return str(answer["commit"])

    def _files(self) -> dict[str, Path]:
        return dict(self._contents.files)

    def _made_files(self, remote: set[str]) -> dict[str, Path]:
        """A card and .gitattributes where neither side has one."""
        texts = {
            ".gitattributes": gitattributes(self._contents.files),
            "README.md": model_card(self._name, self._contents.files),
        }
        made = {name: self._work / name for name in texts if name not in remote and name not in self._contents.files}
        for name, path in made.items():
            path.write_text(texts[name], encoding="utf-8")
        return made

    def _rows(self, files: dict[str, Path]) -> list[tuple[str, str, str]]:
        return [(name, str(path), self._hashes.get(name, "")) for name, path in files.items()]

    def _ask(
        self,
        command: str,
        rows: list[tuple[str, str, str]],
        *,
        on_bytes: Callable[[int], None] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        endpoint = self._target.title.removesuffix(f"/{self._target.repository}")
        job = {"hub": "huggingface", "command": command, "endpoint": endpoint, "id": self._target.repository}
        environ = {**HUGGINGFACE_ENVIRON, "HF_ENDPOINT": endpoint}
        answer = ask_hub({**job, **more}, environ, self._target.account, self._stop, rows=rows, on_bytes=on_bytes)
        if "reason" not in answer:
            return answer
        said, where = redact(str(answer["said"]), [self._target.account.token]), self._target.title
        match answer["reason"]:
            case "auth":
                raise UploadError(
                    f"{where} refused us ({said}). Set {self._target.token_name} to a token that may write."
                )
            case "missing":
                raise UploadError(
                    f"There is no repository {where}, or this token may not see it ({said}). Create it first: "
                    f"{endpoint}/new, or --create."
                )
            case "network":
                raise ConnectionLost(f"The connection to {where} failed ({said}).")
            case "disk":
                raise DiskFull(f"A disk became full ({said}). Free some space and start again.")
            case _:
                raise UploadError(f"{where} could not be published to: {said}.")
