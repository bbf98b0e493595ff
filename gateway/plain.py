"""The shortcut of the relay: reads that hold nothing but pieces of text, taken whole.

Within one answer an engine writes all events that only add text alike, but for the text: the same bytes before it (id,
model, date), the same after it (no end, no usage). Once one of them was looked at, a read can be known to be made of
such events by counting those bytes, which costs a tenth of looking into each. When the engine's clock moves on by a
second the next event is looked at again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

_TEXT = re.compile(rb'"content": ?"((?:[^"\\]|\\.)*)"')
_PREFIX, _GAP = b"data: ", b"\n\n"
_FIRST_STRETCH_BYTES = 4096


@dataclass(frozen=True)
class PlainForm:
    """What stands around the text in the events of one answer.

    Attributes:
        head, tail: as the engine writes them, with the frame of the event stream.
        our_head, our_tail: as our callers get them.
    """

    head: bytes
    tail: bytes
    our_head: bytes
    our_tail: bytes

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

    def count(self, data: bytes) -> tuple[int, int]:
        """How many whole events of this form `data` surely begins with, and where they end; (0, 0) for none.

        Counts stretch by stretch, each twice as long as the one before, and stops at one that holds others: where an
        engine's clock has moved on in the middle of a large read, nothing is counted again and again. Neither head nor
        tail can stand inside a text: quotes and line ends are escaped there.
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

    def renamed(self, data: bytes) -> bytes:
        """The same events with our head and tail."""
        if self.head != self.our_head:
            data = data.replace(self.head, self.our_head)
        return data if self.tail == self.our_tail else data.replace(self.tail, self.our_tail)

    def texts(self, data: bytes) -> list[bytes] | None:
        """The pieces of text, as they stand in JSON strings; None when one of them needs a closer look."""
        after_head = len(self.head)
        pieces = [event[after_head:] for event in data.split(self.tail)[:-1]]
        return None if any(b'"' in piece for piece in pieces) else pieces

    def decoded(self, data: bytes) -> list[str] | None:
        """The pieces of text; None when one of them needs a closer look."""
        pieces = self.texts(data)
        try:
            return None if pieces is None else [text_of(piece) for piece in pieces]
        except msgspec.DecodeError:  # half of a surrogate pair
            return None

    def payloads(self, data: bytes) -> list[bytes]:
        """The same events one by one, without the frame."""
        return [event[len(_PREFIX) :] for event in data.split(_GAP)[:-1]]


_decode = msgspec.json.Decoder(str).decode


def text_of(piece: bytes) -> str:
    """The text that a piece is.

    Raises:
        msgspec.DecodeError: it is none, such as half of a surrogate pair.
    """
    return _decode(b'"%b"' % piece)
