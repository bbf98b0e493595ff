"""Answers that come from the model: streamed as events, or collected; the caller's departure is watched throughout.

Each is a Starlette response that hears of a departure from the first moment: before the first token, in mid-stream, and
for plain requests too. Our own server tells it, so the work runs in the request's own task; elsewhere it is a task
beside a watch on the connection. When the caller leaves, the task is cancelled, which closes the upstream's connection
and frees the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.answer_log import AnswerLog
from gateway.background import BackgroundAnswers
from gateway.chat_object import Collected
from gateway.dialects import Chunk
from gateway.errors import GatewayError, ShuttingDown
from gateway.plain import PlainForm, text_of, texts_of
from gateway.response_object import ResponseEvents, output_item
from gateway.response_turn import ResponseTurn
from gateway.sending import Write, writer
from gateway.sse import DONE, render
from gateway.telemetry import notes
from gateway.turn import ChatTurn
from gateway.upstream import Generation

log = logging.getLogger("gateway.relay")


class Relayed(Response, ABC):
    """The base: runs `answer` until it is done or the caller has left."""

    def __init__(self) -> None:
        self.background = None
        self.has_started = False
        self._has_left = False
        self._generation: Generation | None = None
        self._unsent: Awaitable[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id: str = scope["state"]["request_id"]
        self.send = send
        self.send_body: Send = scope["state"]["send_body"]
        self._write: Write = writer(self.send_body)
        if scope["state"].get("tells_departures"):
            await self._until_told(scope["state"])
        else:
            await self._until_departure(asyncio.create_task(self.answer()), receive)

    async def _until_told(self, state: dict[str, Any]) -> None:
        """The answer in this very task, where our own server calls `when_left`."""
        work = asyncio.current_task()
        assert work is not None
        # In this request's context, so that the log knows whom it is about.
        state["when_left"] = functools.partial(contextvars.copy_context().run, self._left, work)
        try:
            if state.get("has_left"):
                self._left(work)
            await self.answer()
        except asyncio.CancelledError:
            if not self._has_left:
                raise
            work.uncancel()

    async def _until_departure(self, work: asyncio.Task[None], receive: Receive) -> None:
        """Waits for the answer; when the caller leaves first, it is cancelled, and tidies up."""
        departure = asyncio.create_task(self._watch(work, receive))
        try:
            await asyncio.wait({work})
        finally:
            departure.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=10)
        if work.done() and not work.cancelled():
            work.result()

    async def _watch(self, work: asyncio.Task[None], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left(work)

    def _left(self, work: asyncio.Task[None]) -> None:
        """The caller has left: the engine is freed at once. Our own server says so from within its callback, any server
        by what `receive` gives; what counts is the first."""
        if self._has_left or work.done():
            return
        self._has_left = True
        log.info("the caller left")
        if (noted := notes.get()) is not None:
            noted.has_left = True
        if self._generation is not None:
            self._generation.close()
        work.cancel()

    @abstractmethod
    async def answer(self) -> None:
        """Everything from taking a slot to the last byte. Raises GatewayError while nothing has been sent."""

    async def start_stream(self, headers: Mapping[str, str], first: bytes = b"") -> None:
        """The head of an event stream, unless it was sent, and its first events."""
        if not self.has_started:
            self.has_started = True
            all_headers = [*_STREAM_HEADERS, *_encoded(headers)]
            await self.send({"type": "http.response.start", "status": 200, "headers": all_headers})
        if first:
            await self.send_body({"type": "http.response.body", "body": first, "more_body": True})

    def send_events(self, events: bytes) -> Awaitable[None] | None:
        """Sends a piece of the stream at once; returns what to await when the caller reads too slowly for more."""
        if not events:
            return None
        self._unsent = self._write(events)
        return self._unsent

    async def end_stream(self, closing: bytes) -> None:
        """Sends the last piece, behind what a slow reader has not taken yet."""
        if self._unsent is not None:
            await self._unsent
        await self.send({"type": "http.response.body", "body": closing})

    async def send_json(self, headers: Mapping[str, str], body: Any) -> None:
        """A whole answer."""
        content = msgspec.json.encode(body)
        all_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *_encoded(headers),
        ]
        await self.send({"type": "http.response.start", "status": 200, "headers": all_headers})
        await self.send({"type": "http.response.body", "body": content})

    def in_words(self, error: Exception) -> GatewayError:
        """What a stream that has begun can still say of `error`."""
        if isinstance(error, GatewayError):
            return error
        log.exception("a stream failed", exc_info=error, extra={"fields": {"request_id": self.request_id}})
        return GatewayError("The gateway failed while answering. The request id helps to find out why.")


class ChatStream(Relayed):
    """`POST /v1/chat/completions` with `stream`: the engine's events handed on, read by read."""

    def __init__(self, turn: ChatTurn) -> None:
        super().__init__()
        self._turn = turn
        self._kept: list[bytes] = []

    async def answer(self) -> None:
        turn = self._turn
        try:
            async with turn.open(self._tell_place) as generation:
                self._generation = generation
                await self.start_stream(turn.meter.headers())
                await generation.relay(self)
                turn.require_finished()
            closing = self._ending()
        except Exception as broken:  # after the start an error can only be an event, and no [DONE] follows it
            if not self.has_started:
                raise
            closing = self._failure(self.in_words(broken))
        await self.end_stream(taken(self._kept) + closing)

    def _ending(self) -> bytes:
        return render(DONE)

    def _failure(self, error: GatewayError) -> bytes:
        return render(msgspec.json.encode(error.body(self.request_id)))

    async def _tell_place(self, place: int) -> None:
        await self.start_stream(self._turn.meter.headers(), b": queued, place %d\n\n" % place)

    def take(self, payloads: list[bytes]) -> None:
        assert self._generation is not None
        is_plain_delta = self._generation.is_plain_delta
        for payload in payloads:
            if is_plain_delta(payload):
                self._turn.meter.events += 1
            elif not self._is_wanted(self._generation.decode(payload)):
                continue
            self._kept.append(b"data: %b\n\n" % payload)

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        self._turn.meter.events += len(pieces)
        self._kept.append(form.renamed(pieces))

    def pass_on(self, piece: bytes, form: PlainForm) -> Awaitable[None] | None:
        self._turn.meter.events += 1
        self._unsent = self._write(form.our_head + piece + form.our_tail)
        return self._unsent

    def flush(self) -> Awaitable[None] | None:
        if self._generation is not None and self._generation.is_over:
            return None  # sent in one piece with the end, which follows at once
        return self.send_events(taken(self._kept))

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

    def __init__(self, turn: ChatTurn, collected: Collected) -> None:
        super().__init__()
        self._turn = turn
        self._collected = collected

    async def answer(self) -> None:
        turn = self._turn
        async with turn.open() as generation:
            self._generation = generation
            await generation.relay(self)
            turn.require_finished()
        unique = secrets.token_hex(16)
        await self.send_json(turn.meter.headers(), self._collected.as_object(unique, turn.parts.settings.model))

    def take(self, payloads: list[bytes]) -> None:
        assert self._generation is not None
        for payload in payloads:
            chunk = self._generation.decode(payload)
            self._turn.note(chunk)
            self._collected.take(chunk)

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        texts = texts_of(pieces)
        if texts is None:
            self.take(form.payloads(pieces))
            return
        self._turn.meter.events += len(texts)
        self._collected.add(texts)

    def pass_on(self, piece: bytes, form: PlainForm) -> None:
        self.take_plain([piece], form)

    def flush(self) -> None:
        """Nothing is sent before the end."""


class ResponseStream(Relayed):
    """`POST /v1/responses` with `stream`: typed events, encoded anew. The closing one comes when all is stored."""

    def __init__(self, turn: ResponseTurn) -> None:
        super().__init__()
        self._turn = turn
        self._events = ResponseEvents(turn.answer_id)
        self._kept: list[bytes] = []

    async def answer(self) -> None:
        turn, events = self._turn, self._events
        try:
            async with turn.open(self._tell_place) as generation:
                self._generation = generation
                opening = b"" if self.has_started else events.created(turn.body)
                await self.start_stream(turn.meter.headers(), opening + events.in_progress(turn.body, turn.earlier))
                await generation.relay(self)
            closing = events.closing(turn.body, turn.answers())
        except ShuttingDown as stopped:
            if not self.has_started:
                raise
            if turn.body["status"] == "incomplete":  # what there is of the answer is stored so
                closing = events.closing(turn.body, turn.answers())
            else:
                closing = events.failed(turn.body, stopped)
        except Exception as broken:  # after the start an error can only be an event
            if not self.has_started:
                raise
            closing = events.failed(turn.body, self.in_words(broken))
        await self.end_stream(taken(self._kept) + closing)

    async def _tell_place(self, place: int) -> None:
        body = self._turn.body
        first = b"" if self.has_started else self._events.created(body)
        await self.start_stream(self._turn.meter.headers(), first + self._events.queued(body, place))

    def take(self, payloads: list[bytes]) -> None:
        assert self._generation is not None
        for payload in payloads:
            chunk = self._generation.decode(payload)
            if text := self._turn.take(chunk):
                self._kept.append(self._events.delta(text, chunk.logprobs))

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        texts = texts_of(pieces)
        if texts is None or b"" in pieces:
            self.take(form.payloads(pieces))
            return
        self._turn.take_texts(texts)
        self._kept.append(self._events.deltas(pieces))

    def pass_on(self, piece: bytes, form: PlainForm) -> Awaitable[None] | None:
        text = text_of(piece)
        if not text:
            self.take_plain([piece], form)
            return self.flush()
        self._turn.take_text(text)
        self._unsent = self._write(self._events.piece(piece))
        return self._unsent

    def flush(self) -> Awaitable[None] | None:
        return self.send_events(taken(self._kept))


class ResponseObject(Relayed):
    """`POST /v1/responses` without `stream`."""

    def __init__(self, turn: ResponseTurn) -> None:
        super().__init__()
        self._turn = turn

    async def answer(self) -> None:
        turn = self._turn
        async with turn.open() as generation:
            self._generation = generation
            await generation.relay(self)
        await self.send_json(
            turn.meter.headers(), turn.body | {"output": [output_item(answer) for answer in turn.answers()]}
        )

    def take(self, payloads: list[bytes]) -> None:
        assert self._generation is not None
        for payload in payloads:
            self._turn.take(self._generation.decode(payload))

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        texts = texts_of(pieces)
        if texts is None:
            self.take(form.payloads(pieces))
        else:
            self._turn.take_texts(texts)

    def pass_on(self, piece: bytes, form: PlainForm) -> None:
        self.take_plain([piece], form)

    def flush(self) -> None:
        """Nothing is sent before the end."""


class BackgroundObject(Relayed):
    """`POST /v1/responses` with `background`: told as soon as the question is on disk."""

    def __init__(self, turn: ResponseTurn, answers: BackgroundAnswers) -> None:
        super().__init__()
        self._turn = turn
        self._answers = answers

    async def answer(self) -> None:
        running = await self._answers.start(self._turn)
        await self.send_json(self._turn.meter.headers(), running.first_body)


class BackgroundStream(Relayed):
    """The events of a background answer, as they come. Whoever leaves can come back: the answer runs on.

    Args:
        turn: one that is to be started; None to watch `answer`, which runs.
    """

    def __init__(
        self,
        answers: BackgroundAnswers,
        turn: ResponseTurn | None = None,
        running: AnswerLog | None = None,
        starting_after: int = -1,
    ) -> None:
        super().__init__()
        self._answers = answers
        self._turn = turn
        self._running = running
        self._starting_after = starting_after

    async def answer(self) -> None:
        running = self._running
        if self._turn is not None:
            running = await self._answers.start(self._turn)
        assert running is not None
        await self.start_stream(self._turn.meter.headers() if self._turn else {})
        async with contextlib.aclosing(running.events(self._starting_after)) as told:
            async for events in told:
                await self.send_body({"type": "http.response.body", "body": events, "more_body": True})
        await self.end_stream(b"")


class ToldAgain(Relayed):
    """The events of an answer that has ended."""

    def __init__(self, events: bytes) -> None:
        super().__init__()
        self._events = events

    async def answer(self) -> None:
        await self.start_stream({})
        await self.end_stream(self._events)


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def taken(kept: list[bytes]) -> bytes:
    """All that is kept, which is then empty."""
    whole = kept[0] if len(kept) == 1 else b"".join(kept)
    kept.clear()
    return whole
