"""Limits that several gateways share, exact in Redis; and what holds while Redis is away.

The arithmetic is that of gateway/gcra.py, as Lua (gateway/limits.lua), with Redis's clock. All calls of a gateway keep
their order (gateway/redis_line.py), so what is given back is there for the next request.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

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
from gateway.redis_line import Away, Line, scripts_of

LUA = Path(__file__).with_name("limits.lua")
LEASE_S = 15.0
_RENEW_S = 5.0
_TOGETHER = 100
_TRY_AGAIN_S = 1.0
_PREFIX = "gateway:limits:"


def scripts(lua: str | None = None) -> dict[str, str]:
    """What the line to Redis has to know; `lua` in place of gateway/limits.lua."""
    return scripts_of(lua or LUA.read_text(), "charge", "finish", "renew")


class RedisLimits:
    """The limits of all gateways on one Redis.

    Args:
        line: to Redis, with `scripts`.
        is_open: while Redis is away, whether each gateway goes on with limits of its own, or refuses.
        lease_s: for so long an answer at once counts after its gateway was last heard of.
    """

    def __init__(self, line: Line, *, is_open: bool, lease_s: float = LEASE_S) -> None:
        self.line = line
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
        """Renews the leases while the context is open."""
        task = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

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
                retry_after_s=_TRY_AGAIN_S,
            )
        self._alone = self._limits.alone.begin(self._allowances)
        return self._alone


def _budget_key(limit: Limit) -> str:
    return f"{_PREFIX}{limit.what.replace(' ', '-')}:{limit.allowance.subject}"


def _lease_key(allowance: Allowance) -> str:
    return f"{_PREFIX}streams:{allowance.subject}"
