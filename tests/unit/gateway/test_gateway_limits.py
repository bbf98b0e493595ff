"""Limits in memory: never above N + N * t / period, never a refusal while there is budget, and waits that are true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings

from gateway.errors import RateLimited
from gateway.limits import Allowance, MemoryLimits, MemoryReservation
from tests.limits_schedule import Clock, Step, allowances, play, steps

pytestmark = pytest.mark.unit
ANN = Allowance("ann", 3, tpm=600)


def done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that must not wait: check and charge are one step."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waited")


def reserve(limits: MemoryLimits, *given: Allowance) -> MemoryReservation | None:
    """A reservation, or None when it was refused."""
    try:
        return done(limits.reserve(given))  # type: ignore[no-any-return]
    except RateLimited:
        return None


def moving(clock: Clock) -> Any:
    def advance(seconds: float) -> float:
        clock.now += seconds
        return clock.now

    return advance


@settings(max_examples=400, deadline=None)
@given(given=allowances, schedule=steps)
def test_any_schedule_is_held_to_the_definition(given: list[Allowance], schedule: list[Step]) -> None:
    clock = Clock()
    asyncio.run(play(MemoryLimits(clock), given, schedule, moving(clock)))


@pytest.mark.parametrize("seed", range(10))
def test_many_schedules_of_one_budget_that_is_always_nearly_spent(seed: int) -> None:
    chance = random.Random(seed)
    actions = ["reserve and charge"] * 4 + ["settle"] * 3 + ["refund", "unknown"]
    for _ in range(60):
        clock, size = Clock(), chance.randint(5, 60)
        given = [Allowance("key", None, tpm=size)]
        schedule = [
            (chance.choice(actions), chance.choice([0, 0, 0, chance.expovariate(0.2)]), chance.randrange(size // 2))
            for _ in range(60)
        ]
        asyncio.run(play(MemoryLimits(clock), given, schedule, moving(clock)))


@pytest.mark.parametrize("seed", range(6))
def test_two_hundred_concurrent_callers_of_one_key(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    actions = ["reserve and charge"] * 5 + ["settle"] * 4 + ["refund"]
    schedule = [("reserve and charge", 0.0, chance.randrange(200)) for _ in range(200)]
    schedule += [(chance.choice(actions), chance.expovariate(4), chance.randrange(1000)) for _ in range(1200)]
    given = [Allowance("key", 240, tpm=60_000, tpd=1_000_000, streams=200)]
    asyncio.run(play(MemoryLimits(clock), given, schedule, moving(clock)))


def test_the_counterexample_to_taking_a_refund_off_the_time() -> None:
    """Held while the clock refills and then refunded, a reservation would bank more than the burst."""
    clock = Clock()
    limits = MemoryLimits(clock)
    key = Allowance("key", None, tpm=60)
    held = done(limits.reserve([key]))
    done(held.charge_tokens(60))
    clock.now += 59
    other = done(limits.reserve([key]))
    done(other.charge_tokens(59))  # what has drained
    done(other.settle(59))
    done(held.refund())
    last = done(limits.reserve([key]))
    with pytest.raises(RateLimited):
        done(last.charge_tokens(2))  # a plain subtraction would let 60 pass: 119 in one second
    done(last.charge_tokens(1))


@pytest.mark.parametrize("rpm", [1, 2, 7, 30, 600, 10_000])
def test_a_burst_of_n_passes_and_no_more(rpm: int) -> None:
    limits = MemoryLimits(Clock())
    passed = [reserve(limits, Allowance("ann", rpm)) is not None for _ in range(rpm + 3)]
    assert passed == [True] * rpm + [False] * 3


@pytest.mark.parametrize("seed", range(5))
def test_the_wait_that_is_told_is_the_real_one(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    limits, given = MemoryLimits(clock), Allowance("ann", chance.randint(1, 100))
    for _ in range(300):
        clock.now += chance.expovariate(given.rpm / 20 if given.rpm else 1)
        wait_s = None
        try:
            done(limits.reserve([given]))
        except RateLimited as refused:
            wait_s = refused.retry_after_s
        if wait_s is not None:
            clock.now += wait_s - 1e-3
            assert not reserve(limits, given)
            clock.now += 2e-3
            assert reserve(limits, given)


def test_all_allowances_or_none() -> None:
    limits = MemoryLimits(Clock())
    key, ann, bob = Allowance("key", 3), Allowance("ann", 1), Allowance("bob", 9)
    assert reserve(limits, key, ann)
    assert not reserve(limits, key, ann)  # ann's is spent, and the key is not charged for it
    assert [reserve(limits, key, bob) is not None for _ in range(3)] == [True, True, False]
    assert reserve(limits, bob)


def test_the_tightest_is_told_and_the_longest_wait() -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    both = [Allowance("key", 2), Allowance("ann", 1, whose="one person")]
    assert done(limits.reserve(both)).headers()["x-ratelimit-limit-requests"] == "1"
    done(limits.reserve([both[0]]))
    with pytest.raises(RateLimited) as refused:
        done(limits.reserve(both))
    assert refused.value.retry_after_s == 60  # the key alone: 30
    assert "1 requests a minute of one person" in refused.value.message


def test_the_headers_say_what_is_left() -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    remaining = [done(limits.reserve([ANN])).headers()["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert remaining == ["2", "1", "0"]
    with pytest.raises(RateLimited) as refused:
        done(limits.reserve([ANN]))
    assert refused.value.headers() == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60000ms",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "600",
        "x-ratelimit-reset-tokens": "0ms",
        "retry-after": "20",
        "retry-after-ms": "20000",
    }
    clock.now += 60
    reservation = done(limits.reserve([ANN]))
    done(reservation.charge_tokens(150))
    assert reservation.headers() == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "20000ms",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "450",
        "x-ratelimit-reset-tokens": "15000ms",
    }


def test_a_key_without_limits_has_no_headers_and_nothing_to_count() -> None:
    reservation = done(MemoryLimits(Clock()).reserve([Allowance("key", None)]))
    done(reservation.charge_tokens(10**9))
    assert reservation.headers() == {}
    assert (reservation.counts_tokens, reservation.largest_tokens) == (False, None)


def test_what_can_never_pass_and_what_is_spent_for_today_are_not_tried_again() -> None:
    limits = MemoryLimits(Clock())
    key = Allowance("key", None, tpm=1000, tpd=1500)
    reservation = done(limits.reserve([key]))
    assert (reservation.counts_tokens, reservation.largest_tokens) == (True, 1000)
    with pytest.raises(RateLimited, match="can never pass") as refused:
        done(reservation.charge_tokens(1001))
    assert refused.value.headers()["x-should-retry"] == "false"
    assert "retry-after" not in refused.value.headers()
    done(reservation.charge_tokens(1000))
    done(reservation.settle(1000))
    with pytest.raises(RateLimited, match="a minute") as refused:
        done(done(limits.reserve([Allowance("key", None, tpm=1000)])).charge_tokens(100))
    assert "x-should-retry" not in refused.value.headers()
    with pytest.raises(
        RateLimited, match=r"1,500 tokens a day of this API key .* need 600 and 500 are left"
    ) as refused:
        done(done(limits.reserve([key])).charge_tokens(600))
    assert refused.value.headers()["x-should-retry"] == "false"
    assert refused.value.retry_after_s == pytest.approx(100 * 86400 / 1500)


def test_streams() -> None:
    limits = MemoryLimits(Clock())
    ann = Allowance("ann", 100, streams=2)
    first = reserve(limits, ann)
    assert first
    assert reserve(limits, ann)
    with pytest.raises(RateLimited, match="2 answers at once") as refused:
        done(limits.reserve([ann]))
    assert refused.value.retry_after_s == 1
    done(first.settle(None))
    done(first.refund())
    assert reserve(limits, ann)
    assert not reserve(limits, ann)


def test_a_refund_gives_the_request_back() -> None:
    limits = MemoryLimits(Clock())
    ann = Allowance("ann", 1)
    reservation = reserve(limits, ann)
    assert reservation
    assert not reserve(limits, ann)
    done(reservation.refund())
    assert reserve(limits, ann)


def test_more_than_was_reserved_is_owed() -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    key = Allowance("key", None, tpm=60)
    done(done(limits.reserve([key])).settle(90))
    second = done(limits.reserve([key]))
    with pytest.raises(RateLimited) as refused:
        done(second.charge_tokens(1))
    assert refused.value.retry_after_s == pytest.approx(31)


def test_a_limit_that_is_changed_counts_from_now_on() -> None:
    limits = MemoryLimits(Clock())
    assert reserve(limits, Allowance("ann", 1))
    assert not reserve(limits, Allowance("ann", 1))
    with pytest.raises(RateLimited) as refused:
        done(limits.reserve([Allowance("ann", 60)]))
    assert refused.value.retry_after_s == pytest.approx(1)


def test_memory_follows_the_active_callers() -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    for n in range(20_000):
        clock.now += 0.1
        reservation = done(limits.reserve([Allowance(f"caller {n}", 60, tpm=1000)]))
        done(reservation.charge_tokens(10))
        done(reservation.settle(5))
    assert len(limits._subjects) < 2000


@pytest.mark.parametrize("streams", [1, 20])
def test_memory_of_one_busy_caller_follows_what_it_has_open(streams: int) -> None:
    """Never idle for a whole hour, with estimates that are always too high, and one reservation that stays."""
    chance, clock = random.Random(1), Clock()
    limits, given = MemoryLimits(clock), Allowance("ann", 100_000, tpm=1_000_000)
    staying = done(limits.reserve([given]))
    done(staying.charge_tokens(900_000))
    running = []
    for _ in range(5000):
        clock.now += 0.1
        reservation = done(limits.reserve([given]))
        done(reservation.charge_tokens(1500))
        running.append(reservation)
        if len(running) >= streams:
            done(running.pop(chance.randrange(len(running))).settle(1000))
    budgets = [limits._subjects["ann"].requests, *limits._subjects["ann"].tokens.values()]
    assert max(len(budget) for budget in budgets) <= 2 * (streams + 1) + 9
