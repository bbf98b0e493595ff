"""Generated schedules for the limits, and the oracle that they are held against; for each place that counts.

The oracle knows nothing of GCRA. It keeps every charge with the time of its admission and what it is known to cost
now, and says with the definition itself: in any interval that ends now, at most N + N * t / period.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from gateway.errors import RateLimited
from gateway.limits import DAY_S, MINUTE_S, Allowance, Limits, Reservation

SLACK_S = 5e-6
Result = TypeVar("Result")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Known:
    """One charge: when it was admitted, and its units as they are known now."""

    at: float
    units: float


@dataclass
class Window:
    """All charges of one subject and kind."""

    size: int
    period_s: float
    charges: list[Known] = field(default_factory=list)

    def wait_s(self, now: float, units: float) -> float:
        """How long `units` have to wait by the definition; not above 0 when they pass now."""
        waits = [units * self.period_s / self.size - self.period_s]
        total = 0.0
        for charge in reversed(self.charges):
            total += charge.units
            waits.append((total + units) * self.period_s / self.size - self.period_s - (now - charge.at))
        return max(waits)

    def require_never_exceeded(self) -> None:
        for first, start in enumerate(self.charges):
            total = 0.0
            for charge in self.charges[first:]:
                total += charge.units
                most = self.size + self.size * (charge.at - start.at) / self.period_s
                assert total <= most + SLACK_S * self.size / self.period_s, (start, charge)


@dataclass
class Open:
    """A reservation and what the oracle knows of it."""

    reservation: Reservation
    requests: list[Known]
    tokens: list[Known] | None = None


Step = tuple[str, float, int]
"""What happens, seconds before it, and a number that it may use."""

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["reserve", "reserve", "reserve and charge", "charge", "settle", "settle", "refund", "unknown"]
        ),
        st.sampled_from([0.0] * 8 + [0.001, 1.0, 3.0, 3.0, 10.0, 30.0, 59.0, 61.0, 40_000.0]) | st.floats(0, 10),
        st.integers(0, 12),
    ),
    min_size=8,
    max_size=60,
)
several = st.lists(
    st.builds(
        Allowance,
        subject=st.just("?"),
        rpm=st.none() | st.integers(1, 12),
        tpm=st.none() | st.integers(3, 60),
        tpd=st.none() | st.integers(3, 90),
        streams=st.none() | st.integers(1, 8),
    ),
    min_size=2,
    max_size=3,
)
single = st.builds(Allowance, subject=st.just("?"), rpm=st.none(), tpm=st.integers(3, 60)).map(lambda one: [one])
allowances = st.one_of(single, several).map(
    lambda entries: [Allowance(f"subject {n}", a.rpm, a.tpm, a.tpd, a.streams) for n, a in enumerate(entries)]
)


async def outcome(call: Coroutine[Any, Any, Result]) -> Result | RateLimited:
    """What a call gives, or its refusal."""
    try:
        return await call
    except RateLimited as refused:
        return refused


def require_true_wait(refused: RateLimited, wait_s: float) -> None:
    assert wait_s > -SLACK_S, "refused although there is budget"
    assert refused.retry_after_s is not None
    assert abs(refused.retry_after_s - wait_s) <= SLACK_S


async def play(limits: Limits, given: list[Allowance], schedule: list[Step], advance: Callable[[float], float]) -> None:
    """Runs a schedule and holds each answer against the oracle; `advance` moves the clock and tells the time."""
    requests = [Window(a.rpm, MINUTE_S) for a in given if a.rpm is not None]
    tokens = [
        Window(size, period_s)
        for a in given
        for size, period_s in ((a.tpm, MINUTE_S), (a.tpd, DAY_S))
        if size is not None
    ]
    most_streams = min((a.streams for a in given if a.streams is not None), default=None)
    running: list[Open] = []

    async def reserve(now: float) -> Open | None:
        wait_s = max((window.wait_s(now, 1) for window in requests), default=0.0)
        answer = await outcome(limits.reserve(given))
        if isinstance(answer, RateLimited):
            if most_streams is not None and len(running) >= most_streams and wait_s <= SLACK_S:
                assert answer.retry_after_s == 1
            else:
                require_true_wait(answer, wait_s)
            return None
        assert wait_s <= SLACK_S, "passed although the budget is spent"
        assert most_streams is None or len(running) < most_streams
        known = [Known(now, 1) for _ in requests]
        for window, charge in zip(requests, known, strict=True):
            window.charges.append(charge)
        running.append(Open(answer, known))
        return running[-1]

    async def charge(entry: Open, now: float, units: int) -> None:
        wait_s = max((window.wait_s(now, units) for window in tokens), default=0.0)
        largest = entry.reservation.largest_tokens
        assert largest == min((window.size for window in tokens), default=None)
        answer = await outcome(entry.reservation.charge_tokens(units))
        if isinstance(answer, RateLimited):
            if largest is not None and units > largest:
                assert answer.retry_after_s is None
                assert answer.headers()["x-should-retry"] == "false"
            else:
                require_true_wait(answer, wait_s)
            return
        assert wait_s <= SLACK_S, "passed although the budget is spent"
        entry.tokens = [Known(now, units) for _ in tokens]
        for window, known in zip(tokens, entry.tokens, strict=True):
            window.charges.append(known)

    for action, seconds, number in schedule:
        now = advance(seconds)
        if action.startswith("reserve"):
            entry = await reserve(now)
            if entry is not None and action == "reserve and charge":
                await charge(entry, now, number + 1)
            continue
        if not running:
            continue
        entry = running[number % len(running)]
        if action == "charge":
            if entry.tokens is None:
                await charge(entry, now, number + 1)
            continue
        running.remove(entry)
        if action == "refund":
            await entry.reservation.refund()
            for known in [*entry.requests, *(entry.tokens or [])]:
                known.units = 0
        elif action == "unknown":
            await entry.reservation.settle(None)
        else:
            used = number % (int(entry.tokens[0].units) + 1) if entry.tokens else 0
            await entry.reservation.settle(used)
            for known in entry.tokens or []:
                known.units = used
        await entry.reservation.settle(10**6)  # the first end counts
        await entry.reservation.refund()
    for window in [*requests, *tokens]:
        window.require_never_exceeded()
