"""The shortcut of the relay: reads that hold nothing but pieces of text, taken whole.

Within one answer an engine writes all events that only add text alike, but for the text: the same bytes before it (id,
model, date), the same after it (no end, no usage). Once one of them was looked at, a read can be known to be made of
such events by comparing those bytes, which costs a tenth of looking into each. When the engine's clock moves on by a
second, only the date in those bytes does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_TEXT = re.compile(rb'"content": ?"((?:[^"\\]|\\.)*)"')
_DATE = re.compile(rb'"created": ?\d+')
_PREFIX, _GAP, _CRLF = b"data: ", b"\n\n", b"\r\n"
_FIRST_STRETCH_BYTES = 4096


class PlainForm:
    """What stands around the text in the events of one answer.

    Args:
        head, tail: as the engine writes them, with the frame of the event stream.
        our_head, our_tail: as our callers get them.
    """

    def __init__(self, head: bytes, tail: bytes, our_head: bytes, our_tail: bytes) -> None:
        self.tail, self.our_tail = tail, our_tail
        self._tail_bytes = len(tail)
        self._end = tail + _CRLF
        self._begin_with(head, our_head)

    def _begin_with(self, head: bytes, our_head: bytes) -> None:
        self.head, self.our_head = head, our_head
        self._head_bytes = len(head)
        self._around_bytes = len(head) + self._tail_bytes
        self._between = self.tail + head
        self._our_between = self.our_tail + our_head

    @classmethod
    def learn(cls, payload: bytes, patched: bytes) -> PlainForm | None:
        """From an event that surely only adds text, and from what was made of it; None when nothing can be learned."""
        theirs, ours = _TEXT.search(payload), _TEXT.search(patched)
        if theirs is None or ours is None or theirs[1] != ours[1]:
            return None
        return cls(
            _PREFIX + payload[: theirs.start(1)],
            payload[theirs.end(1) :] + _GAP,
            _PREFIX + patched[: ours.start(1)],
            patched[ours.end(1) :] + _GAP,
        )

    def pieces(self, data: bytes) -> list[bytes] | None:
        """What stands between head and tail in each event of `data`, which must be whole events of this form only;
        None when it is anything else.

        Neither head nor tail can stand inside a text: quotes and line ends are escaped there.
        """
        if not (data.startswith(self.head) and data.endswith(self.tail)) or len(data) < self._around_bytes:
            return None
        inner = data[self._head_bytes : -self._tail_bytes]
        if _GAP not in inner:
            return [inner]
        pieces = inner.split(self._between)
        return pieces if inner.count(_GAP) + 1 == len(pieces) else None

    def only_piece(self, data: bytes) -> bytes | None:
        """The same of a read that is one HTTP chunk (RFC 9112, section 7.1) with one event: what most reads are."""
        begin = data.find(_CRLF) + len(_CRLF)
        if not data.endswith(self._end):
            return None
        if not data.startswith(self.head, begin) and not self._is_later(data[begin : begin + self._head_bytes]):
            return None
        piece, size = data[begin + self._head_bytes : -len(self._end)], len(data) - begin - len(_CRLF)
        if b"\n" in piece or size < self._around_bytes:
            return None
        try:
            return piece if int(data[: begin - len(_CRLF)], 16) == size else None
        except ValueError:
            return None

    def _is_later(self, head: bytes) -> bool:
        """Whether a head differs from ours by its date only; if so, it is ours from now on."""
        ours, theirs = _DATE.search(self.head), _DATE.search(head)
        if ours is None or theirs is None or self.head != head.replace(theirs[0], ours[0], 1):
            return False
        self._begin_with(head, self.our_head.replace(ours[0], theirs[0], 1))
        return True

    def count(self, data: bytes) -> tuple[int, int]:
        """How many whole events of this form `data` surely begins with, and where they end; (0, 0) for none.

        Counts stretch by stretch, each twice as long as the one before, and stops at one that holds others: where an
        engine's clock has moved on in the middle of a large read, nothing is counted again and again.
        """
        events, at, stretch = 0, 0, _FIRST_STRETCH_BYTES
        while at < len(data):
            last = data.rfind(self.tail, at, at + stretch)
            if last >= 0:
                end = last + len(self.tail)
                found = data.count(self.head, at, end)
                if not found == data.count(self.tail, at, end) == data.count(_GAP, at, end):
                    break
                events, at = events + found, end
            elif at + stretch >= len(data):
                break
            stretch *= 2
        return events, at

    def renamed(self, pieces: Sequence[bytes]) -> bytes:
        """The events of these pieces with our head and tail."""
        return b"%b%b%b" % (self.our_head, self._our_between.join(pieces), self.our_tail)

    def payloads(self, pieces: Sequence[bytes]) -> list[bytes]:
        """The events of these pieces one by one as the engine wrote them, without the frame."""
        head, tail = self.head[len(_PREFIX) :], self.tail[: -len(_GAP)]
        return [head + piece + tail for piece in pieces]


_decode = msgspec.json.Decoder(str).decode
_is_as_written = re.compile(rb'[^"\\\x00-\x1f]*').fullmatch


def text_of(piece: bytes) -> str | None:
    """The text that a piece is, as it stands in a JSON string; None when it needs a closer look, such as one with
    further fields in it, or half of a surrogate pair."""
    try:
        return piece.decode() if _is_as_written(piece) else _decode(b'"%b"' % piece)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def texts_of(pieces: Sequence[bytes]) -> list[str] | None:
    """The same of several; None when one of them needs a closer look."""
    texts = [text for piece in pieces if (text := text_of(piece)) is not None]
    return texts if len(texts) == len(pieces) else None
