"""Answers that come from the model: streamed as events, or collected; the caller's departure is watched throughout.

Each is a Starlette response whose work runs as a task beside a watch on the connection, from the first moment: before
the first token, in mid-stream, and for plain requests too. When the caller leaves, the task is cancelled, which closes
the upstream's connection and frees the engine.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.chat_object import Collected
from gateway.dialects import Chunk
from gateway.errors import GatewayError, ShuttingDown
from gateway.response_object import ResponseEvents, output_item
from gateway.sending import send_now
from gateway.sse import DONE, render
from gateway.turn import ChatTurn, ResponseTurn
from gateway.upstream import Generation

log = logging.getLogger("gateway.relay")


class Relayed(Response, ABC):
    """The base: runs `answer` until it is done or the caller has left."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.background = None
        self._unsent: Awaitable[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id: str = scope["state"]["request_id"]
        self.send_body: Send = scope["state"]["send_body"]
        await _until_departure(self.answer(send), receive)

    @abstractmethod
    async def answer(self, send: Send) -> None:
        """Everything from taking a slot to the last byte. Raises GatewayError while nothing has been sent."""

    async def start_stream(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *self.extra,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def send_events(self, events: bytes) -> Awaitable[None] | None:
        """Sends a piece of the stream at once; returns what to await when the caller reads too slowly for more."""
        if not events:
            return None
        self._unsent = send_now(self.send_body, {"type": "http.response.body", "body": events, "more_body": True})
        return self._unsent

    async def end_stream(self, send: Send, closing: bytes) -> None:
        """Sends the last piece, behind what a slow reader has not taken yet."""
        if self._unsent is not None:
            await self._unsent
        await send({"type": "http.response.body", "body": closing})

    async def send_json(self, send: Send, body: Any) -> None:
        content = msgspec.json.encode(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *self.extra,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def in_words(self, error: Exception) -> GatewayError:
        """What a stream that has begun can still say of `error`."""
        if isinstance(error, GatewayError):
            return error
        log.exception("a stream failed", exc_info=error, extra={"fields": {"request_id": self.request_id}})
        return GatewayError("The gateway failed while answering. The request id helps to find out why.")


class ChatStream(Relayed):
    """`POST /v1/chat/completions` with `stream`: the engine's events handed on, read by read."""

    def __init__(self, turn: ChatTurn, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._turn = turn

    async def answer(self, send: Send) -> None:
        has_started = False
        try:
            async with self._turn.open() as generation:
                await self.start_stream(send)
                has_started = True
                await generation.relay(functools.partial(self._hand_on, generation))
                self._turn.require_finished()
            closing = self._ending()
        except Exception as broken:  # after the start an error can only be an event, and no [DONE] follows it
            if not has_started:
                raise
            closing = self._failure(self.in_words(broken))
        await self.end_stream(send, closing)

    def _ending(self) -> bytes:
        return render(DONE)

    def _failure(self, error: GatewayError) -> bytes:
        return render(msgspec.json.encode(error.body(self.request_id)))

    def _hand_on(self, generation: Generation, payloads: list[bytes]) -> Awaitable[None] | None:
        """Sends the events that the caller wants; raises the error that one of them reports, after those before it."""
        is_plain_delta = generation.is_plain_delta
        kept = b""
        for payload in payloads:
            try:
                if not is_plain_delta(payload) and not self._is_wanted(generation.decode(payload)):
                    continue
            except GatewayError:
                self.send_events(kept)
                raise
            kept += b"data: %b\n\n" % payload
        return self.send_events(kept)

    def _is_wanted(self, chunk: Chunk) -> bool:
        self._turn.note(chunk)
        is_usage = chunk.usage is not None and chunk.finish_reason is None and not chunk.text
        return self._turn.wants_usage or not is_usage


class NativeStream(ChatStream):
    """TGI's own events: its errors are flat, and nothing but the end of the body says that they are all there."""

    def _ending(self) -> bytes:
        return b""

    def _failure(self, error: GatewayError) -> bytes:
        return render(msgspec.json.encode({"error": error.message, "error_type": error.code}))


class ChatCompletion(Relayed):
    """`POST /v1/chat/completions` without `stream`. The engine is asked to stream all the same."""

    def __init__(self, turn: ChatTurn, headers: Mapping[str, str], collected: Collected) -> None:
        super().__init__(headers)
        self._turn = turn
        self._collected = collected

    async def answer(self, send: Send) -> None:
        def take(payloads: list[bytes]) -> None:
            for payload in payloads:
                chunk = generation.decode(payload)
                self._turn.note(chunk)
                self._collected.take(chunk)

        async with self._turn.open() as generation:
            await generation.relay(take)
            self._turn.require_finished()
        unique = self.request_id.removeprefix("req_")
        await self.send_json(send, self._collected.as_object(unique, self._turn.parts.settings.model))


class ResponseStream(Relayed):
    """`POST /v1/responses` with `stream`: typed events, encoded anew. The closing one comes when all is stored."""

    def __init__(self, turn: ResponseTurn, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._turn = turn
        self._events = ResponseEvents(turn.answer_id)

    async def answer(self, send: Send) -> None:
        turn, events = self._turn, self._events
        has_started = False
        try:
            async with turn.open() as generation:
                await self.start_stream(send)
                has_started = True
                await send({"type": "http.response.body", "body": events.opening(turn.body), "more_body": True})
                await generation.relay(functools.partial(self._hand_on, generation))
            closing = events.closing(turn.body, turn.answer())
        except ShuttingDown:
            if not has_started:
                raise
            closing = events.closing(turn.body, turn.answer())  # what there is of the answer is stored as incomplete
        except Exception as broken:  # after the start an error can only be an event
            if not has_started:
                raise
            closing = events.failed(turn.body, self.in_words(broken))
        await self.end_stream(send, closing)

    def _hand_on(self, generation: Generation, payloads: list[bytes]) -> Awaitable[None] | None:
        deltas = b""
        for payload in payloads:
            try:
                text = self._turn.take(generation.decode(payload))
            except GatewayError:
                self.send_events(deltas)
                raise
            if text:
                deltas += self._events.delta(text)
        return self.send_events(deltas)


class ResponseObject(Relayed):
    """`POST /v1/responses` without `stream`."""

    def __init__(self, turn: ResponseTurn, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._turn = turn

    async def answer(self, send: Send) -> None:
        turn = self._turn

        def take(payloads: list[bytes]) -> None:
            for payload in payloads:
                turn.take(generation.decode(payload))

        async with turn.open() as generation:
            await generation.relay(take)
        await self.send_json(send, turn.body | {"output": [output_item(turn.answer())]})


async def _until_departure(answering: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Runs `answering`; cancels it, and waits for it to tidy up, when the caller leaves first."""
    work = asyncio.create_task(answering)
    departure = asyncio.create_task(_cancel_on_departure(work, receive))
    try:
        await asyncio.wait({work})
    finally:
        departure.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=10)
    if work.done() and not work.cancelled():
        work.result()


async def _cancel_on_departure(work: asyncio.Task[None], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if not work.done():
        log.info("the caller left")
        work.cancel()
