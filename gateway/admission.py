"""May this run now? Slots, and a bounded waiting room that is fair between callers.

At most `slots` generations run at once, because more only wait inside the engine, where nobody sees or bounds them.
The next free slot goes to a caller who has nothing running, in the order of coming; then to the others in turn. So one
caller with many requests does not shut others out.
Who waits for longer than a moment is told the place, and again when it changes.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.errors import Overloaded

TELL_AFTER_S = 0.25
"""A wait that is shorter is not told: until then a failure can still have an honest status."""
_TELL_EVERY_S = 1.0
_FIRST_GUESS_S = 5.0
_WEIGHT = 0.2
Tell = Callable[[int], Awaitable[None]]
"""Gets the place in the queue, 1 for the next."""


@dataclass
class Slot:
    """A slot that several gateways share (gateway/shared_slots.py).

    Attributes:
        server: the name of the inference server that it is at; None: wherever there is room.
        when_moved: called when it is used at another one.
    """

    id: str
    server: str | None
    when_moved: Callable[[Slot], None]

    def use(self, server: str) -> None:
        """The answer is made by that server."""
        if server != self.server:
            self.server = server
            self.when_moved(self)


Turn = asyncio.Future[Slot | None]


class Admission:
    """Args:
    slots: generations that may run at once.
    max_waiting: requests that may wait; one more is refused.
    max_wait_s: how long a request waits at most.
    """

    def __init__(self, *, slots: int, max_waiting: int, max_wait_s: float) -> None:
        self._slots = slots
        self._running = 0
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._running_of: dict[str, int] = {}
        self._first: OrderedDict[str, deque[Turn]] = OrderedDict()
        """Lines of callers who have nothing running."""
        self._others: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._waiting_count = 0
        self._held_s: float | None = None
        self.refused = {"full": 0, "deadline": 0}
        """How many were refused since the start: no place to wait, or no slot in time."""

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return self._waiting_count

    @property
    def running(self) -> int:
        """How many slots are held now."""
        return self._running

    @property
    def slots(self) -> int:
        """How many generations may run at once."""
        return self._slots

    @property
    def free(self) -> int:
        """How many slots are free now."""
        return max(0, self._slots - self._running)

    def resize(self, slots: int) -> None:
        """Changes the number of slots; who runs keeps its own."""
        self._slots = slots
        while self._running < self._slots and self._call_next():
            self._running += 1

    @asynccontextmanager
    async def lease(self, caller: str, tell: Tell | None = None) -> AsyncIterator[Slot | None]:
        """Holds one slot while the context is open; None unless gateways share it. `tell` is called while this waits.

        Raises:
            Overloaded: the waiting room is full, or no slot came free in time.
        """
        if self._running < self._slots:
            self._running += 1
            self._begin(caller)
        else:
            await self._wait(caller, tell)
        begun = time.monotonic()
        try:
            yield None
        finally:
            self._note(time.monotonic() - begun)
            self._release(caller, None)

    def place(self, caller: str, turn: Turn) -> int:
        """The place of a waiting request: how many slots have to come free until it is its turn.

        Counted as if nobody came: first one slot for each caller who has none, then one for each in turn.
        """
        is_first = caller in self._first
        index = (self._first if is_first else self._others)[caller].index(turn)
        if is_first and index == 0:
            return 1 + list(self._first).index(caller)
        place, is_ahead = len(self._first) + 1, True
        rounds = index - is_first
        for lines, taken in ((self._others, 0), (self._first, 1)):
            for other, line in lines.items():
                if other == caller:
                    place, is_ahead = place + rounds, False
                else:  # in each round everybody gets one slot
                    place += min(len(line) - taken, rounds + is_ahead)
        return place

    async def _wait(self, caller: str, tell: Tell | None) -> Slot | None:
        if not self._has_room():
            raise self._full()
        turn: Turn = asyncio.get_running_loop().create_future()
        self._line_of(caller).append(turn)
        self._waiting_count += 1
        self._joined(caller, turn)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await (turn if tell is None else self._tell_until(caller, turn, tell))
            return turn.result()
        except TimeoutError:
            self._leave(caller, turn)
            self.refused["deadline"] += 1
            raise Overloaded(
                "No place came free in time. Try again soon.", retry_after_s=self._next_place_s()
            ) from None
        except BaseException:
            self._leave(caller, turn)
            raise

    def _has_room(self) -> bool:
        return self._waiting_count < self._max_waiting

    def _full(self) -> Overloaded:
        self.refused["full"] += 1
        return Overloaded(
            "All places are taken and the waiting room is full. Try again soon.", retry_after_s=self._next_place_s()
        )

    def _joined(self, caller: str, turn: Turn) -> None:
        """Somebody waits now."""

    async def _tell_until(self, caller: str, turn: Turn, tell: Tell) -> None:
        told = 0
        pause_s = TELL_AFTER_S
        while True:
            await asyncio.wait({turn}, timeout=pause_s)
            if turn.done():
                return
            if told != (told := self.place(caller, turn)):
                await tell(told)
            pause_s = _TELL_EVERY_S

    def _line_of(self, caller: str) -> deque[Turn]:
        lines = self._others if caller in self._running_of else self._first
        return lines.setdefault(caller, deque())

    def _leave(self, caller: str, turn: Turn) -> None:
        if turn.done() and not turn.cancelled() and turn.exception() is None:  # the slot had just been handed over
            self._release(caller, turn.result())
            return
        for lines in (self._first, self._others):
            line = lines.get(caller)
            if line is not None and turn in line:
                line.remove(turn)
                self._waiting_count -= 1
                if not line:
                    del lines[caller]

    def _begin(self, caller: str) -> None:
        """One more of this caller's runs: whoever had nothing is one of the others now."""
        self._running_of[caller] = self._running_of.get(caller, 0) + 1
        if (line := self._first.pop(caller, None)) is not None:
            self._others[caller] = line

    def _release(self, caller: str, slot: Slot | None) -> None:
        self._end(caller)
        if self._running > self._slots or not self._call_next(slot):
            self._running -= 1

    def _end(self, caller: str) -> None:
        """One of this caller's runs less."""
        left = self._running_of[caller] - 1
        if left:
            self._running_of[caller] = left
        else:
            del self._running_of[caller]
            if (line := self._others.pop(caller, None)) is not None:
                self._first[caller] = line

    def _call_next(self, slot: Slot | None = None) -> bool:
        """Hands a slot to whoever is next; False when nobody waits."""
        for lines in (self._first, self._others):
            while lines:
                caller, line = lines.popitem(last=False)
                turn = line.popleft()
                self._waiting_count -= 1
                if line:
                    lines[caller] = line  # behind the others
                if not turn.done():
                    self._begin(caller)
                    turn.set_result(slot)
                    return True
        return False

    def _note(self, held_s: float) -> None:
        self._held_s = held_s if self._held_s is None else self._held_s + _WEIGHT * (held_s - self._held_s)

    def _next_place_s(self) -> float:
        """When a place in the waiting room is likely to come free: one slot's usual time, over all slots."""
        if self._held_s is None:
            return _FIRST_GUESS_S
        return min(max(self._held_s / max(1, self._slots), 0.1), self._max_wait_s or _FIRST_GUESS_S)
