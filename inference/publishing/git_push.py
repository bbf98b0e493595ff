"""To a git host, without a working tree and without a second copy of the weights.

`git add` would run each weight through LFS's filter into git's store. Here the pointers are written straight into the
index, and git-lfs's store holds symbolic links to the files where they lie; so a publication takes some megabytes of
disk, whatever the model's size. The repository of the work stays in DATA_DIR/publish, so that the next run knows the
hashes. Objects that the server has are not sent again, so a run that was interrupted goes on with the next file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inference.errors import DiskFull, InferenceError, UploadError
from inference.publishing.card import gitattributes, model_card
from inference.publishing.change import WEIGHTS, Change, Send
from inference.publishing.contents import MOST_TEXT_BYTES, Contents
from inference.sizes import megabytes
from inference.sources.git import Git, GitFailed
from inference.sources.git_repository import begin_repository
from inference.sources.lfs import Pointer, TransferLog, object_path, parse_pointer
from inference.sources.reasons import ConnectionLost
from inference.status import Progress, Report

DEFAULT_BRANCH = "main"
_IDENTITY = {  # of this repository's commits only; nothing is written to anybody's configuration
    "GIT_AUTHOR_NAME": "internlm-stack",
    "GIT_AUTHOR_EMAIL": "internlm-stack@localhost",
    "GIT_COMMITTER_NAME": "internlm-stack",
    "GIT_COMMITTER_EMAIL": "internlm-stack@localhost",
}


@dataclass(frozen=True, kw_only=True)
class GitChange(Change):
    """`tree` is the git tree that the branch will have, `pointers` those of the files that LFS takes."""

    branch: str
    tree: str
    pointers: dict[str, Pointer]


class GitPush:
    """One publication through `git`. `hashes` are the SHA-256 of the files, `name` the model's name for the card."""

    def __init__(self, git: Git, contents: Contents, hashes: dict[str, str], *, name: str, token_name: str) -> None:
        self._git = git
        self._contents = contents
        self._hashes = hashes
        self._name = name
        self._token_name = token_name

    def plan(self) -> tuple[Change, Send]:
        """Compares the folder with the repository; returns the change, and how to send it.

        Raises UploadError, DiskFull or Cancelled, and ConnectionLost when it may help to repeat.
        """
        try:
            begin_repository(self._git)
            branch, base = self._remote_state()
            change = self._change(branch, base)
            return change, partial(self._push, change)
        except GitFailed as error:
            raise self._explained(error) from None

    def _push(self, change: GitChange, report: Report) -> str:
        try:
            self._send_objects(change, report)
            commit = self._send_commit(change, report) if change.is_needed else change.base
            self._read_back(change, commit)
            return commit
        except GitFailed as error:
            raise self._explained(error) from None

    def _remote_state(self) -> tuple[str, str]:
        """The default branch and its commit, fetched; the commit is empty where the repository is."""
        lines = self._git.network("ls-remote", "--symref", "origin", "HEAD")
        branches = [match[1] for line in lines if (match := re.match(r"ref: refs/heads/(\S+)\s+HEAD", line))]
        branch = branches[0] if branches else DEFAULT_BRANCH
        if not any(re.match(r"[0-9a-f]{40,}\s+HEAD", line) for line in lines):
            return branch, ""
        return branch, self._fetched(branch)

    def _fetched(self, branch: str) -> str:
        self._git.network(
            "fetch", "--depth=1", "--no-tags", "--force", "origin", f"+refs/heads/{branch}:refs/publish/base"
        )
        return self._git.local("rev-parse", "refs/publish/base").decode().strip()

    def _change(self, branch: str, base: str) -> GitChange:
        git, files = self._git, self._contents.files
        before = _blobs(git, base)
        index = {"GIT_INDEX_FILE": str(git.folder / ".git" / "publish.index")}
        git.local("read-tree", *([base] if base else ["--empty"]), environ=index)
        small = self._small_files(before)
        wanted = {name: _write_blob(git, content) for name, content in small.items()}
        _update_index(git, wanted, (), index)
        pointers = self._pointers(index)
        for name, path in files.items():
            if name not in wanted:
                content = pointers[name].encode() if name in pointers else path.read_bytes()
                wanted[name] = _write_blob(git, content)
        removed = tuple(name for name in before if name not in wanted and WEIGHTS.fullmatch(name))
        _update_index(git, wanted, removed, index)
        tree = git.local("write-tree", environ=index).decode().strip()
        added = tuple(name for name, blob in wanted.items() if before.get(name) != blob)
        return GitChange(base=base, added=added, removed=removed, branch=branch, tree=tree, pointers=pointers)

    def _small_files(self, before: dict[str, str]) -> dict[str, bytes]:
        """.gitattributes, and a card where neither side has one."""
        files = self._contents.files
        own = files.get(".gitattributes")
        if own:
            made = {".gitattributes": own.read_bytes()}
        else:
            present = (
                self._git.local("cat-file", "blob", before[".gitattributes"]) if ".gitattributes" in before else b""
            )
            made = {".gitattributes": gitattributes(files, present.decode("utf-8", "replace")).encode()}
        if "README.md" not in before and "README.md" not in files:
            made["README.md"] = model_card(self._name, files).encode()
        return made

    def _pointers(self, index: dict[str, str]) -> dict[str, Pointer]:
        """The files that LFS takes, as git reads .gitattributes. Raises UploadError when it leaves a large one."""
        files = self._contents.files
        asked = "\0".join(files).encode() + b"\0"
        answer = self._git.local("check-attr", "--cached", "-z", "--stdin", "filter", given=asked, environ=index)
        parts = answer.decode("utf-8", "replace").split("\0")
        tracked = {name for name, value in zip(parts[::3], parts[2::3], strict=False) if value == "lfs"}
        for name, path in files.items():
            size = path.stat().st_size
            if name not in tracked and size > MOST_TEXT_BYTES:
                raise UploadError(
                    f"{name} has {megabytes(size)}, and the folder's .gitattributes does not give it to LFS. Add the "
                    f"line: {name} filter=lfs diff=lfs merge=lfs -text"
                )
        return {name: Pointer(self._hashes[name], files[name].stat().st_size) for name in files if name in tracked}

    def _send_objects(self, change: GitChange, report: Report) -> int:
        """Sends what the server lacks; returns how many bytes went."""
        if not change.pointers:
            return 0
        git_folder = self._git.folder / ".git"
        for name, pointer in change.pointers.items():
            _link(object_path(git_folder, pointer.oid), self._contents.files[name].resolve())
        total = sum({pointer.oid: pointer.size_bytes for pointer in change.pointers.values()}.values())
        log = TransferLog(git_folder / "internlm-progress")
        log.path.unlink(missing_ok=True)

        def show() -> None:
            if done := log.read():
                report(Progress("publish", min(done, total), total, f"sending the weights to {self._git.remote.url}"))

        oids = list(dict.fromkeys(pointer.oid for pointer in change.pointers.values()))
        environ = {"GIT_LFS_PROGRESS": str(log.path)}
        self._git.network("lfs", "push", "--object-id", "origin", *oids, environ=environ, on_tick=show)
        show()
        return log.read()

    def _send_commit(self, change: GitChange, report: Report) -> str:
        parents = ["-p", change.base] if change.base else []
        message = f"Publish {self._name}"
        made = self._git.local("commit-tree", change.tree, *parents, "-m", message, environ=_IDENTITY)
        commit = made.decode().strip()
        report(Progress("publish", message=f"sending the commit to {self._git.remote.url}"))
        self._git.network("push", "--porcelain", "origin", f"{commit}:refs/heads/{change.branch}")
        return commit

    def _read_back(self, change: GitChange, commit: str) -> None:
        """What the server has now, against the files here; git-lfs is asked once more whether an object lacks."""
        if self._fetched(change.branch) != commit:
            raise UploadError(f"{self._git.remote.url} was changed by somebody else meanwhile. Start again.")
        blobs = _blobs(self._git, commit)
        for name, pointer in change.pointers.items():
            found = parse_pointer(self._git.local("cat-file", "blob", blobs[name])) if name in blobs else None
            if found != pointer:
                raise UploadError(f"{self._git.remote.url} has another {name} than the folder. Start again.")
        if self._send_objects(change, lambda _: None):
            raise UploadError(f"{self._git.remote.url} took the weights but does not have them all. Start again.")

    def _explained(self, error: GitFailed) -> InferenceError:
        where, said = self._git.remote.url, error.said
        match error.reason:
            case "auth":
                return UploadError(
                    f"{where} refused us ({said}). It wants a token that may write there: set {self._token_name}, and "
                    "start again."
                )
            case "missing":
                return UploadError(
                    f"There is no repository {where}, or this token may not see it ({said}). Create it on the "
                    "platform's web page first (empty, without a README), then start again."
                )
            case "disk":
                return DiskFull(f"A disk became full ({said}). Free some space and start again.")
            case "network":
                return ConnectionLost(f"The connection to {where} failed ({said}).")
            case _ if any("rejected" in line for line in self._git.said):
                return UploadError(
                    f"{where} was changed by somebody else meanwhile, or its branch is protected ({said})."
                )
            case _:
                return UploadError(f"git could not publish to {where}: {said}.")


def _blobs(git: Git, commit: str) -> dict[str, str]:
    if not commit:
        return {}
    entries = git.local("ls-tree", "-r", "-z", commit).decode("utf-8", "replace").split("\0")
    return {name: head.split()[2] for head, _, name in (entry.partition("\t") for entry in entries if entry)}


def _write_blob(git: Git, content: bytes) -> str:
    return git.local("hash-object", "-w", "--stdin", given=content).decode().strip()


def _update_index(git: Git, wanted: dict[str, str], removed: tuple[str, ...], index: dict[str, str]) -> None:
    lines = [f"100644 {blob}\t{name}" for name, blob in wanted.items()] + [f"0 {'0' * 40}\t{name}" for name in removed]
    git.local(
        "update-index", "-z", "--index-info", given="".join(line + "\0" for line in lines).encode(), environ=index
    )


def _link(stored: Path, file: Path) -> None:
    """git-lfs reads through it; a link of an earlier run may lead to where the file no longer is."""
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.unlink(missing_ok=True)
    stored.symlink_to(file)
