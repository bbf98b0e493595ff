"""What turns share, and the stateless one. Read it beside docs/architecture.md; stored turns are in response_turn.py.

A turn takes what it may use from the limits, a slot from the admission and a generation from an upstream, in this
order, and gives them back in the other. It waits for the first event before its caller hears anything, so that what
fails until then has an honest status, unless the caller has to wait for a slot: who waits is told the place.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.admission import Admission, Tell
from gateway.auth import Caller
from gateway.dialects import Chunk, Prompt, Usage
from gateway.errors import GatewayError, LimitsUnavailable, NotFound, RateLimited, UpstreamFailed, UpstreamTimeout
from gateway.limits import Limits, Reservation, allowances_of
from gateway.metrics import Metrics
from gateway.observed import ObservedAnswer
from gateway.open_turns import OpenTurns
from gateway.settings import Settings
from gateway.store import Store
from gateway.upstream import Generation
from gateway.upstreams import Upstreams

log = logging.getLogger("gateway.turn")
_DEFAULT_MODELS = ("dummy", "tgi", "")  # what huggingface_hub and TGI's own clients send when none is named


@dataclass(frozen=True)
class Parts:
    """What a turn works with; put together once in gateway/main.py."""

    settings: Settings
    upstreams: Upstreams
    store: Store
    limits: Limits
    admission: Admission
    open_turns: OpenTurns
    metrics: Metrics

    async def charge(self, caller: Caller, *, is_answer: bool = True) -> Reservation:
        """Charges one request, and one answer at once, until it is settled.

        Raises:
            RateLimited, LimitsUnavailable, ShuttingDown
        """
        self.open_turns.require_open()
        allowances = allowances_of(caller, self.settings)
        if not is_answer:
            allowances = [dataclasses.replace(allowance, streams=None) for allowance in allowances]
        try:
            return await self.limits.reserve(allowances)
        except (RateLimited, LimitsUnavailable) as error:
            self.metrics.refused(error)
            raise

    def require_model(self, name: str | None) -> None:
        """Raises NotFound for a model that is not the one served; some clients name none, or the URL."""
        if name is None or name == self.settings.model or name in _DEFAULT_MODELS:
            return
        if not name.startswith(("http://", "https://")):
            raise NotFound(
                f"The model '{name[:100]}' is not served here; '{self.settings.model}' is.",
                param="model",
                code="model_not_found",
            )


class Meter:
    """What one turn uses, for its limits: an estimate from above before the answer, the truth after it."""

    def __init__(self, parts: Parts, caller: Caller) -> None:
        self._parts = parts
        self._caller = caller
        self._reservation: Reservation | None = None
        self._prompt_tokens = 0
        self.observed = ObservedAnswer(parts.metrics)
        self.events = 0
        """Events of the answer that came: what it has used, when it ends before the engine has told."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the request's charge; gives it all back when the failure is ours and nothing came.

        The tokens alone are given back to who left before a slot came free, and for what was refused before it ran:
        the engine had no work with it, but we had.

        Raises:
            RateLimited, LimitsUnavailable, ShuttingDown
        """
        reservation = self._reservation = await self._parts.charge(self._caller)
        is_ours = False
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            is_ours = isinstance(error, GatewayError) and error.status >= 500 and not self.events
            raise
        finally:
            self.observed.ended(self._prompt_tokens, self.events, failure)
            if is_ours:
                await reservation.refund()
            else:
                has_run = self.events or (self.observed.has_slot and not isinstance(failure, GatewayError))
                await reservation.settle(self._prompt_tokens + self.events if has_run else 0)

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit of this caller is about tokens."""
        return self._reservation is not None and self._reservation.counts_tokens

    async def charge_tokens(self, prompt_tokens: int, max_tokens: int, *, is_limited: bool) -> int:
        """Charges prompt and longest answer; returns how long the answer may be.

        An answer that nobody limited is limited here, to what the limits let pass at all.

        Raises:
            RateLimited, LimitsUnavailable
        """
        assert self._reservation is not None
        largest = self._reservation.largest_tokens
        if largest is not None and not is_limited:
            max_tokens = max(1, min(max_tokens, largest - prompt_tokens))
        try:
            await self._reservation.charge_tokens(prompt_tokens + max_tokens)
        except (RateLimited, LimitsUnavailable) as error:
            self._parts.metrics.refused(error)
            raise
        self._prompt_tokens = prompt_tokens
        return max_tokens

    def note(self, usage: Usage) -> None:
        """What the engine says that was used."""
        self._prompt_tokens, self.events = usage.input_tokens, usage.output_tokens

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*`."""
        return self._reservation.headers() if self._reservation is not None else {}


class ChatTurn:
    """A stateless completion of `prompt`; `wants_usage` says whether a stream's caller asked for the usage."""

    def __init__(self, parts: Parts, caller: Caller, prompt: Prompt, *, wants_usage: bool = False) -> None:
        self.parts = parts
        self.wants_usage = wants_usage
        self.finish_reason: str | None = None
        self.meter = Meter(parts, caller)
        self._caller = caller
        self._prompt = prompt

    @asynccontextmanager
    async def open(self, tell: Tell | None = None) -> AsyncIterator[Generation]:
        """Holds slot and generation; `tell` is called with the place, when there is a wait for the slot.

        Raises RateLimited, Overloaded, ContextTooLong, UpstreamNotReady, UpstreamFailed …
        """
        parts = self.parts
        async with parts.open_turns.running(), self.meter.running():
            prompt = await self._charged() if self.meter.counts_tokens else self._prompt
            observed = self.meter.observed
            observed.queued()
            async with parts.admission.lease(self._caller.owner, tell) as slot:
                observed.admitted()
                with await parts.upstreams.open(prompt, slot) as generation, observed.streaming(generation.served_by):
                    async with within(parts.settings.timeouts.turn_s):
                        yield generation

    def note(self, chunk: Chunk) -> None:
        """Remembers how the answer ended, and what it used."""
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.meter.events += 1
        if chunk.usage is not None:
            self.meter.note(chunk.usage)

    def require_finished(self) -> None:
        """Raises UpstreamFailed when the stream ended without saying why: a cut answer must not pass as whole."""
        if self.finish_reason is None:
            raise UpstreamFailed("The inference server's answer broke off. Try again.")

    async def _charged(self) -> Prompt:
        prompt = self._prompt
        tokens = await self.parts.upstreams.count_prompt(prompt)
        room = prompt.max_tokens if prompt.is_limited else max(1, prompt.max_tokens - tokens)
        longest = await self.meter.charge_tokens(tokens, room, is_limited=prompt.is_limited)
        if longest < room:
            prompt = dataclasses.replace(prompt, max_tokens=longest, is_limited=True)
        return prompt


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Bounds an answer as a whole: an engine that never ends, and a caller who does not read, would hold the slot."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise UpstreamTimeout("The answer took too long and was cut. Ask for a shorter one.") from None
