"""`tokenizer.json` from sentencepiece's `tokenizer.model`, equal to it text by text.

Format: that of the `tokenizers` library (https://github.com/huggingface/tokenizers). A piece is made by joining two
pieces; sentencepiece joins the pair whose whole has the highest score first, so all ways to cut a piece in two, ordered
by its score, are the merges. Written piece by piece, since the whole in memory would be many times its size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from inference.errors import ConvertError
from inference.sentencepiece_model import Kind, Sentencepiece
from inference.vocabulary import Vocabulary

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes one for each call
SPACE = "\u2581"  # what sentencepiece writes for a space


def write_tokenizer(vocabulary: Vocabulary, bos: str, out: TextIO) -> None:
    """Raises ConvertError when the file would not be equal to sentencepiece."""
    check_equal(vocabulary)
    unknown = next(piece.text for piece in vocabulary.pieces if piece.kind is Kind.UNKNOWN)
    out.write('{"version":"1.0","truncation":null,"padding":null,"added_tokens":[')
    _write_joined(out, (_json(entry) for entry in _added_tokens(vocabulary)))
    out.write(f'],"normalizer":{_json(_replace(" ", SPACE))},"pre_tokenizer":null')
    out.write(f',"post_processor":{_json(_begin_with(bos, vocabulary))},"decoder":{_json(_DECODER)}')
    out.write(f',"model":{{"type":"BPE","dropout":null,"unk_token":{_json(unknown)},"continuing_subword_prefix":null')
    out.write(',"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":false,"vocab":{')
    tokens = (vocabulary.text(token) for token in range(len(vocabulary.pieces)))
    _write_joined(out, (f"{_json(text)}:{token}" for token, text in enumerate(tokens)))
    out.write('},"merges":[')
    _write_joined(out, (_json(f"{left} {right}") for left, right in merges(vocabulary.pieces)))
    out.write("]}}\n")


def check_equal(vocabulary: Vocabulary) -> None:
    """Raises ConvertError naming what a `tokenizer.json` of this form cannot express."""
    odd = list(vocabulary.oddities)
    if any(" " in piece.text for piece in vocabulary.pieces if piece.kind is Kind.NORMAL):
        odd.append("a piece of it holds a space")
    if sum(piece.kind is Kind.UNKNOWN for piece in vocabulary.pieces) != 1:
        odd.append("it has not exactly one unknown piece")
    if odd:
        raise ConvertError(
            f"tokenizer.model is of another kind than InternLM2's ({', '.join(odd)}). Put the tokenizer.json that "
            "belongs to the model into its folder instead."
        )


def merges(pieces: Iterable[Sentencepiece]) -> Iterator[tuple[str, str]]:
    """All pairs of normal pieces that make a normal piece, the pieces with the highest score first."""
    normal = {piece.text: piece.text for piece in pieces if piece.kind is Kind.NORMAL}
    for piece in sorted(pieces, key=lambda piece: -piece.score):
        if piece.kind is not Kind.NORMAL:
            continue
        text = piece.text
        for place in range(1, len(text)):
            left, right = text[:place], text[place:]
            if left in normal and right in normal:
                yield left, right


def _added_tokens(vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for token, added in vocabulary.added.items():
        yield {"id": token, "content": added.text, **flags, "special": added.is_special}


def _begin_with(bos: str, vocabulary: Vocabulary) -> dict[str, Any]:
    first, last = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    begin = [{"SpecialToken": {"id": bos, "type_id": number}} for number in range(2)]
    special = {bos: {"id": bos, "ids": [vocabulary.id_of(bos)], "tokens": [bos]}}
    return {
        "type": "TemplateProcessing",
        "single": [begin[0], first],
        "pair": [begin[0], first, begin[1], last],
        "special_tokens": special,
    }


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


_DECODER = {"type": "Sequence", "decoders": [_replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]}


def _write_joined(out: TextIO, parts: Iterable[str]) -> None:
    comma = ""
    for part in parts:
        out.write(comma + part)
        comma = ","
