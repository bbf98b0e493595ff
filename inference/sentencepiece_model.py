"""A sentencepiece `tokenizer.model`, read by hand: it is a small protobuf message, and no package is needed for it.

Format: `sentencepiece_model.proto` of google/sentencepiece, in protobuf's wire format: each field is a varint (number
and wire type), then a varint, 8 bytes, a length and bytes, or 4 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from inference.errors import VerifyError
from inference.weights.tensors import refuse_pointer

MOST_BYTES = 64 << 20
_BPE = 2
_TEXT_TAG, _SCORE_TAG = 1 << 3 | 2, 2 << 3 | 5  # number of the field, and the kind of what follows
_SCORE = struct.Struct("<f")


class Kind(IntEnum):
    """What a piece is, by the numbers of the format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Sentencepiece(NamedTuple):
    """One piece; its id is its place. BPE joins the pair with the highest `score` first."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class SentencepieceModel:
    """`oddities` are settings under which our `tokenizer.json` would not be equal, as words for people."""

    pieces: tuple[Sentencepiece, ...]
    oddities: tuple[str, ...]


def read_sentencepiece(path: Path) -> SentencepieceModel:
    """Raises VerifyError when the file is missing, damaged or something else."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise VerifyError(f"{path} cannot be read ({error.strerror}). Fetch or copy it.") from None
    refuse_pointer(path, content[:64])
    damaged = VerifyError(f"{path} is no sentencepiece model, or it is damaged. Fetch or copy it again.")
    if len(content) > MOST_BYTES:
        raise damaged
    try:
        model = _model(content)
    except (ValueError, IndexError, struct.error):
        raise damaged from None
    if not model.pieces:
        raise damaged
    return model


def _model(content: bytes) -> SentencepieceModel:
    pieces: list[Sentencepiece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer = dict(_fields(_bytes(value)))
        elif number == 3:
            normalizer = dict(_fields(_bytes(value)))
    return SentencepieceModel(tuple(pieces), tuple(_oddities(trainer, normalizer)))


def _piece(content: bytes) -> Sentencepiece:
    """The form that nearly all have is looked for first: text, score, and nothing else."""
    if content[0] == _TEXT_TAG and content[1] < 128:
        end = 2 + content[1]
        if len(content) == end + 5 and content[end] == _SCORE_TAG:
            return Sentencepiece(content[2:end].decode(), _SCORE.unpack_from(content, end + 1)[0], Kind.NORMAL)
    fields = dict(_fields(content))
    kind = fields.get(3, Kind.NORMAL)
    if not isinstance(kind, int):
        raise ValueError("a kind that is no number")
    score = _SCORE.unpack(_bytes(fields.get(2, bytes(4))))[0]
    return Sentencepiece(_bytes(fields.get(1, b"")).decode(), score, Kind(kind))


def _oddities(trainer: dict[int, int | bytes], normalizer: dict[int, int | bytes]) -> Iterator[str]:
    """The numbers are the format's; a field that is absent has the default that stands here."""
    if trainer.get(3, 1) != _BPE:
        yield "it is not of the kind BPE"
    if not trainer.get(35, 0):
        yield "it has no byte fallback"
    if trainer.get(24, 0):
        yield "it writes spaces at the end of words"
    if _bytes(normalizer.get(2, b"")):
        yield "it normalizes characters"
    if normalizer.get(3, 1):
        yield "it puts a space before each text"
    if normalizer.get(4, 1):
        yield "it removes spaces"
    if not normalizer.get(5, 1):
        yield "it does not escape spaces"


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, position = _varint(content, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("a wire type that is not known")
        if position + length > len(content):
            raise ValueError("cut short")
        yield tag >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value
