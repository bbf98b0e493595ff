"""What of a folder is published, and what never is: caches, states of a training, secrets.

Files with a secret's name are left out. A file that would be published and holds a token or a private key stops it all:
it is in the wrong place, and a published secret has to be revoked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inference.accounts import TOKEN_FORM, Secret
from inference.errors import UploadError
from inference.manifest import MANIFEST_NAME
from inference.new_folder import RECORD_NAME

MOST_TEXT_BYTES = 10_000_000  # files above are weights or other binaries; git hosts want them in LFS
_CACHES = {"__pycache__", "node_modules", "venv", "runs", "wandb", "global_step"}
_LEFT_OUT = re.compile(
    rf"{re.escape(MANIFEST_NAME)}|.+\.(?:partial|incomplete|lock|tmp|pyc|log|swp)|optimizer.*|scheduler\.pt"
    r"|rng_state.*|scaler\.pt|training_args\.bin|trainer_state\.json|events\.out\.tfevents.*|Thumbs\.db|.+~"
)
_OURS = (MANIFEST_NAME, RECORD_NAME)  # of this disk only; nobody has to be told
_SECRET_NAMES = re.compile(
    r"\.?env(?:\..+)?|.+\.(?:pem|key|p12|pfx|kdbx|ppk)|id_(?:rsa|dsa|ecdsa|ed25519)(?:\.pub)?|\.?netrc"
    r"|\.?git-credentials|credentials(?:\..+)?|(?:.*[_-])?tokens?(?:\.txt)?|secrets?(?:\..+)?|\.pypirc|\.npmrc",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")


@dataclass(frozen=True)
class Contents:
    """The files to be published, by their names in the repository, and those left out."""

    files: dict[str, Path]
    left_out: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def read_contents(folder: Path, secrets: Iterable[Secret]) -> Contents:
    """Raises UploadError naming a file that holds a secret; never with the secret."""
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for name, path in _walk(folder):
        if _is_published(name):
            files[name] = path
        elif name not in _OURS:
            left_out.append(name)
    if not files:
        raise UploadError(f"There is nothing to publish in {folder}.")
    known = [secret.value.encode() for secret in secrets]
    for name, path in files.items():
        if reason := _secret_in(path, known):
            raise UploadError(
                f"{name} holds {reason}, so nothing is published. Take it out, and revoke it if others saw the file."
            )
    return Contents(files, tuple(left_out))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files, by their paths with `/`; links to files are followed (hubs have them), links to folders not."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one not in _CACHES)
        for name in sorted(names):
            path = Path(root) / name
            yield path.relative_to(folder).as_posix(), path


def _is_published(name: str) -> bool:
    base = name.rpartition("/")[2]
    if base.startswith("."):
        return name == ".gitattributes"
    return not _LEFT_OUT.fullmatch(base) and not _SECRET_NAMES.fullmatch(base)


def _secret_in(path: Path, known: list[bytes]) -> str:
    """What kind of secret a text file holds; empty when none was found."""
    if path.stat().st_size > MOST_TEXT_BYTES:
        return ""
    content = path.read_bytes()
    if b"\0" in content[:8192]:
        return ""
    if _PRIVATE_KEY.search(content):
        return "a private key"
    if any(value in content for value in known):
        return "one of the tokens that are set here"
    return "what looks like an access token" if TOKEN_FORM.search(content.decode("utf-8", "replace")) else ""
