"""What a supervisor asks of a running engine, be it a process of ours or a container of Docker's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

LONGEST_LINE_BYTES = 4000

Hear = Callable[[bytes], None]
"""Takes one line of what the engine says; called from the event loop."""


class Child(Protocol):
    """One life of an engine. Whoever started it must `end` it."""

    async def has_ended_within(self, seconds: float) -> bool:
        """Waits so long for its end."""

    async def ending(self) -> int:
        """Waits for its end and its last words; returns the exit code (-N: signal N)."""

    async def end(self, grace_s: float) -> None:
        """Ask it to stop, wait, make it; nothing of it is left afterwards, also when this wait is cancelled."""


class Runner(Protocol):
    """Starts an engine again and again; each start first removes what an earlier life has left."""

    async def start(self, hear: Hear) -> Child:
        """Raises StartFailed or DiskFull with what to do."""


class LineSplitter:
    """Lines out of blocks of bytes. A carriage return ends a line too: progress bars are drawn with it.

    What never ends is cut, so that an engine that floods its log does not fill our memory.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + block).replace(b"\r", b"\n").split(b"\n")
        yield from (line for line in lines if line)
        if len(self._rest) > LONGEST_LINE_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[bytes]:
        rest, self._rest = self._rest, b""
        if rest:
            yield rest
