"""A model repository on a git host: OpenXLab's model centre, or any other address.

What `git clone` and `git lfs pull` do, in steps that can each be begun again after a kill: `git init` and a shallow
fetch are idempotent (a second `git clone` refuses its own half folder), git-lfs goes on inside a file, and the weights
are moved out of git's store instead of copied, which saves the disk a second model.
"""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

from inference.accounts import redact
from inference.catalogue import RemoteFile
from inference.errors import InferenceError
from inference.sources.git import Git, GitFailed, require_git
from inference.sources.git_url import GitRemote
from inference.sources.lfs import (
    MOST_POINTER_BYTES,
    Pointer,
    TransferLog,
    object_path,
    parse_pointer,
    rescue_incomplete,
)
from inference.sources.reasons import source_error
from inference.sources.remote import OnBytes, bytes_there, is_there

_TREE_ENTRY = re.compile(rb"(\d+) (\w+) ([0-9a-f]+) +(\d+|-)\t(.*)", re.DOTALL)


class GitRepository:
    """A `Remote`. `token_name` is the variable that people are told to look at when the host refuses us."""

    def __init__(self, remote: GitRemote, revision: str, *, token_name: str) -> None:
        self.title = redact(remote.url)
        self._remote = remote
        self._revision = revision
        self._token_name = token_name

    def list_files(self, folder: Path, stop: threading.Event) -> tuple[RemoteFile, ...]:
        require_git()
        git = Git(folder, self._remote, stop)
        try:
            self._fetch_tree(git)
            return tuple(_read_tree(git)[0])
        except GitFailed as error:
            raise self._explained(error) from None

    def fetch(self, files: tuple[RemoteFile, ...], folder: Path, on_bytes: OnBytes, stop: threading.Event) -> None:
        git = Git(folder, self._remote, stop)
        try:
            _, pointers, blobs = _read_tree(git)
            missing = [file for file in files if not is_there(file, folder)]
            for file in missing:
                if file.name not in pointers:
                    (folder / file.name).write_bytes(git.local("cat-file", "blob", blobs[file.name]))
            large = {file.name: pointers[file.name] for file in missing if file.name in pointers}
            _fetch_objects(git, large, bytes_there(files, folder), on_bytes)
        except GitFailed as error:
            raise self._explained(error) from None

    def _fetch_tree(self, git: Git) -> None:
        """The newest commit of the revision, without its history and without weights."""
        begin_repository(git)
        try:
            self._fetch_commit(git)
        except GitFailed as error:
            if error.reason != "other":
                raise
            _begin_anew(git)
            self._fetch_commit(git)

    def _fetch_commit(self, git: Git) -> None:
        git.network("fetch", "--depth=1", "--no-tags", "--progress", "--force", "origin", self._revision)
        git.local("update-ref", "--no-deref", "HEAD", "FETCH_HEAD")

    def _explained(self, error: GitFailed) -> InferenceError:
        return source_error(
            error.reason, error.said, where=self.title, revision=self._revision, token_name=self._token_name
        )


def begin_repository(git: Git) -> None:
    """A repository that may be a half one of a killed run: git leaves lock files then, which nobody holds now."""
    git_folder = git.folder / ".git"
    git_folder.mkdir(parents=True, exist_ok=True)
    for lock in git_folder.glob("**/*.lock"):
        lock.unlink(missing_ok=True)
    git.local("init", "--quiet")
    git.local("config", "remote.origin.url", git.remote.url)


def _begin_anew(git: Git) -> None:
    """A repository that git cannot use is made anew; the weights that git-lfs has brought stay."""
    for entry in (git.folder / ".git").iterdir():
        if entry.name != "lfs":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    begin_repository(git)


def _read_tree(git: Git) -> tuple[list[RemoteFile], dict[str, Pointer], dict[str, str]]:
    """The commit's files, the pointers among them, and the blob of each."""
    files: list[RemoteFile] = []
    pointers: dict[str, Pointer] = {}
    blobs: dict[str, str] = {}
    for entry in git.local("ls-tree", "-r", "-l", "-z", "HEAD").split(b"\0"):
        found = _TREE_ENTRY.fullmatch(entry)
        if not found or found[2] != b"blob" or found[1] == b"120000":  # submodules and symbolic links are no files
            continue
        name, blob, size = found[5].decode("utf-8", "replace"), found[3].decode(), int(found[4])
        pointer = parse_pointer(git.local("cat-file", "blob", blob)) if 100 < size < MOST_POINTER_BYTES else None
        blobs[name] = blob
        if pointer:
            pointers[name] = pointer
        files.append(RemoteFile(name, pointer.size_bytes, pointer.oid) if pointer else RemoteFile(name, size, None))
    return files, pointers, blobs


def _fetch_objects(git: Git, large: dict[str, Pointer], already: int, on_bytes: OnBytes) -> None:
    """`git lfs fetch` of these files, then each is moved into its place. `already` bytes are there."""
    git_folder = git.folder / ".git"
    absent = {name: pointer for name, pointer in large.items() if not object_path(git_folder, pointer.oid).exists()}
    stored = sum(pointer.size_bytes for name, pointer in large.items() if name not in absent)
    if absent:
        rescue_incomplete(git_folder, (pointer.oid for pointer in absent.values()))
        log = TransferLog(git_folder / "internlm-progress")
        log.path.unlink(missing_ok=True)
        git.network(
            "lfs",
            "fetch",
            "origin",
            git.local("rev-parse", "HEAD").decode().strip(),
            "--include=" + ",".join("/" + re.sub(r"([\\*?\[\]])", r"\\\1", name) for name in absent),
            "--exclude=",
            environ={"GIT_LFS_PROGRESS": str(log.path)},
            on_tick=lambda: on_bytes(already + stored + log.read()),
        )
    for name, pointer in large.items():
        _move_out(object_path(git_folder, pointer.oid), git.folder / name, large)


def _move_out(stored: Path, target: Path, large: dict[str, Pointer]) -> None:
    """Into its place; copied only when two files have the same content."""
    if not stored.exists():
        raise GitFailed("network", f"git-lfs ended without {target.name}")
    if sum(pointer.oid == stored.name for pointer in large.values()) > 1:
        shutil.copyfile(stored, target)
    else:
        stored.rename(target)
