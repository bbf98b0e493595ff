"""How much a caller may ask: requests and tokens a minute, tokens a day, answers at once. Exact, in memory or in Redis.

One request counts against several allowances: its key's, its end user's, its client address's. It is charged to all of
them or to none. Tokens are charged by an upper estimate and settled by the true usage, so a caller is refused only when
what is left beside the open reservations does not suffice. The arithmetic is in gateway/gcra.py, the Redis form in
gateway/redis_limits.py.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gateway.auth import Caller
from gateway.errors import RateLimited
from gateway.gcra import TOLERANCE_S, Budget, Charge
from gateway.settings import Settings

MINUTE_S = 60.0
DAY_S = 86400.0
REQUESTS = "requests a minute"
_KINDS = {REQUESTS: "requests", "tokens a minute": "tokens_minute", "tokens a day": "tokens_day"}
_SWEEP_EVERY = 1024
_STREAM_RETRY_S = 1.0


@dataclass(frozen=True)
class Allowance:
    """What one subject may use; None means without limit.

    Attributes:
        subject: a name of its own for each key, end user and address.
        rpm: requests a minute.
        tpm: tokens a minute.
        tpd: tokens a day.
        streams: answers that run or wait at once.
        whose: the subject in words, for errors.
    """

    subject: str
    rpm: int | None
    tpm: int | None = None
    tpd: int | None = None
    streams: int | None = None
    whose: str = "this API key"


def allowances_of(caller: Caller, settings: Settings) -> list[Allowance]:
    """What counts against a request of `caller`: its key, its end user, its client address.

    A key that acts for others is bounded as all its users together, by limits of its own or GATEWAY_ALL_USERS_RPM: the
    defaults for keys are meant for a single client.
    """
    key = caller.key
    if "on_behalf_of" in key.scopes:
        whole = Allowance(
            key.id, key.rpm or settings.all_users_rpm, key.tpm, key.tpd, key.streams, "all users of this key together"
        )
    else:
        whole = Allowance(
            key.id,
            key.rpm or settings.key_rpm,
            key.tpm or settings.key_tpm,
            key.tpd or settings.key_tpd,
            key.streams or settings.key_streams,
        )
    allowances = [whole]
    if caller.end_user is not None:
        own = (settings.user_rpm, settings.user_tpm, settings.user_tpd, settings.user_streams)
        allowances.append(Allowance(caller.owner, *own, whose="one person"))
    if caller.address is not None:
        allowances.append(Allowance(f"{key.id}@{caller.address}", settings.address_rpm, whose="one address"))
    return allowances


class Limits(Protocol):
    """Where allowances are counted."""

    async def reserve(self, allowances: Sequence[Allowance]) -> Reservation:
        """Charges one request and one answer at once to each allowance: to all, or to none.

        Raises:
            RateLimited: one of them is spent; `retry_after_s` is the true wait if nothing is given back.
            LimitsUnavailable: nobody can tell (Redis is away, and the policy is `closed`).
        """

    @asynccontextmanager
    def running(self) -> AsyncIterator[None]:
        """What has to run beside the requests, while the context is open."""


class Reservation(ABC):
    """What one request holds. Exactly one of `settle` and `refund` counts: the first."""

    def __init__(self, allowances: Sequence[Allowance]) -> None:
        self._allowances = allowances

    @property
    def counts_tokens(self) -> bool:
        """Whether any allowance limits tokens; otherwise nobody needs to count them."""
        return any(allowance.tpm is not None or allowance.tpd is not None for allowance in self._allowances)

    @property
    def largest_tokens(self) -> int | None:
        """The largest token charge that could ever pass; None when nothing limits it."""
        bursts = [limit for allowance in self._allowances for limit in (allowance.tpm, allowance.tpd)]
        return min((limit for limit in bursts if limit is not None), default=None)

    @abstractmethod
    async def charge_tokens(self, tokens: int) -> None:
        """Charges the upper estimate, prompt and longest answer together, to all allowances or to none. Once.

        Raises:
            RateLimited: it does not pass now, or never can (then with `x-should-retry: false`). The request stays
                charged until it is settled or refunded.
            LimitsUnavailable: as `Limits.reserve`.
        """

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*`, as OpenAI's API sends them, of the allowance that has least left."""

    @abstractmethod
    async def settle(self, tokens: int | None) -> None:
        """Ends the answer with what it used in truth; None, when nobody knows, lets the estimate stand."""

    @abstractmethod
    async def refund(self) -> None:
        """Ends it with everything given back, the request too: nothing was used, and the failure was ours."""


class Limit(NamedTuple):
    """One limit of an allowance: `size` units in `period_s`."""

    allowance: Allowance
    what: str
    size: int
    period_s: float

    @property
    def interval_s(self) -> float:
        """The time in which one unit drains."""
        return self.period_s / self.size


def request_limits(allowances: Sequence[Allowance]) -> list[Limit]:
    """Those of requests."""
    return [Limit(entry, REQUESTS, entry.rpm, MINUTE_S) for entry in allowances if entry.rpm is not None]


def token_limits(allowances: Sequence[Allowance]) -> list[Limit]:
    """Those of tokens."""
    limits = []
    for allowance in allowances:
        if allowance.tpm is not None:
            limits.append(Limit(allowance, "tokens a minute", allowance.tpm, MINUTE_S))
        if allowance.tpd is not None:
            limits.append(Limit(allowance, "tokens a day", allowance.tpd, DAY_S))
    return limits


def headers_of(requests: Sequence[tuple[Limit, float]], tokens: Sequence[tuple[Limit, float]]) -> dict[str, str]:
    """The headers for limits with the seconds that are owed on each; of each kind the one with least left is told."""
    headers = {}
    for name, owed in (("requests", requests), ("tokens", tokens)):
        if not owed:
            continue
        limit, owed_s = min(owed, key=lambda entry: (_left(*entry), -entry[1]))
        headers[f"x-ratelimit-limit-{name}"] = str(limit.size)
        headers[f"x-ratelimit-remaining-{name}"] = str(_left(limit, owed_s))
        headers[f"x-ratelimit-reset-{name}"] = f"{round(owed_s * 1000)}ms"
    return headers


def _left(limit: Limit, owed_s: float) -> int:
    return max(0, int((limit.period_s - owed_s + TOLERANCE_S) / limit.interval_s))


def spent(limit: Limit, wait_s: float, units: int, owed_s: float, headers: dict[str, str]) -> RateLimited:
    """The error for a charge of `units` that would pass in `wait_s`."""
    said = f"The limit of {limit.size:,} {limit.what} of {limit.allowance.whose} is reached"
    if limit.what.startswith("tokens"):
        said += f": this request may need {units:,} and {_left(limit, owed_s):,} are left"
    if limit.period_s == DAY_S:  # clients that try again by themselves would do so all day
        headers = headers | {"x-should-retry": "false"}
    error = RateLimited(f"{said}. Try again in {_in_words(wait_s)}.", retry_after_s=wait_s, headers=headers)
    error.limit = _KINDS[limit.what]
    return error


def too_many_tokens(limit: Limit, tokens: int) -> RateLimited:
    """The error for a charge that no wait can help."""
    error = RateLimited(
        f"This request may need {tokens:,} tokens, and the limit of {limit.allowance.whose} is {limit.size:,} "
        f"{limit.what}: it can never pass. Send less, or ask for a shorter answer.",
        headers={"x-should-retry": "false"},
    )
    error.limit = _KINDS[limit.what]
    return error


def too_many_streams(allowance: Allowance) -> RateLimited:
    """The error for one answer too many at once; when one of the others will end nobody knows."""
    error = RateLimited(
        f"The limit of {allowance.streams} answers at once of {allowance.whose} is reached. "
        "Try again when one of them has ended.",
        retry_after_s=_STREAM_RETRY_S,
    )
    error.limit = "streams"
    return error


def _in_words(wait_s: float) -> str:
    seconds = max(1, round(wait_s + 0.5))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


class _Subject:
    """What is counted of one subject."""

    __slots__ = ("requests", "streams", "tokens")

    def __init__(self) -> None:
        self.requests = Budget()
        self.tokens: dict[str, Budget] = {}
        self.streams = 0

    def budget(self, limit: Limit) -> Budget:
        """Where the charges of `limit` are counted."""
        if limit.what == REQUESTS:
            return self.requests
        found = self.tokens.get(limit.what)
        if found is None:
            found = self.tokens[limit.what] = Budget()
        return found

    def is_idle(self, now: float) -> bool:
        """Whether nothing is owed or open. Charges that are open all the same have drained: they change nothing."""
        owed = self.requests.full_at > now or any(budget.full_at > now for budget in self.tokens.values())
        return not owed and self.streams == 0


class MemoryLimits:
    """The limits of one process. Check and charge are one step without an await, so nothing passes between them.

    Args:
        clock: gives seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._subjects: dict[str, _Subject] = {}
        self._calls = 0

    async def reserve(self, allowances: Sequence[Allowance]) -> MemoryReservation:
        """As `Limits.reserve`; never LimitsUnavailable."""
        self._sweep()
        reservation = self.begin(allowances)
        reservation.charge_request()
        return reservation

    def begin(self, allowances: Sequence[Allowance]) -> MemoryReservation:
        """A reservation that holds nothing yet."""
        return MemoryReservation(allowances, [self._subject(entry.subject) for entry in allowances], self._clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Nothing has to run."""
        yield

    def _subject(self, name: str) -> _Subject:
        found = self._subjects.get(name)
        if found is None:
            found = self._subjects[name] = _Subject()
        return found

    def _sweep(self) -> None:
        """Forgets idle subjects, so that memory follows the active ones."""
        self._calls += 1
        if self._calls % _SWEEP_EVERY == 0:
            now = self._clock()
            self._subjects = {name: entry for name, entry in self._subjects.items() if not entry.is_idle(now)}


class MemoryReservation(Reservation):
    """One request's charges in memory."""

    def __init__(
        self, allowances: Sequence[Allowance], subjects: Sequence[_Subject], clock: Callable[[], float]
    ) -> None:
        super().__init__(allowances)
        self._subjects = subjects
        self._clock = clock
        self._requests: list[tuple[Budget, Charge]] = []
        self._tokens: list[tuple[Budget, Charge]] = []
        self._holding: Sequence[_Subject] = ()
        self._estimate = 0
        self._is_over = False

    def charge_request(self) -> None:
        """One request and one answer at once. Raises RateLimited."""
        now = self._clock()
        pairs = list(zip(self._allowances, self._subjects, strict=True))
        costs = [(subject.requests, MINUTE_S / entry.rpm) for entry, subject in pairs if entry.rpm is not None]
        for budget, cost_s in costs:
            if budget.wait_s(now, cost_s, MINUTE_S):
                raise self._refused(self._budgets(request_limits), now, 1)
        for entry, subject in pairs:
            if entry.streams is not None and subject.streams >= entry.streams:
                raise too_many_streams(entry)
        for budget, cost_s in costs:
            self._requests.append((budget, budget.charge(now, cost_s)))
        self._holding = self._subjects
        for subject in self._holding:
            subject.streams += 1

    async def charge_tokens(self, tokens: int) -> None:
        now = self._clock()
        limits = self._budgets(token_limits)
        for limit, _ in limits:
            if tokens > limit.size:
                raise too_many_tokens(limit, tokens)
        for limit, budget in limits:
            if budget.wait_s(now, tokens * limit.interval_s, limit.period_s):
                raise self._refused(limits, now, tokens)
        self._estimate = tokens
        self._tokens = [(budget, budget.charge(now, tokens * limit.interval_s)) for limit, budget in limits]

    def headers(self) -> dict[str, str]:
        now = self._clock()
        return headers_of(
            [(limit, budget.owed_s(now)) for limit, budget in self._budgets(request_limits)],
            [(limit, budget.owed_s(now)) for limit, budget in self._budgets(token_limits)],
        )

    async def settle(self, tokens: int | None) -> None:
        if self._is_over:
            return
        for budget, charge in self._requests:
            budget.settle(charge, charge.add)
        self._end(self._estimate if tokens is None else tokens)

    async def refund(self) -> None:
        if self._is_over:
            return
        for budget, charge in self._requests:
            budget.settle(charge, 0.0)
        self._end(0)

    def _end(self, used_tokens: int) -> None:
        self._is_over = True
        for budget, charge in self._tokens:
            budget.settle(charge, charge.add * min(1.0, used_tokens / max(1, self._estimate)))
        if used_tokens > self._estimate:  # what was not reserved is charged when it is known
            now = self._clock()
            for limit, budget in self._budgets(token_limits):
                cost_s = (used_tokens - self._estimate) * limit.interval_s
                budget.settle(budget.charge(now, cost_s), cost_s)
        for subject in self._holding:
            subject.streams -= 1

    def _budgets(self, limits_of: Callable[[Sequence[Allowance]], list[Limit]]) -> list[tuple[Limit, Budget]]:
        pairs = zip(self._allowances, self._subjects, strict=True)
        return [(limit, subject.budget(limit)) for entry, subject in pairs for limit in limits_of([entry])]

    def _refused(self, limits: list[tuple[Limit, Budget]], now: float, units: int) -> RateLimited:
        """The error that tells the longest of the waits."""
        waits = [budget.wait_s(now, units * limit.interval_s, limit.period_s) for limit, budget in limits]
        limit, budget = limits[waits.index(max(waits))]
        return spent(limit, max(waits), units, budget.owed_s(now), self.headers())
