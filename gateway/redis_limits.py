"""Limits that several gateways share, exact in Redis; and what holds while Redis is away.

The arithmetic is that of gateway/gcra.py, as Lua (gateway/limits.lua), with Redis's clock. All calls of a gateway go
over one connection in the order in which they were made, as many in a round trip as have come together, so what is
given back is there for the next request, and a burst costs a few round trips. Nobody waits for a Redis that is known to
be away: a single task looks for it once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from gateway.errors import LimitsUnavailable
from gateway.gcra import TOLERANCE_S
from gateway.limits import (
    Allowance,
    Limit,
    MemoryLimits,
    MemoryReservation,
    Reservation,
    headers_of,
    request_limits,
    spent,
    token_limits,
    too_many_streams,
    too_many_tokens,
)

log = logging.getLogger("gateway.redis")
LUA = Path(__file__).with_name("limits.lua")
LEASE_S = 15.0
_RENEW_S = 5.0
_ANSWER_S = 0.25
_SLICES = 25
_LOOK_AGAIN_S = 1.0
_KEPT_CALLS = 10_000
_TOGETHER = 100
_PREFIX = "gateway:limits:"


class Away(Exception):
    """Redis does not answer, or not with what was asked for."""


@dataclass
class _Call:
    script: str
    keys: Sequence[str]
    arguments: Sequence[str | float]
    future: asyncio.Future[list[Any]] | None = None


class Line:
    """The connection to Redis.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        lua: functions without arguments, one for each script.
        while_away: what to log that happens then.
    """

    SCRIPTS = ("charge", "finish", "renew")

    def __init__(self, url: str, lua: str, while_away: str) -> None:
        self._redis = Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=None)
        self._sources = {name: f"{lua}\nreturn {name}()" for name in self.SCRIPTS}
        self._while_away = while_away
        self._hashes: dict[str, str] = {}
        self._next: deque[_Call] = deque()
        self._kept: deque[_Call] = deque(maxlen=_KEPT_CALLS)
        self._has_next = asyncio.Event()
        self._is_known_away = False
        self.is_up = False

    async def call(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> list[Any]:
        """The script's answer. Raises Away, at once when that is known."""
        if not self.is_up:
            raise Away
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._next.append(_Call(script, keys, arguments, future))
        self._has_next.set()
        return await future

    def post(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> None:
        """Asks without waiting for the answer; while Redis is away the call is kept for its return."""
        (self._next if self.is_up else self._kept).append(_Call(script, keys, arguments))
        self._has_next.set()

    async def run(self) -> None:
        """Sends what is asked, and looks for Redis while it is away. Until cancelled."""
        while True:
            while not self.is_up:
                await asyncio.sleep(_LOOK_AGAIN_S)
                await self.connect()
            await self._has_next.wait()
            self._has_next.clear()
            await self._send_next()

    async def connect(self) -> None:
        """Loads the scripts; what was kept is sent next. Nothing happens when Redis does not answer."""
        try:
            await self._in_time(self._load())
        except Exception as error:  # whatever it is, the search goes on
            await self._lost(error)
            return
        if self._is_known_away:
            log.warning("Redis is back: limits are shared again")
        self.is_up, self._is_known_away = True, False
        self._next, self._kept = self._kept + self._next, deque(maxlen=_KEPT_CALLS)
        self._has_next.set()

    async def close(self) -> None:
        """Sends what is left, if that is possible, and closes."""
        while self.is_up and self._next:
            await self._send_next()
        await self._redis.aclose()

    async def _load(self) -> None:
        await self._redis.set(f"{_PREFIX}probe", 1, px=1000)  # one that cannot be written to is of no use
        for name, source in self._sources.items():
            self._hashes[name] = await self._redis.script_load(source)

    async def _send_next(self) -> None:
        calls = [self._next.popleft() for _ in range(min(_TOGETHER, len(self._next)))]
        if self._next:
            self._has_next.set()
        if not calls:
            return
        try:
            answers = await self._in_time(self._send(calls))
            if any(isinstance(answer, NoScriptError) for answer in answers):  # an emptied Redis has run none of them
                await self._in_time(self._load())
                answers = await self._in_time(self._send(calls))
        except Exception as error:  # whatever it is, nobody may wait for ever
            self._kept.extend(call for call in calls if call.future is None)
            for call in calls:
                _fail(call)
            await self._lost(error)
            return
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(call)
                await self._lost(answer)
            elif call.future is not None and not call.future.done():
                call.future.set_result(answer)

    async def _send(self, calls: Sequence[_Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(self._hashes[call.script], len(call.keys), *call.keys, *call.arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    async def _in_time(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Raises TimeoutError for an answer that takes too long."""
        task = asyncio.ensure_future(work)
        try:
            for _ in range(_SLICES):  # a loop that is held up itself must not take Redis for silent
                if not task.done():
                    await asyncio.wait({task}, timeout=_ANSWER_S / _SLICES)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_ANSWER_S)
        if task.cancelled():
            raise TimeoutError("no answer in time")
        return task.result()

    async def _lost(self, error: Exception) -> None:
        if not isinstance(error, RedisError | OSError):
            log.error("a bug on the way to Redis", exc_info=error)
        if not self._is_known_away:
            log.warning("Redis cannot be used (%s: %s): %s", type(error).__name__, error, self._while_away)
        self.is_up, self._is_known_away = False, True
        for call in self._next:
            _fail(call)
        self._kept.extend(call for call in self._next if call.future is None)
        self._next = deque()
        with contextlib.suppress(RedisError, OSError):
            await self._redis.connection_pool.disconnect()


def _fail(call: _Call) -> None:
    if call.future is not None and not call.future.done():
        call.future.set_exception(Away())


class RedisLimits:
    """The limits of all gateways on one Redis.

    Args:
        url: where Redis is.
        is_open: while Redis is away, whether each gateway goes on with limits of its own, or refuses.
        lease_s: for so long an answer at once counts after its gateway was last heard of.
        lua: gateway/limits.lua.
    """

    def __init__(self, url: str, *, is_open: bool, lease_s: float = LEASE_S, lua: str | None = None) -> None:
        policy = (
            "each gateway counts for itself until it is back" if is_open else "requests are refused until it is back"
        )
        self.line = Line(url, lua or LUA.read_text(), policy)
        self.alone = MemoryLimits() if is_open else None
        self.lease_s = lease_s
        self.leases: dict[str, Sequence[str]] = {}

    async def reserve(self, allowances: Sequence[Allowance]) -> RedisReservation:
        """As `Limits.reserve`."""
        reservation = RedisReservation(self, allowances)
        await reservation.charge_request()
        return reservation

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Speaks to Redis and renews the leases while the context is open."""
        await self.line.connect()
        tasks = {asyncio.create_task(self.line.run()), asyncio.create_task(self._renew())}
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self.line.close()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            held = [(key, lease) for lease, keys in self.leases.items() for key in keys]
            for start in range(0, len(held) if self.line.is_up else 0, _TOGETHER):
                part = held[start : start + _TOGETHER]
                self.line.post("renew", [key for key, _ in part], [self.lease_s, *(lease for _, lease in part)])


class RedisReservation(Reservation):
    """One request's charges in Redis; what was asked while it was away, in memory."""

    def __init__(self, limits: RedisLimits, allowances: Sequence[Allowance]) -> None:
        super().__init__(allowances)
        self._limits = limits
        self._id = secrets.token_urlsafe(9)
        self._requests: list[Limit] = []
        self._tokens: list[Limit] = []
        self._streams: list[str] = []
        self._owed_requests: list[tuple[Limit, float]] = []
        self._owed_tokens: list[tuple[Limit, float]] = []
        self._estimate = 0
        self._alone: MemoryReservation | None = None
        self._is_over = False

    async def charge_request(self) -> None:
        """One request and one answer at once. Raises RateLimited, LimitsUnavailable."""
        requests, tokens = request_limits(self._allowances), token_limits(self._allowances)
        bounded = [entry for entry in self._allowances if entry.streams is not None]
        if not requests and not bounded:
            return
        try:
            owed = await self._charge([*requests, *tokens], [1] * len(requests) + [0] * len(tokens), bounded)
        except Away:
            self._go_on_alone().charge_request()
            return
        self._owed_requests, self._owed_tokens = owed[: len(requests)], owed[len(requests) :]
        self._requests, self._streams = requests, [_lease_key(entry) for entry in bounded]
        if self._streams:
            self._limits.leases[self._id] = self._streams

    async def charge_tokens(self, tokens: int) -> None:
        limits = token_limits(self._allowances)
        for limit in limits:
            if tokens > limit.size:
                raise too_many_tokens(limit, tokens)
        if not limits:
            return
        if self._alone is None:
            try:
                self._owed_tokens = await self._charge(limits, [tokens] * len(limits), [])
            except Away:
                self._go_on_alone()
            else:
                self._tokens, self._estimate = limits, tokens
        if self._alone is not None:
            await self._alone.charge_tokens(tokens)

    def headers(self) -> dict[str, str]:
        if self._alone is not None:
            return self._alone.headers()
        return headers_of(self._owed_requests, self._owed_tokens)

    async def settle(self, tokens: int | None) -> None:
        if self._alone is not None:
            await self._alone.settle(tokens)
        self._end(1, self._estimate if tokens is None else tokens)

    async def refund(self) -> None:
        if self._alone is not None:
            await self._alone.refund()
        self._end(0, 0)

    def _end(self, used_requests: int, used_tokens: int) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._limits.leases.pop(self._id, None)
        tokens, beyond = self._tokens, 0
        if self._alone is None and used_tokens > self._estimate:
            tokens, beyond = token_limits(self._allowances), used_tokens - self._estimate
        used = [(limit, used_requests, 0) for limit in self._requests]
        used += [(limit, min(used_tokens, self._estimate), beyond) for limit in tokens]
        self._finish(used, self._streams)

    async def _charge(
        self, limits: Sequence[Limit], units: Sequence[int], bounded: Sequence[Allowance]
    ) -> list[tuple[Limit, float]]:
        """Charges all or nothing; gives what is owed then. Raises RateLimited, Away."""
        costs = [count * limit.interval_s for limit, count in zip(limits, units, strict=True)]
        arguments: list[str | float] = [self._id, self._limits.lease_s, len(limits)]
        for limit, cost_s in zip(limits, costs, strict=True):
            arguments += [cost_s, limit.period_s]
        streams = [_lease_key(entry) for entry in bounded]
        arguments += [entry.streams or 0 for entry in bounded]
        try:
            answer = await self._limits.line.call("charge", [*map(_budget_key, limits), *streams], arguments)
        except (Away, asyncio.CancelledError):  # it may have been charged all the same
            self._finish([(limit, 0, 0) for limit, count in zip(limits, units, strict=True) if count], streams)
            raise
        waits = [float(wait) if count else 0.0 for wait, count in zip(answer[2::2], units, strict=True)]
        owed = [(limit, float(owed_s)) for limit, owed_s in zip(limits, answer[3::2], strict=True)]
        if answer[0]:
            return owed
        longest = max(waits, default=0.0)
        if longest <= TOLERANCE_S:
            raise too_many_streams(bounded[answer[1] - 1])
        place = waits.index(longest)
        headers = headers_of(
            [entry for entry in owed if entry[0] in request_limits(self._allowances)] or self._owed_requests,
            [entry for entry in owed if entry[0] in token_limits(self._allowances)],
        )
        raise spent(limits[place], longest, units[place], owed[place][1], headers)

    def _finish(self, used: Sequence[tuple[Limit, int, int]], streams: Sequence[str]) -> None:
        if not used and not streams:
            return
        arguments: list[str | float] = [self._id, len(used)]
        for limit, units, beyond in used:
            arguments += [units * limit.interval_s, beyond * limit.interval_s]
        self._limits.line.post("finish", [*(_budget_key(limit) for limit, _, _ in used), *streams], arguments)

    def _go_on_alone(self) -> MemoryReservation:
        """Raises LimitsUnavailable when that is the policy."""
        if self._limits.alone is None:
            raise LimitsUnavailable(
                "The limits cannot be checked now, and this server refuses requests then. Try again in a moment.",
                retry_after_s=_LOOK_AGAIN_S,
            )
        self._alone = self._limits.alone.begin(self._allowances)
        return self._alone


def _budget_key(limit: Limit) -> str:
    return f"{_PREFIX}{limit.what.replace(' ', '-')}:{limit.allowance.subject}"


def _lease_key(allowance: Allowance) -> str:
    return f"{_PREFIX}streams:{allowance.subject}"
