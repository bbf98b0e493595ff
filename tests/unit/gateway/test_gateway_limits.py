"""Requests a minute: at most N + N * t / 60 pass in any t seconds, and whoever is refused hears the real wait."""

from __future__ import annotations

import random

import pytest

from gateway.errors import RateLimited
from gateway.limits import RequestLimits

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def passes(limits: RequestLimits, caller: str, rpm: int) -> bool:
    try:
        limits.take(caller, rpm)
    except RateLimited:
        return False
    return True


@pytest.mark.parametrize("rpm", [1, 2, 7, 30, 600])
def test_a_burst_of_n_passes_and_no_more(rpm: int) -> None:
    limits = RequestLimits(Clock())
    assert [passes(limits, "ann", rpm) for _ in range(rpm + 3)] == [True] * rpm + [False] * 3


@pytest.mark.parametrize("seed", range(20))
def test_in_any_interval(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    limits, rpm = RequestLimits(clock), chance.choice([1, 3, 10, 60, 240])
    passed: list[float] = []
    for _ in range(1500):
        clock.now += chance.choice([0.0, chance.expovariate(rpm / 30), chance.expovariate(rpm / 240)])
        if passes(limits, "ann", rpm):
            passed.append(clock.now)
    for first in range(0, len(passed), 7):
        for last in range(first, len(passed), 5):
            t = passed[last] - passed[first]
            assert last - first + 1 <= rpm + rpm * t / 60 + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_the_wait_that_is_told_is_the_real_one(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    limits, rpm = RequestLimits(clock), chance.randint(1, 100)
    for _ in range(300):
        clock.now += chance.expovariate(rpm / 20)
        wait_s = None
        try:
            limits.take("ann", rpm)
        except RateLimited as refused:
            wait_s = refused.retry_after_s
        if wait_s is not None:
            clock.now += wait_s - 1e-3
            assert not passes(limits, "ann", rpm)
            clock.now += 2e-3
            assert passes(limits, "ann", rpm)


def test_callers_do_not_share() -> None:
    limits = RequestLimits(Clock())
    assert passes(limits, "ann", 1)
    assert passes(limits, "bob", 1)
    assert not passes(limits, "ann", 1)


def test_the_headers_say_what_is_left() -> None:
    clock = Clock()
    limits = RequestLimits(clock)
    assert [limits.take("ann", 3).remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        limits.take("ann", 3)
    assert refused.value.headers() == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60000ms",
        "retry-after": "20",
        "retry-after-ms": "20000",
    }
    clock.now += 60
    budget = limits.take("ann", 3)
    assert (budget.remaining, budget.headers()["x-ratelimit-reset-requests"]) == (2, "20000ms")


def test_memory_follows_the_active_callers() -> None:
    clock = Clock()
    limits = RequestLimits(clock)
    for n in range(20_000):
        clock.now += 0.1
        limits.take(f"caller {n}", 60)
    assert len(limits._full_at) < 2000
