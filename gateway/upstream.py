"""The only module that speaks to inference servers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from gateway.dialects import Count, Dialect, Prompt, Repair, llamacpp, lmdeploy, openai, tgi, tgi_native
from gateway.dialects.internlm2 import InternLM2Tools
from gateway.errors import GatewayError, UpstreamFailed, UpstreamNotReady, UpstreamTimeout
from gateway.markers import defuse, defused
from gateway.plain import PlainForm
from gateway.settings import Timeouts, UpstreamAddress
from gateway.sse import DONE, EventSplitter
from gateway.telemetry import upstream_headers
from gateway.wire import Address, ConnectFailed, Connections, Exchange, ReadTimeout, WireError, unchunked

log = logging.getLogger("gateway.upstream")
DIALECTS: Mapping[str, Dialect] = {"llamacpp": llamacpp, "tgi": tgi, "lmdeploy": lmdeploy, "openai": openai}
_CHECK_TTL_S = 0.5
_COUNTS_AT_ONCE = 8  # a long conversation that nobody has counted must not flood the server with connections
_LARGEST_EVENT_BYTES = 1 << 20
Result = TypeVar("Result")
_GAP = b"\n\n"


class Sink(Protocol):
    """Where the events of an answer go. All must be quick: they run in the loop's own callbacks."""

    def take(self, payloads: list[bytes]) -> None:
        """Events, in OpenAI's form. May raise GatewayError for what one of them says; what came before that one is
        sent with the end."""

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        """Events of this form, with these pieces of text. May raise like `take`."""

    def pass_on(self, piece: bytes, form: PlainForm) -> Awaitable[None] | None:
        """A read that is one such event: `take_plain` and `flush` in one."""

    def flush(self) -> Awaitable[None] | None:
        """The read is over: sends what it gave; returns what to await before anything more is read."""


class Upstream:
    """One inference server: opens generations, counts tokens, tells whether it is ready."""

    def __init__(
        self, address: UpstreamAddress, *, model: str, timeouts: Timeouts, tool_format: str = "engine"
    ) -> None:
        self.engine = address.engine
        self._dialect = DIALECTS[address.engine]
        if tool_format == "internlm2":
            self._dialect = InternLM2Tools(self._dialect)
        parsed = Address.parse(address.url)  # people write OpenAI's base URLs with and without /v1
        parsed = dataclasses.replace(parsed, prefix=parsed.prefix.removesuffix("/v1"))
        self._connections = Connections(parsed, keeps=self._dialect.KEEPS_CONNECTIONS)
        self._model = model
        self._timeouts = timeouts
        self._headers = {"content-type": "application/json"}
        if address.key:
            self._headers["authorization"] = f"Bearer {address.key}"
        self._checked_at = float("-inf")
        self._is_ready = False
        self._counting = asyncio.Semaphore(_COUNTS_AT_ONCE)

    async def open(self, prompt: Prompt) -> Generation:
        """Starts a generation and waits for its first event, so that what fails until then keeps an honest code.

        Raises:
            UpstreamNotReady, UpstreamFailed, UpstreamTimeout, ContextTooLong, InvalidRequest
        """
        dialect, prompt = self._dialect if prompt.native is None else tgi_native, defused(prompt)
        path = dialect.CHAT_PATH if prompt.raw is None else dialect.COMPLETIONS_PATH
        request = dialect.chat_body(prompt, self._model)
        exchange = await self._send("POST", path, request, self._timeouts.first_token_s)
        generation = Generation(
            exchange,
            dialect,
            prompt,
            model=self._model,
            timeouts=self._timeouts,
            count_prompt=lambda: self._ask(dialect.count_chat(prompt, self._model)),
        )
        try:
            if exchange.status != 200:
                raise await self._refusal(exchange, exchange.status)
            await generation.await_first_event()
        except BaseException:
            generation.close()
            raise
        return generation

    def close(self) -> None:
        """Gives up the connections that were kept."""
        self._connections.close()

    async def count(self, text: str) -> int:
        """How many tokens `text` has, without the few that a chat template adds around it.

        Raises:
            UpstreamNotReady, UpstreamFailed, UpstreamTimeout
        """
        return await self._ask(self._dialect.count(defuse(text), self._model))

    async def count_prompt(self, prompt: Prompt) -> int:
        """The same of a whole prompt, with what its chat template adds."""
        return await self._ask(self._dialect.count_chat(defused(prompt), self._model))

    async def fetch(self, method: str, path: str, body: bytes) -> bytes:
        """The body of a small answer that is no generation.

        Raises:
            UpstreamNotReady, UpstreamFailed, UpstreamTimeout, InvalidRequest
        """
        async with self._counting:
            with await self._send(method, path, body, self._timeouts.between_tokens_s) as exchange:
                if exchange.status != 200:
                    raise await self._refusal(exchange, exchange.status)
                return await _in_words(exchange.read_all(self._timeouts.between_tokens_s, limit_bytes=64 << 20))

    async def _ask(self, count: Count | int) -> int:
        if isinstance(count, int):
            return count
        answer = await self.fetch("POST", count.path, count.body)
        try:
            return count.read(answer)
        except msgspec.DecodeError:
            raise UpstreamFailed("The inference server did not count the tokens. Try again.") from None

    async def is_ready(self) -> bool:
        """Whether the server answers its health check; asked at most twice a second."""
        if time.monotonic() - self._checked_at > _CHECK_TTL_S:
            self._is_ready = await self._check()
            self._checked_at = time.monotonic()
        return self._is_ready

    async def _check(self) -> bool:
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                with await self._send("GET", self._dialect.HEALTH_PATH, b"", self._timeouts.connect_s) as exchange:
                    if exchange.status != 200:
                        return False
                    body = await _in_words(exchange.read_all(self._timeouts.connect_s, limit_bytes=64 << 10))
                    return self._dialect.is_healthy(body)
        except TimeoutError:
            return False
        except GatewayError:
            return False

    async def _send(self, method: str, path: str, body: bytes, head_timeout_s: float) -> Exchange:
        """Sends a request and reads the head of its answer."""
        while True:
            try:
                exchange = await self._connections.open(
                    method,
                    path,
                    headers={**self._headers, **upstream_headers()},
                    body=body,
                    connect_timeout_s=self._timeouts.connect_s,
                )
            except ConnectFailed:
                raise UpstreamNotReady(
                    "The model is not running yet, or is being restarted. Try again in a moment.", retry_after_s=2
                ) from None
            try:
                await exchange.read_head(head_timeout_s)
                return exchange
            except WireError as error:
                exchange.close()
                if not exchange.was_stale:
                    raise _in_our_words(error) from None
            except BaseException:
                exchange.close()
                raise

    async def _refusal(self, exchange: Exchange, status: int) -> GatewayError:
        body = await _in_words(exchange.read_all(self._timeouts.connect_s, limit_bytes=64 << 10))
        if status in (401, 403, 404):
            log.warning("%s answered %d: are its key, its address and the model's name right?", self.engine, status)
        error = self._dialect.refusal(status, body)
        if status in (429, 503) and (told := exchange.headers.get(b"retry-after", b"")).isdigit():
            error.retry_after_s = float(told)
        return error


class Generation:
    """One open run at the inference server: the events of an answer, read by read, in OpenAI's form.

    Close it (or leave its context) to free the server; that is safe at any moment.
    """

    def __init__(
        self,
        exchange: Exchange,
        dialect: Dialect,
        prompt: Prompt,
        *,
        model: str,
        timeouts: Timeouts,
        count_prompt: Callable[[], Awaitable[int]],
    ) -> None:
        self.decode = dialect.decode
        self.is_plain_delta = dialect.is_plain_delta
        self.served_by = ""
        """The id of the server, where there are several."""
        self._exchange = exchange
        self._may_end_without_done = dialect.MAY_END_WITHOUT_DONE
        self._repair = dialect.repair(prompt, model)
        self._timeouts = timeouts
        self._count_prompt = count_prompt
        self._splitter = EventSplitter()
        self._first: list[bytes] = []
        self._unread = b""
        self._on_close: Callable[[], None] | None = None
        self._sink: Sink | None = None
        self._form: PlainForm | None = None
        self.is_over = False
        """Whether the answer's last event has come."""

    async def await_first_event(self) -> None:
        """Waits for the first event and keeps it for `relay`. Raises what it reports: that is an honest status yet."""
        loop = asyncio.get_running_loop()
        due_at = loop.time() + self._timeouts.first_token_s  # comments keep a connection alive, and are no news
        while not self._first and not self.is_over:
            self._unread = self._unread or await _in_words(self._exchange.read(max(0.0, due_at - loop.time())))
            if not self._unread:
                break
            end = 0 if self._splitter.rest else self._unread.find(_GAP) + len(_GAP)
            end = end if end >= len(_GAP) else len(self._unread)
            data, self._unread = self._unread[:end], self._unread[end:]
            payloads = self._splitter.feed(data)
            self._first = self._patched(payloads) if payloads else []
        if not self._first:
            raise UpstreamFailed("The inference server gave no answer at all. Try again.")
        self.decode(self._first[0])

    async def relay(self, sink: Sink) -> None:
        """Hands the answer's events to `sink`, read by read, until it has ended as it should.

        That is done from within the loop's callback that read them. While what `sink.flush` returned is not done,
        nothing more is read.

        Raises:
            UpstreamFailed: the stream broke off, or is none.
            UpstreamTimeout: nothing came for too long.
            GatewayError: whatever `sink` raised.
        """
        self._sink = sink
        sink.take(self._first)
        unread, self._unread = self._unread, b""
        if (held := self._hand_on(unread)) is not None:
            await self._exchange.pause_for(held)
        if not self.is_over:
            await _in_words(self._exchange.relay(self._hand_on, self._timeouts.between_tokens_s))
        if not self.is_over and not self._may_end_without_done:
            raise UpstreamFailed("The inference server's answer broke off. Try again.")
        if self._repair is not None and self._repair.is_over:
            sink.take(await self._own_usage(self._repair))
            if (held := sink.flush()) is not None:
                await held

    def _pass_on(self, data: bytes) -> bool:
        """The short way of nearly all tokens: a read, as it is on the wire, of events that only add text."""
        form, sink, repair = self._form, self._sink, self._repair
        if form is None or sink is None or self._splitter.rest:
            return False
        piece = form.only_piece(data)
        if piece is None:
            return self._pass_many(data, form, sink)
        if repair is not None and not repair.may_pass(1):
            return False
        self._exchange.heard()
        if (held := sink.pass_on(piece, form)) is not None:
            self._exchange.hold(held)
        return True

    def _pass_many(self, data: bytes, form: PlainForm, sink: Sink) -> bool:
        body = unchunked(data)
        pieces = None if body is None else form.pieces(body)
        if pieces is None or (self._repair is not None and not self._repair.may_pass(len(pieces))):
            return False
        self._exchange.heard()
        sink.take_plain(pieces, form)
        if (held := sink.flush()) is not None:
            self._exchange.hold(held)
        return True

    def _hand_on(self, data: bytes) -> Awaitable[None] | None:
        if self._sink is None:  # closed
            return None
        while data and not self.is_over:
            if not self._splitter.rest:
                data = self._hand_on_plain(data, self._sink)
            if data:
                data = self._hand_on_next(data, self._sink)
        if self.is_over:
            self._exchange.stop()
        return self._sink.flush()

    def _hand_on_plain(self, data: bytes, sink: Sink) -> bytes:
        """Hands on, as a whole, the events at the beginning that surely only add text; returns the rest."""
        if self._form is None:
            return data
        events, end = self._form.count(data)
        pieces = self._form.pieces(data[:end]) if events else None
        if pieces is None or (self._repair is not None and not self._repair.may_pass(events)):
            return data
        self._exchange.heard()
        sink.take_plain(pieces, self._form)
        return data[end:]

    def _hand_on_next(self, data: bytes, sink: Sink) -> bytes:
        """Looks into the next event, to learn the form of those behind it, or into all; returns the rest."""
        can_learn = self._repair is None or self._repair.may_pass(0)
        end = data.find(_GAP) + len(_GAP) if can_learn else 0
        payloads = self._splitter.feed(data[:end] if end >= len(_GAP) else data)
        if payloads:
            self._exchange.heard()
            patched = self._patched(payloads)
            if can_learn and patched and self.is_plain_delta(payloads[-1]):
                self._form = PlainForm.learn(payloads[-1], patched[-1])
                self._exchange.shortcut = self._pass_on
            sink.take(patched)
        elif len(self._splitter.rest) > _LARGEST_EVENT_BYTES:
            raise UpstreamFailed("The inference server sent an event without an end. Try again.")
        return data[end:] if end >= len(_GAP) else b""

    def _patched(self, payloads: list[bytes]) -> list[bytes]:
        if payloads[-1] == DONE:
            self.is_over = True
            del payloads[-1]
        return payloads if self._repair is None else self._repaired(payloads, self._repair)

    def _repaired(self, payloads: list[bytes], repair: Repair) -> list[bytes]:
        repaired = []
        for payload in payloads:
            if (patched := repair.patched(payload)) is not None:
                repaired.append(patched)
            if repair.is_over:
                self.is_over = True
                self._exchange.close()
                break
        else:
            if self.is_over:
                repaired += repair.ending()
        if repair.is_done:
            self._repair = None
        return repaired

    async def _own_usage(self, repair: Repair) -> list[bytes]:
        """The usage of an answer that was ended here; without one when the prompt cannot be counted."""
        try:
            return [repair.usage_event(await self._count_prompt())]
        except GatewayError as error:
            log.warning("an answer has no usage: %s", error)
            return []

    def when_closed(self, call: Callable[[], None]) -> None:
        """Has `call` called once, when this is closed."""
        self._on_close = call

    def close(self) -> None:
        self._exchange.close()
        self._sink = None
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _in_words(reading: Awaitable[Result]) -> Result:
    """Awaits a read from the wire and says in our errors what went wrong with it."""
    try:
        return await reading
    except WireError as error:
        raise _in_our_words(error) from None


def _in_our_words(error: WireError) -> GatewayError:
    if isinstance(error, ReadTimeout):
        return UpstreamTimeout("The inference server stopped answering in time. Try again.")
    return UpstreamFailed("The connection to the inference server broke. Try again.")
