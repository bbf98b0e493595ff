"""Tokens, scores and kinds as llama.cpp wants them for a sentencepiece tokenizer (its tokenizer model `llama`).

Source: `llama-vocab.cpp` and `convert_hf_to_gguf.py` of llama.cpp. Pieces that a text may hold anywhere are
user-defined; hidden ones are control tokens. llama.cpp reads a token as a C string, so the piece NUL would be an empty
one; it gets a text that no merge can make, and NUL in a text becomes its byte token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from inference.sentencepiece_model import Kind
from inference.vocabulary import Vocabulary

NUL_TEXT = "[NUL]"
_BEYOND_SCORE = -1000.0


@dataclass(frozen=True)
class GgufToken:
    """`kind` has the same numbers as sentencepiece's."""

    text: str
    score: float
    kind: Kind


def gguf_tokens(vocabulary: Vocabulary, rows: int) -> Iterator[GgufToken]:
    """One for every row of the embedding, in the order of the ids."""
    for token in range(rows):
        yield _token(vocabulary, token)


def _token(vocabulary: Vocabulary, token: int) -> GgufToken:
    piece = vocabulary.pieces[token] if token < len(vocabulary.pieces) else None
    added = vocabulary.added.get(token)
    score = piece.score if piece else _BEYOND_SCORE
    if added is None:
        if piece is None:
            return GgufToken(f"[PAD{token}]", score, Kind.UNUSED)
        return (
            GgufToken(NUL_TEXT, score, Kind.UNUSED) if piece.text == "\0" else GgufToken(piece.text, score, piece.kind)
        )
    if piece and piece.kind is Kind.UNKNOWN:
        return GgufToken(added.text, score, Kind.UNKNOWN)
    return GgufToken(added.text, score, Kind.CONTROL if added.is_special else Kind.USER_DEFINED)
