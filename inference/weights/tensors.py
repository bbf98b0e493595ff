"""What a tensor in a file is for us: a name, a type, a shape, and where its bytes are. Nothing is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from inference.errors import VerifyError
from inference.sources.lfs import LFS_MARK

# Bytes of one element, by safetensors' words for the types.
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
FLOATS = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Tensor:
    """Its bytes are one range of `file`, row after row, from `offset` (counted from the file's beginning)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One file of weights."""

    path: Path
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Piece:
    """A tensor of a new checkpoint: its bytes are these ranges (offset, bytes) of `file`, one after another."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    ranges: tuple[tuple[int, int], ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raises VerifyError when a file's first bytes are those of a Git LFS pointer, or when there are none."""
    if start.startswith(LFS_MARK):
        raise VerifyError(f"{path} is only a Git LFS pointer, not the file itself. Fetch it: git lfs pull")
    if not start:
        raise VerifyError(f"{path} is empty. Fetch or copy it again.")
