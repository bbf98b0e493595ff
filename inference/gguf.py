"""What a GGUF file says about itself, from its head alone; the weights are not read.

Format (GGUF versions 2 and 3, little-endian, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): the bytes
`GGUF`, version u32, number of tensors u64, number of entries u64, then the entries: key (a string: length u64 and
UTF-8 bytes), type u32, value. An array is the type u32 of its items, their number u64, and the items.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from inference.errors import VerifyError

MAGIC = b"GGUF"
MOST_ENTRIES = 100_000
LONGEST_STRING = 1 << 24
LONGEST_ARRAY = 1 << 28
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str


@dataclass(frozen=True)
class GgufHead:
    """`context_tokens` and `kv_bytes_per_token` (16-bit keys and values) are None when the file does not tell."""

    architecture: str
    context_tokens: int | None
    kv_bytes_per_token: int | None


def read_gguf_head(path: Path) -> GgufHead:
    """Raises VerifyError when the head is cut short or makes no sense; OSError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            entries = _entries(file)
    except (EOFError, struct.error):
        raise VerifyError(f"The model file {path} is cut short or damaged. Fetch or copy it again.") from None
    except ValueError as error:
        raise VerifyError(f"The model file {path} cannot be used: {error}.") from None
    architecture = str(entries.get("general.architecture", ""))
    return GgufHead(
        architecture=architecture,
        context_tokens=_whole(entries, f"{architecture}.context_length"),
        kv_bytes_per_token=_kv_bytes(entries, architecture),
    )


def _kv_bytes(entries: dict[str, Value], architecture: str) -> int | None:
    layers = _whole(entries, f"{architecture}.block_count")
    heads = _whole(entries, f"{architecture}.attention.head_count")
    kv_heads = _whole(entries, f"{architecture}.attention.head_count_kv") or heads
    width = _whole(entries, f"{architecture}.embedding_length")
    if not (layers and heads and kv_heads and width):
        return None
    key = _whole(entries, f"{architecture}.attention.key_length") or width // heads
    value = _whole(entries, f"{architecture}.attention.value_length") or width // heads
    return layers * kv_heads * (key + value) * 2


def _whole(entries: dict[str, Value], key: str) -> int | None:
    value = entries.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _entries(file: BinaryIO) -> dict[str, Value]:
    """All entries but arrays, which are only stepped over."""
    if file.read(4) != MAGIC:
        raise ValueError("it does not begin with 'GGUF'")
    version = _number(file, "I")
    if version not in (2, 3):
        raise ValueError(f"it has the GGUF version {version}, and only 2 and 3 are known")
    _number(file, "Q")
    count = int(_number(file, "Q"))
    if count > MOST_ENTRIES:
        raise ValueError("its head is damaged")
    found: dict[str, Value] = {}
    for _ in range(count):
        key = _string(file)
        value = _value(file, int(_number(file, "I")))
        if value is not None:
            found[key] = value
    return found


def _value(file: BinaryIO, kind: int) -> Value | None:
    if kind == _ARRAY:
        _step_over_array(file)
        return None
    return _string(file) if kind == _STRING else _number(file, _code(kind))


def _step_over_array(file: BinaryIO) -> None:
    kind, count = int(_number(file, "I")), int(_number(file, "Q"))
    if kind == _STRING:
        for _ in range(count):
            _skip(file, int(_number(file, "Q")), LONGEST_STRING)
    else:
        _skip(file, count * struct.calcsize("<" + _code(kind)), LONGEST_ARRAY)


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
