"""Requests a minute, per caller, exact.

The generic cell rate algorithm (GCRA, ITU-T I.371): one timestamp per caller, the time at which its budget will be
full again. In any interval of t seconds at most `rpm + rpm * t / 60` requests pass. Check and charge are one
synchronous step, so concurrent requests cannot pass together; one process holds them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import RateLimited

_SWEEP_EVERY = 1024


@dataclass(frozen=True)
class Budget:
    """What a caller has left, for the `x-ratelimit-*` headers.

    Attributes:
        limit: requests a minute.
        remaining: requests that would pass right now.
        reset_s: seconds until the whole limit is there again.
    """

    limit: int
    remaining: int
    reset_s: float

    def headers(self) -> dict[str, str]:
        """As OpenAI's API sends them."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{max(0, round(self.reset_s * 1000))}ms",
        }


class RequestLimits:
    """The limits of all callers; `clock` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._calls = 0

    def take(self, caller: str, rpm: int) -> Budget:
        """Charges one request to `caller`.

        Raises:
            RateLimited: its minute is spent; `retry_after_s` is the real wait.
        """
        now = self._clock()
        self._sweep(now)
        interval_s = 60.0 / rpm
        full_at = max(self._full_at.get(caller, now), now) + interval_s
        wait_s = full_at - now - 60.0
        if wait_s > 1e-9:
            raise RateLimited(
                f"You have sent more than {rpm} requests a minute. Try again in {max(1, round(wait_s + 0.5))} s.",
                retry_after_s=wait_s,
                headers=Budget(limit=rpm, remaining=0, reset_s=full_at - interval_s - now).headers(),
            )
        self._full_at[caller] = full_at
        owed_s = full_at - now
        return Budget(limit=rpm, remaining=int((60.0 - owed_s) / interval_s + 1e-9), reset_s=owed_s)

    def _sweep(self, now: float) -> None:
        """Forgets callers whose budget is full, so that memory follows the active ones."""
        self._calls += 1
        if self._calls % _SWEEP_EVERY == 0:
            self._full_at = {caller: at for caller, at in self._full_at.items() if at > now}
