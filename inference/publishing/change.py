"""What a publication changes in a repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from inference.status import Report

Send = Callable[[Report], str]
"""Sends what lacks and reads it back; returns the commit. Raises UploadError, ConnectionLost, DiskFull or Cancelled."""

# Files that go from the repository when the folder no longer has them: engines load every one that lies there.
WEIGHTS = re.compile(r".+\.(?:safetensors|bin|gguf|pt|pth)|.+\.(?:safetensors|bin)\.index\.json")


@dataclass(frozen=True, kw_only=True)
class Change:
    """`base` is the commit that the repository has now, empty for none; `added` are new or changed files."""

    base: str
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def is_needed(self) -> bool:
        return bool(self.added or self.removed)
