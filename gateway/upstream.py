"""The only module that speaks to inference servers."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from gateway.dialects import Chunk, Prompt, llamacpp
from gateway.errors import GatewayError, UpstreamFailed, UpstreamNotReady, UpstreamTimeout
from gateway.markers import defuse
from gateway.settings import Timeouts, UpstreamAddress
from gateway.sse import DONE, EventSplitter
from gateway.wire import Address, ConnectFailed, Exchange, ReadTimeout, WireError, open_exchange

_CHECK_TTL_S = 0.5
_COUNTS_AT_ONCE = 8  # a long conversation that nobody has counted must not flood the server with connections
_LARGEST_EVENT_BYTES = 1 << 20
Result = TypeVar("Result")


class _Tokens(msgspec.Struct):
    tokens: list[int]


class Upstream:
    """One inference server: opens generations, counts tokens, tells whether it is ready."""

    def __init__(self, address: UpstreamAddress, *, model: str, timeouts: Timeouts) -> None:
        self.engine = address.engine
        self._address = Address.parse(address.url)
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
        messages = [(role, defuse(text)) for role, text in prompt.messages]
        body = llamacpp.chat_body(dataclasses.replace(prompt, messages=messages), self._model)
        exchange = await self._send("POST", llamacpp.CHAT_PATH, body)
        generation = Generation(exchange, self._timeouts)
        try:
            status = await _in_words(exchange.read_head(self._timeouts.first_token_s))
            if status != 200:
                raise await self._refusal(exchange, status)
            await generation.await_first_event()
        except BaseException:
            generation.close()
            raise
        return generation

    async def count(self, text: str) -> int:
        """How many tokens `text` has, without the few that a chat template adds around it.

        Raises:
            UpstreamNotReady, UpstreamFailed, UpstreamTimeout
        """
        body = msgspec.json.encode({"content": defuse(text)})
        async with self._counting:
            with await self._send("POST", llamacpp.TOKENIZE_PATH, body) as exchange:
                status = await _in_words(exchange.read_head(self._timeouts.between_tokens_s))
                if status != 200:
                    raise await self._refusal(exchange, status)
                answer = await _in_words(exchange.read_all(self._timeouts.between_tokens_s, limit_bytes=64 << 20))
        try:
            return len(msgspec.json.decode(answer, type=_Tokens).tokens)
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
            with await self._send("GET", llamacpp.HEALTH_PATH, b"") as exchange:
                return await _in_words(exchange.read_head(self._timeouts.connect_s)) == 200
        except GatewayError:
            return False

    async def _send(self, method: str, path: str, body: bytes) -> Exchange:
        try:
            return await open_exchange(
                self._address,
                method,
                path,
                headers=self._headers,
                body=body,
                connect_timeout_s=self._timeouts.connect_s,
            )
        except ConnectFailed:
            raise UpstreamNotReady(
                "The model is not running yet, or is being restarted. Try again in a moment.", retry_after_s=2
            ) from None

    async def _refusal(self, exchange: Exchange, status: int) -> GatewayError:
        body = await _in_words(exchange.read_all(self._timeouts.connect_s, limit_bytes=64 << 10))
        try:
            error = msgspec.json.decode(body)
            fields = error.get("error", error) if isinstance(error, dict) else error
        except msgspec.DecodeError:
            fields = None
        return llamacpp.error_of(fields, status)


class Generation:
    """One open run at the inference server: the events of an answer, read by read.

    Close it (or leave its context) to free the server; that is safe at any moment.
    """

    def __init__(self, exchange: Exchange, timeouts: Timeouts) -> None:
        self._exchange = exchange
        self._timeouts = timeouts
        self._splitter = EventSplitter()
        self._first: list[bytes] = []
        self._is_done = False

    async def await_first_event(self) -> None:
        """Waits for the first event and keeps it for `read`."""
        self._first = await self._read(self._timeouts.first_token_s)
        if self._first:
            decode(self._first[0])  # an error in place of the first event is an honest status, not an event

    async def read(self) -> list[bytes]:
        """The payloads that came since the last call; an empty list when the answer has ended as it should.

        Raises:
            UpstreamFailed: the stream broke off, or is none.
            UpstreamTimeout: nothing came for too long.
        """
        if self._first:
            first, self._first = self._first, []
            return first
        return await self._read(self._timeouts.between_tokens_s)

    async def _read(self, timeout_s: float) -> list[bytes]:
        payloads: list[bytes] = []
        while not payloads and not self._is_done:
            try:
                data = await self._exchange.read(timeout_s)
            except WireError as error:
                raise _in_our_words(error) from None
            if not data:
                raise UpstreamFailed("The inference server's answer broke off. Try again.")
            payloads = self._splitter.feed(data)
            if len(self._splitter.rest) > _LARGEST_EVENT_BYTES:
                raise UpstreamFailed("The inference server sent an event without an end. Try again.")
            if payloads and payloads[-1] == DONE:
                self._is_done = True
                del payloads[-1]
        return payloads

    def close(self) -> None:
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def decode(payload: bytes) -> Chunk:
    """What one event says; raises the error that it reports."""
    return llamacpp.decode(payload)


def is_plain_delta(payload: bytes) -> bool:
    """Whether an event surely only adds text, so that nobody needs to decode it."""
    return llamacpp.is_plain_delta(payload)


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
