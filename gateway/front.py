"""The first thing a request meets: its id, the limits on its body, and the access log. Plain ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, TooLarge, WrongContentType
from gateway.metrics import Metrics
from gateway.telemetry import Notes, notes

if TYPE_CHECKING:  # OpenTelemetry takes time and memory: only where traces are configured
    from gateway.tracing import Tracing

access_log = logging.getLogger("gateway.access")
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds: that all is well is no news."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_DRAIN_BYTES = 64 << 20
_DRAIN_S = 10.0
_LEFT = 499  # what nginx writes down for a caller that left before there was a status


class Front:
    """Middleware for `/v1`: refuses bodies that are too large or not JSON before anything reads them.

    Every answer gets an `x-request-id`: the caller's, so that a request can be followed through several services, or a
    new one. Nothing else is made of it, since a caller may send the same one twice.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracing: Tracing | None, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _id_of(scope) or "req_" + secrets.token_hex(16)
        # Past the start of an answer the layers above only pass messages on, so a stream's body goes by them.
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state.setdefault("send_body", send)
        noted = Notes(request_id, scope["method"])
        notes.set(noted)
        if self._tracing is not None:
            noted.trace = self._tracing.begin(noted, scope["headers"])

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                noted.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if scope["path"].startswith("/v1"):
                await self._guarded(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except Exception:
            noted.status = noted.status or 500  # ServerErrorMiddleware, outside of this, will say so
            raise
        finally:
            self._ended(scope, noted)

    def _ended(self, scope: Scope, noted: Notes) -> None:
        route = scope.get("route")
        if noted.route is None and isinstance(route, Route):
            noted.route = route.path
        if noted.has_left:
            noted.status = noted.status or _LEFT
            self._metrics.departed(has_begun=noted.ttft_s is not None)
        if noted.trace is not None:
            noted.trace.end(noted)
        if noted.route is None and not scope["path"].startswith("/v1"):  # the web UI's own
            return
        self._metrics.request(noted.route or "unknown", noted.method, noted.status)
        level = logging.DEBUG if noted.route in _PROBES and noted.status < 400 else logging.INFO
        if access_log.isEnabledFor(level):
            access_log.log(level, "request", extra={"fields": noted.fields()})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        length = int(headers.get(b"content-length", b"0") or 0)
        has_body = length > 0 or b"transfer-encoding" in headers
        if length > self._max_body_bytes:
            await _drain(receive)
            await _send_error(send, self._too_large(), scope["state"]["request_id"])
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if has_body and kind != b"application/json" and not kind.endswith(b"+json"):
            await _drain(receive)
            await _send_error(send, _not_json(), scope["state"]["request_id"])
            return
        await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Bodies without a length are counted as they come."""
        size = 0

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_counted, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request is larger than {self._max_body_bytes:,} bytes. Send less.")


def _id_of(scope: Scope) -> str | None:
    """The id that the caller, or a proxy before us, has given the request; None unless it can stand in a log."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _SANE_ID.fullmatch(value) else None
    return None


def _not_json() -> WrongContentType:
    return WrongContentType("The body must be JSON; send the header 'Content-Type: application/json'.")


async def _drain(receive: Receive) -> None:
    """Reads a refused body away for a while, since many clients listen only when they have sent everything."""
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while size < _DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def _send_error(send: Send, error: GatewayError, request_id: str) -> None:
    body = json.dumps(error.body(request_id)).encode()
    headers: Iterable[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
