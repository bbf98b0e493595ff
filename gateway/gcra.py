"""One budget that drains with time, exact although charges are corrected later. Pure arithmetic on seconds.

The generic cell rate algorithm (GCRA, ITU-T I.371) keeps one time, `full_at`: when the budget will be whole again. A
charge that costs c seconds (its units times period / limit) at the time t makes it `max(full_at, t) + c`, and passes
when that is no later than t + period. So in any t seconds at most N + N * t / period units pass.

A charge made by an estimate is corrected when the true use is known. Taking the difference off `full_at` would be
wrong (docs/adr/0011): what drained meanwhile would be banked twice. So the charges that are still open are kept in
their order, each as the step x -> max(x + add, floor), and `full_at` is what their steps make of the time before them.
Settled neighbours become one step of the same form, so a budget holds at most two steps for each open charge.
"""

from __future__ import annotations

TOLERANCE_S = 1e-6
"""Floating point is not exact; a charge that misses its time by less passes."""
_SPARE = 8


class Charge:
    """One step of a budget: `x -> max(x + add, floor)`, in seconds."""

    __slots__ = ("add", "floor", "is_open")

    def __init__(self, add: float, floor: float) -> None:
        self.add = add
        self.floor = floor
        self.is_open = True


class Budget:
    """What one subject has of one kind, say tokens a minute. The clock is the caller's, and never goes back.

    Attributes:
        full_at: when nothing is owed any more, in seconds of that clock.
    """

    __slots__ = ("_base", "_charges", "_settled", "full_at")

    def __init__(self) -> None:
        self.full_at = self._base = float("-inf")
        self._charges: list[Charge] = []
        self._settled = 0

    def __len__(self) -> int:
        """How many steps are kept."""
        return len(self._charges)

    def owed_s(self, now: float) -> float:
        """For how many seconds something is owed."""
        return max(0.0, self.full_at - now)

    def wait_s(self, now: float, cost_s: float, period_s: float) -> float:
        """How long a charge has to wait if nothing is given back; 0 when it passes now."""
        wait_s = max(self.full_at - now, 0.0) + cost_s - period_s
        return wait_s if wait_s > TOLERANCE_S else 0.0

    def charge(self, now: float, cost_s: float) -> Charge:
        """Charges without asking; `settle` it once."""
        if self.full_at <= now:  # whatever becomes of earlier charges, they have drained
            self.full_at = self._base = now
            if self._charges:
                self._charges = []
                self._settled = 0
        self.full_at += cost_s
        charge = Charge(cost_s, now + cost_s)
        self._charges.append(charge)
        return charge

    def settle(self, charge: Charge, cost_s: float) -> None:
        """Closes an open charge; it cost `cost_s` in truth, which is at most what was charged."""
        charge.is_open = False
        self._settled += 1
        if cost_s < charge.add:
            charge.floor -= charge.add - cost_s
            charge.add = cost_s
            self._walk()
        elif 2 * self._settled > len(self._charges) + _SPARE:
            self._walk()

    def _walk(self) -> None:
        """Finds `full_at` anew, joins settled neighbours, and drops what an idle moment after it made irrelevant."""
        at = self._base
        kept: list[Charge] = []
        for charge in self._charges:
            if at + charge.add <= charge.floor:  # all before had drained when this one came
                at = self._base = charge.floor - charge.add
                kept = []
            at = max(at + charge.add, charge.floor)
            if charge.is_open:
                kept.append(charge)
            elif not kept:
                self._base = at
            elif kept[-1].is_open:
                kept.append(charge)
            else:
                last = kept[-1]
                last.floor = max(last.floor + charge.add, charge.floor)
                last.add += charge.add
        self.full_at = at
        self._charges = kept
        self._settled = sum(not charge.is_open for charge in kept)
