"""uvicorn, with a stop that no client notices where another gateway is there.

/readyz says 503, the listener closes without losing a connection (gateway/listener.py), and every request on a
connection that was accepted is answered, with `Connection: close`. What has not ended in time is then cut, and kept.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import signal
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.errors import GatewayError, HeadTooLarge, InvalidRequest
from gateway.listener import close_without_loss
from gateway.sending import JoinedWrites

log = logging.getLogger("gateway.server")
_AFTER_DRAIN_S = 2
_FIRST_REQUEST_S = 1.0
"""For so long a new connection may be silent at a stop; after that it is one that a browser opened in advance."""
_SAME_STOP_S = 0.5
_LOOK_S = 0.03
_LARGEST_HEAD_BYTES = 64 << 10
_OFFER_OF_HTTP2 = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n|$)", re.IGNORECASE)
_MOST_IN_LINE = 8


class _State(ServerState):
    """What all connections know.

    Attributes:
        is_draining: each answer is the last of its connection.
    """

    is_draining = False


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP, with an end to heads that have none: without it a caller needs no key to fill memory.

    And with an ear for departures at any moment, behind a large body and with a second request in line, too; and with
    a stop that leaves no request without its answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._came_at = self.loop.time()
        self._is_in_head = False
        self._head_bytes = 0
        self._answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        joined = JoinedWrites(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", joined))

    def data_received(self, data: bytes) -> None:
        if b"h2c" in data:  # Java's own client offers HTTP/2 in each request; the parser would drop the body
            head, end, body = data.partition(b"\r\n\r\n")
            data = _OFFER_OF_HTTP2.sub(b"", head) + end + body
        super().data_received(data)
        if not self._is_in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > _LARGEST_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # that tells the last request, which may only be in line
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
            state = self._answered.scope["state"]
            state["has_left"] = True
            when_left = state.get("when_left")  # sooner than a task could hear of it
            if when_left is not None:
                when_left()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(_NOT_HTTP)
        self.transport.close()

    def on_message_begin(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()
        if cast("_State", self.server_state).is_draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if len(self.pipeline) < _MOST_IN_LINE:  # uvicorn may have paused: who does not read hears of no departure
            self.flow.resume_reading()

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose answer is not whole yet."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_awaited(self) -> bool:
        """Whether a stop waits for it."""
        if self.is_answering:
            return not is_secondary(self.cycle.scope)
        if self._is_in_head or (self.cycle is None and self._is_new):
            return True
        return self.transport.get_write_buffer_size() > 0  # a slow reader

    def shutdown(self) -> None:
        """Closes the connection when nothing more is to come on it, or after the answer that is under way."""
        if self._is_in_head:
            return  # its answer will be the last
        if self.cycle is None and self._is_new:
            self.loop.call_at(self._came_at + _FIRST_REQUEST_S, self.shutdown)
            return
        super().shutdown()

    @property
    def _is_new(self) -> bool:
        return self.loop.time() < self._came_at + _FIRST_REQUEST_S

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)


def _raw_answer(error: GatewayError) -> bytes:
    """An answer for a request that no application has seen."""
    body = json.dumps(error.body()).encode()
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


_NOT_HTTP = _raw_answer(InvalidRequest("The request is not valid HTTP/1.1."))
_HEAD_TOO_LARGE = _raw_answer(HeadTooLarge(f"The request's headers are larger than {_LARGEST_HEAD_BYTES:,} bytes."))


class Server(uvicorn.Server):
    """Serves the gateway, with whatever is mounted on it.

    Args:
        drain_s: how long requests that have come may go on after the stop was asked for.
    """

    def __init__(self, app: FastAPI, *, host: str, port: int, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                _with_own_send(app),
                host=host,
                port=port,
                loop="uvloop",
                http=BoundedHttp,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_AFTER_DRAIN_S,
                timeout_keep_alive=75,
            )
        )
        self.server_state: _State = _State()
        self._app = app
        self._drain_s = drain_s
        self._asked_at: float | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        begun, turns = time.monotonic(), self._app.state.parts.open_turns
        turns.drain()
        self.server_state.is_draining = True
        await close_without_loss(self.servers, sockets or (), is_forced=lambda: self.force_exit)
        log.info("stopping: %d answers are open, on %d connections", len(turns), len(self._connections))
        for connection in self._connections:
            connection.shutdown()
        while not self.force_exit and time.monotonic() - begun < self._drain_s and self._has_work(len(turns)):
            await asyncio.sleep(_LOOK_S)
        if cut := await turns.stop():
            log.warning("%d answers had not ended in time and were cut", cut)
        for connection in self._connections:
            if not connection.is_answering:
                connection.transport.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops in order, a later one at once. make and a terminal may both tell of the same stop."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > _SAME_STOP_S:
            self.force_exit = True
        self.should_exit = True

    @property
    def _connections(self) -> list[BoundedHttp]:
        return list(cast("set[BoundedHttp]", self.server_state.connections))

    def _has_work(self, turns: int) -> bool:
        return turns > 0 or any(connection.is_awaited for connection in self._connections)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGINT and SIGTERM are not raised again afterwards, as uvicorn does, so that the caller can tidy up, too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _with_own_send(app: ASGIApp) -> ASGIApp:
    """Leaves the server's own `send` where streams find it: the layers of the app only pass their events on."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        state = scope["state"]
        state["send_body"] = send
        state["tells_departures"] = True
        try:
            await app(scope, receive, send)
        finally:  # `send` knows the scope: left in it, both would wait for the cycle collector
            state.pop("send_body", None)
            state.pop("when_left", None)

    return serve


def secondary(app: ASGIApp) -> ASGIApp:
    """An app that is mounted beside the API, whose requests no stop waits for: a page keeps a stream open for as long
    as somebody looks at it."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["is_secondary"] = True
        await app(scope, receive, send)

    return serve


def is_secondary(scope: Mapping[str, Any]) -> bool:
    """Whether that request went to such an app."""
    return "is_secondary" in scope["state"]


def calm_collector() -> None:
    """For a process that serves: call it when everything is put together.

    Python's cycle collector walks what lives each time some hundred objects were made: half of the CPU of streaming,
    measured. What the start made stays anyway, so it is set aside, and the rest is looked at rarely.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
