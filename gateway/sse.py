"""Server-sent events: bytes to payloads and back, pure.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re

DONE = b"[DONE]"
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventSplitter:
    """Cuts a byte stream, read by read, into the `data` payloads of its events.

    An event may be split anywhere, inside a character too. Comments and events without data give nothing.
    """

    def __init__(self) -> None:
        self.rest = b""
        """Bytes of an event that has not ended."""

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that end in `data`."""
        buffer = self.rest + data if self.rest else data
        if b"\r" not in buffer:  # what every engine sends: cheap
            *blocks, self.rest = buffer.split(b"\n\n")
        else:
            # A \r at the very end may be half of a \r\n: leave it for the next read.
            held = b"\r" if buffer.endswith(b"\r") else b""
            *blocks, rest = _BOUNDARY.split(buffer[: len(buffer) - len(held)])
            self.rest = rest + held
        payloads = []
        for block in blocks:
            payload = _payload(block)
            if payload is not None:
                payloads.append(payload)
        return payloads


def _payload(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block:
        return block[6:]
    lines = []
    for line in _LINE_END.split(block):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
        elif line.startswith(b"error:"):  # llama.cpp reports a failure in mid-stream under this field name
            lines.append(b'{"error":' + line[6:].strip() + b"}")
    return b"\n".join(lines) if lines else None


def render(payload: bytes, event: str | None = None) -> bytes:
    """One event; `payload` is one line (JSON without line breaks)."""
    head = b"event: " + event.encode() + b"\n" if event else b""
    return head + b"data: " + payload + b"\n\n"
