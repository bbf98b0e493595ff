"""Which token has which id: sentencepiece's pieces, InternLM2's names for six of them, and what a fine-tune added.

InternLM2 uses its last six user-defined pieces for the chat; `tokenizer.model` calls them `[UNUSED_TOKEN_141]` to
`[UNUSED_TOKEN_146]`, and `tokenizer_config.json` (or, before 24 January 2024, nothing) gives them their names. The two
around a turn are special. The four tool markers are not: servers hide special tokens, and a call has to be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import VerifyError
from inference.model_config import read_json
from inference.sentencepiece_model import Kind, Sentencepiece, read_sentencepiece

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
TOOL_MARKERS = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>")
INTERNLM2_PIECES = 92544
FIRST_NAMED = 92538
NAMES = (*TOOL_MARKERS, IM_END, IM_START)
_ADDED_KINDS = (Kind.UNKNOWN, Kind.CONTROL, Kind.USER_DEFINED)


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before anything else; a special one is hidden in answers."""

    text: str
    is_special: bool


@dataclass(frozen=True)
class Vocabulary:
    """`added` are by id, those beyond the pieces too. `left_out` are texts that the embedding has no rows for."""

    pieces: tuple[Sentencepiece, ...]
    oddities: tuple[str, ...]
    added: Mapping[int, AddedToken]
    left_out: tuple[str, ...]

    def text(self, token: int) -> str:
        return self.added[token].text if token in self.added else self.pieces[token].text

    def id_of(self, text: str) -> int | None:
        """The id of an added token."""
        return next((token for token, added in self.added.items() if added.text == text), None)

    @property
    def has_chat_tokens(self) -> bool:
        return self.id_of(IM_START) is not None and self.id_of(IM_END) is not None


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """From `tokenizer.model` and what stands beside it. `rows`: how many tokens the embedding knows.

    Raises VerifyError naming the file and the token when they contradict each other.
    """
    model = read_sentencepiece(folder / "tokenizer.model")
    if len(model.pieces) > rows:
        raise VerifyError(
            f"{folder / 'tokenizer.model'} has {len(model.pieces)} tokens, but the model's embedding only {rows} rows. "
            "They are not of one model."
        )
    added = {
        token: AddedToken(piece.text, piece.kind is not Kind.USER_DEFINED)
        for token, piece in enumerate(model.pieces)
        if piece.kind in _ADDED_KINDS
    }
    if _is_internlm2(model.pieces):
        added |= {FIRST_NAMED + place: _named(name, is_special=True) for place, name in enumerate(NAMES)}
    left_out = []
    for path, token, text, is_special in told_tokens(folder):
        if token >= rows:
            left_out.append(text)
        elif token < len(model.pieces) and token not in added and model.pieces[token].text != text:
            raise VerifyError(f"{path} calls token {token} {text!r}, but in tokenizer.model it is an ordinary piece.")
        else:
            _free(added, model.pieces, text, token)
            added[token] = _named(text, is_special=is_special)
    return Vocabulary(model.pieces, model.oddities, dict(sorted(added.items())), tuple(dict.fromkeys(left_out)))


def _is_internlm2(pieces: tuple[Sentencepiece, ...]) -> bool:
    return len(pieces) == INTERNLM2_PIECES and pieces[FIRST_NAMED].text == "[UNUSED_TOKEN_141]"


def _named(text: str, *, is_special: bool) -> AddedToken:
    return AddedToken(text, is_special and text not in TOOL_MARKERS)


def _free(added: dict[int, AddedToken], pieces: tuple[Sentencepiece, ...], text: str, token: int) -> None:
    """A text has one id: who had it before gets back its own piece's text."""
    for other, before in list(added.items()):
        if before.text == text and other != token:
            if other < len(pieces):
                added[other] = AddedToken(pieces[other].text, is_special=False)
            else:
                del added[other]


def told_tokens(folder: Path) -> Iterator[tuple[Path, int, str, bool]]:
    """File, id, text and whether special, of every token that files beside `tokenizer.model` name."""
    path = folder / "added_tokens.json"
    if path.exists():
        for text, token in read_json(path).items():
            yield path, _id(token, path), text, True
    path = folder / "tokenizer_config.json"
    if path.exists():
        decoder = read_json(path).get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            raise VerifyError(f"{path}: added_tokens_decoder must be an object.")
        for token, entry in decoder.items():
            yield path, _id(token, path), _text(entry, path), bool(entry.get("special", False))


def _id(value: Any, path: Path) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        return int(value)
    if type(value) is int and value >= 0:
        return value
    raise VerifyError(f"{path}: {str(value)[:60]!r} is no id of a token.")


def _text(entry: Any, path: Path) -> str:
    text = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text:
        raise VerifyError(f"{path}: a token in added_tokens_decoder has no content.")
    return text
