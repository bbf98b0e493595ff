"""May this run now? Slots, and a bounded waiting room that is fair between callers.

At most `slots` generations run at once, because more only wait inside the engine, where nobody sees or bounds them.
The next free slot goes to the caller who comes next in turn, so one caller with many requests does not shut others out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import Overloaded

_Turn = asyncio.Future[None]


class Admission:
    """Args:
    slots: generations that may run at once.
    max_waiting: requests that may wait; one more is refused.
    max_wait_s: how long a request waits at most.
    """

    def __init__(self, *, slots: int, max_waiting: int, max_wait_s: float) -> None:
        self._free = slots
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return sum(len(line) for line in self._waiting.values())

    @property
    def free(self) -> int:
        """How many slots are free now."""
        return self._free

    @asynccontextmanager
    async def lease(self, caller: str) -> AsyncIterator[None]:
        """Holds one slot while the context is open.

        Raises:
            Overloaded: the waiting room is full, or no slot came free in time.
        """
        await self._acquire(caller)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, caller: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        if self.waiting >= self._max_waiting:
            raise Overloaded("All places are taken and the waiting room is full. Try again soon.", retry_after_s=5)
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await turn
        except TimeoutError:
            self._leave(caller, turn)
            raise Overloaded("No place came free in time. Try again soon.", retry_after_s=5) from None
        except asyncio.CancelledError:
            self._leave(caller, turn)
            raise

    def _leave(self, caller: str, turn: _Turn) -> None:
        if turn.done() and not turn.cancelled():  # the slot had just been handed over
            self._release()
            return
        line = self._waiting.get(caller)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[caller]

    def _release(self) -> None:
        while self._waiting:
            caller, line = self._waiting.popitem(last=False)
            turn = line.popleft()
            if line:
                self._waiting[caller] = line  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
