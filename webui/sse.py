"""Bytes of a server-sent event stream to events; pure, fed in any portions.

The gateway has its own reader of the same format: both are short, and tested on the same kind of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

COMMENT = ":"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SseEvent:
    """One dispatched event: its name (`message` unless named) and its data lines joined; or a comment, named ":"."""

    name: str
    data: str


class SseDecoder:
    """Feed it bytes as they come; a line ends at LF, CR or CRLF, wherever the portions were cut.

    Lines are split as bytes and decoded whole, so a character cut between two portions stays whole.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skip_lf = False
        self._at_start = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, portion: bytes) -> list[SseEvent]:
        """The events that this portion completes."""
        events = []
        for line in self._lines(portion):
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _lines(self, portion: bytes) -> list[bytes]:
        if not portion:
            return []
        if self._skip_lf:
            portion = portion.removeprefix(b"\n")
        self._rest += portion
        # A CR at the very end may be half of a CRLF: the line is complete now, the LF is skipped when it comes.
        self._skip_lf = portion.endswith(b"\r")
        lines = bytes(self._rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(lines.pop())
        return lines

    def _take(self, raw: bytes) -> SseEvent | None:
        if self._at_start:
            raw = raw.removeprefix(_BOM)
            self._at_start = False
        if not raw:
            return self._dispatch()
        if raw.startswith(b":"):
            return SseEvent(COMMENT, raw[1:].decode("utf-8", errors="replace").strip())
        field, _, value = raw.decode("utf-8", errors="replace").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None  # id and retry mean nothing here

    def _dispatch(self) -> SseEvent | None:
        name, data = self._name, self._data
        self._name, self._data = "", []
        return SseEvent(name or "message", "\n".join(data)) if data else None
