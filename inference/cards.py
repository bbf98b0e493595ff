"""The GPUs of this machine, as NVIDIA's own tool lists them, and those that a plan is asked for.

`nvidia-smi --query-gpu=… --format=csv,noheader,nounits` prints one line for each card, memory in MiB. CUDA sees less
than that: the figures of `_USABLE_GIB` are what torch reports on these cards; for others the same share is assumed.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from inference.errors import SettingsError

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used,compute_cap", "--format=csv,noheader,nounits")
_GIB = 1 << 30
_USABLE_GIB = {"A10": 22.06, "A100-40": 39.4, "A100-80": 79.2}
_USABLE_SHARE = 0.985
AMPERE = (8, 0)


@dataclass(frozen=True)
class Card:
    """`memory_bytes` is what programs on it can use, less what others have taken; `capability` CUDA's version of it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int] = AMPERE

    @property
    def kind(self) -> str:
        """Its name in the catalogue: A10, A100-40 and A100-80 are known there."""
        words = re.split(r"[ \-_]", self.name.upper())
        if "A100" in words:
            return "A100-80" if self.memory_bytes > 60 * _GIB else "A100-40"
        return "A10" if "A10" in words else self.name

    @property
    def has_bfloat16(self) -> bool:
        return self.capability >= AMPERE


def list_cards(query: tuple[str, ...] = QUERY) -> tuple[Card, ...]:
    """Nothing where there is no driver, or where it does not answer."""
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(card for line in done.stdout.splitlines() if (card := _card(line)) is not None)


def _card(line: str) -> Card | None:
    """`NVIDIA A10, 23028, 0, 8.6`; a field that a card does not have is `[N/A]`."""
    fields = [field.strip() for field in line.split(",")]
    try:
        name, total, used, capability = fields
        major, minor = capability.split(".")
        free = int(int(total) * (1 << 20) * _USABLE_SHARE) - int(used) * (1 << 20)
        return Card(name, max(0, free), (int(major), int(minor)))
    except ValueError:
        return None


def wanted_card(text: str) -> Card:
    """`A10`, `A100-40`, `A100-80`, or any other as NAME:GIB (its memory as it is sold). Raises SettingsError."""
    if text.upper() in _USABLE_GIB:
        return Card(text.upper(), int(_USABLE_GIB[text.upper()] * _GIB))
    name, colon, size = text.rpartition(":")
    if colon and name.strip() and re.fullmatch(r"\d{1,4}(\.\d+)?", size) and float(size) > 0:
        return Card(name.strip(), int(float(size) * _USABLE_SHARE * _GIB))
    known = ", ".join(_USABLE_GIB)
    raise SettingsError(f"--gpu {text!r} is not known. It can be {known}, or any card as NAME:GIB, such as L40S:48.")
