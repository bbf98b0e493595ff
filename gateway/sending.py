"""Sending from where nothing can be awaited, with as few writes as possible.

On our own server pieces of a body go straight to its connection. Any other server's `send` is a coroutine only because
it may have to wait for a slow reader: as long as it has not, it ends without ever giving control away, and so can be
run to its end from within a callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, cast

from starlette.types import Message, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Write = Callable[[bytes], Awaitable[None] | None]
"""Sends a piece of a body; returns what to await when its reader is too slow for more."""
_STATUS_LINE = b"HTTP/1.1 "


def writer(send: Send) -> Write:
    """The shortest way for the pieces of a chunked body that has begun: by uvicorn's connection, or by any `send`."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle):
        return _ChunkWriter(cycle)
    return lambda body: send_now(send, {"type": "http.response.body", "body": body, "more_body": True})


class JoinedWrites:
    """A connection whose answers begin with one write: the head waits for what is sent behind it in the same step of
    the loop. Each write costs a system call, and wakes the reader."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.write_now = transport.write
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS_LINE):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self.write_now(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():  # uvloop raises for one that is closed
            self.write_now(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _ChunkWriter:
    """What uvicorn does with a piece of a body without a length, without a message and a coroutine for each."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write
        self._write_now = getattr(cycle.transport, "write_now", self._write)

    def __call__(self, body: bytes) -> Awaitable[None] | None:
        if self._cycle.disconnected:
            return None
        self._write(b"%x\r\n%b\r\n" % (len(body), body))
        self._write = self._write_now  # the head is sent
        return _Room(self._flow) if self._flow.write_paused else None


class _Room:
    """Is awaited, once or more often, until a slow reader has taken enough."""

    def __init__(self, flow: FlowControl) -> None:
        self._flow = flow

    def __await__(self) -> Generator[Any, Any, None]:
        return self._flow.drain().__await__()


def send_now(send: Send, message: Message) -> Awaitable[None] | None:
    """Runs `send(message)`; returns None when that is done, or what to await when it has to wait for the reader."""
    sending = cast("Coroutine[Any, Any, None]", send(message))
    try:
        waits_for = sending.send(None)
    except StopIteration:
        return None
    return _Rest(sending, waits_for)


class _Rest:
    """The rest of a coroutine that has been run up to its first wait. Awaited again, it is over."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._is_over = False

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while not self._is_over:
            thrown: BaseException | None = None
            answer = None
            try:
                answer = yield waits_for
            except BaseException as error:  # a cancellation, or what the wait ended with: the coroutine's to handle
                thrown = error
            try:
                waits_for = self._coroutine.throw(thrown) if thrown else self._coroutine.send(answer)
            except StopIteration:
                self._is_over = True
            except BaseException:
                self._is_over = True
                raise
