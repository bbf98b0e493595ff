"""What a GGUF file says about itself, from its head alone; the weights are not read.

Format (GGUF versions 2 and 3, little-endian, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): the bytes
`GGUF`, version u32, number of tensors u64, number of entries u64, then the entries: key (a string: length u64 and
UTF-8 bytes), type u32, value. An array is the type u32 of its items, their number u64, and the items. Then the tensors:
name, number of dimensions u32, each u64 (the shortest step first), type u32, offset u64 from where the weights begin,
which is at the next multiple of `general.alignment` (32).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from inference.errors import VerifyError

MAGIC = b"GGUF"
MOST_ENTRIES = 100_000
LONGEST_STRING = 1 << 24
LONGEST_ARRAY = 1 << 28
MOST_TENSORS = 1_000_000
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str


@dataclass(frozen=True)
class GgufArray:
    """An array among the entries; its items are stepped over."""

    count: int


@dataclass(frozen=True)
class GgufTensor:
    """`shape` as in the file, the shortest step first; `kind` is ggml's number of the type."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """The whole head; `data_start` is where the weights begin."""

    entries: dict[str, Value | GgufArray]
    tensors: tuple[GgufTensor, ...]
    data_start: int


@dataclass(frozen=True)
class GgufHead:
    """`context_tokens` and `kv_bytes_per_token` (16-bit keys and values) are None when the file does not tell."""

    architecture: str
    context_tokens: int | None
    kv_bytes_per_token: int | None


def read_gguf_head(path: Path) -> GgufHead:
    """Raises VerifyError when the head is cut short or makes no sense; OSError when the file cannot be read."""
    with _plain_errors(path), path.open("rb") as file:
        entries = _entries(file, _counts(file)[1])
    architecture = str(entries.get("general.architecture", ""))
    return GgufHead(
        architecture=architecture,
        context_tokens=_whole(entries, f"{architecture}.context_length"),
        kv_bytes_per_token=_kv_bytes(entries, architecture),
    )


def read_gguf(path: Path) -> GgufFile:
    """The head with all tensors. Raises as `read_gguf_head` does."""
    with _plain_errors(path), path.open("rb") as file:
        tensor_count, entry_count = _counts(file)
        entries = _entries(file, entry_count)
        tensors = tuple(_tensor(file) for _ in range(tensor_count))
        alignment = entries.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError("its head is damaged")
        return GgufFile(entries, tensors, -(-file.tell() // alignment) * alignment)


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, struct.error):
        raise VerifyError(f"The model file {path} is cut short or damaged. Fetch or copy it again.") from None
    except ValueError as error:
        raise VerifyError(f"The model file {path} cannot be used: {error}.") from None


def _kv_bytes(entries: dict[str, Value | GgufArray], architecture: str) -> int | None:
    layers = _whole(entries, f"{architecture}.block_count")
    heads = _whole(entries, f"{architecture}.attention.head_count")
    kv_heads = _whole(entries, f"{architecture}.attention.head_count_kv") or heads
    width = _whole(entries, f"{architecture}.embedding_length")
    if not (layers and heads and kv_heads and width):
        return None
    key = _whole(entries, f"{architecture}.attention.key_length") or width // heads
    value = _whole(entries, f"{architecture}.attention.value_length") or width // heads
    return layers * kv_heads * (key + value) * 2


def _whole(entries: dict[str, Value | GgufArray], key: str) -> int | None:
    value = entries.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _counts(file: BinaryIO) -> tuple[int, int]:
    """How many tensors and entries there are."""
    if file.read(4) != MAGIC:
        raise ValueError("it does not begin with 'GGUF'")
    version = _number(file, "I")
    if version not in (2, 3):
        raise ValueError(f"it has the GGUF version {version}, and only 2 and 3 are known")
    tensors, entries = int(_number(file, "Q")), int(_number(file, "Q"))
    if entries > MOST_ENTRIES or tensors > MOST_TENSORS:
        raise ValueError("its head is damaged")
    return tensors, entries


def _entries(file: BinaryIO, count: int) -> dict[str, Value | GgufArray]:
    found: dict[str, Value | GgufArray] = {}
    for _ in range(count):
        key = _string(file)
        found[key] = _value(file, int(_number(file, "I")))
    return found


def _tensor(file: BinaryIO) -> GgufTensor:
    name = _string(file)
    dimensions = int(_number(file, "I"))
    if dimensions > 8:
        raise ValueError("its head is damaged")
    shape = tuple(int(_number(file, "Q")) for _ in range(dimensions))
    return GgufTensor(name, shape, int(_number(file, "I")), int(_number(file, "Q")))


def _value(file: BinaryIO, kind: int) -> Value | GgufArray:
    if kind == _ARRAY:
        return _step_over_array(file)
    return _string(file) if kind == _STRING else _number(file, _code(kind))


def _step_over_array(file: BinaryIO) -> GgufArray:
    kind, count = int(_number(file, "I")), int(_number(file, "Q"))
    if kind == _STRING:
        for _ in range(count):
            _skip(file, int(_number(file, "Q")), LONGEST_STRING)
    else:
        _skip(file, count * struct.calcsize("<" + _code(kind)), LONGEST_ARRAY)
    return GgufArray(count)


def _code(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError("its head is damaged")
    return _NUMBERS[kind]


def _skip(file: BinaryIO, size: int, most: int) -> None:
    if size > most:
        raise ValueError("its head is damaged")
    while size > 0:
        size -= len(_exactly(file, min(size, 1 << 16)))


def _string(file: BinaryIO) -> str:
    size = int(_number(file, "Q"))
    if size > LONGEST_STRING:
        raise ValueError("its head is damaged")
    return _exactly(file, size).decode("utf-8", "replace")


def _number(file: BinaryIO, code: str) -> int | float | bool:
    value: int | float | bool = struct.unpack("<" + code, _exactly(file, struct.calcsize("<" + code)))[0]
    return value


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise EOFError
    return content
