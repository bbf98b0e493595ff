"""Slots and the waiting room: bounded, fair, and nothing leaks whoever leaves when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.admission import Admission
from gateway.errors import Overloaded

pytestmark = pytest.mark.unit


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Room:
    """Leases that are held until they are let go, and the order in which they came."""

    def __init__(self, **fields: Any) -> None:
        self.admission = Admission(**({"slots": 1, "max_waiting": 100, "max_wait_s": 5.0} | fields))
        self.running: list[str] = []
        self.most = 0
        self._let_go: dict[str, asyncio.Event] = {}

    def enter(self, name: str) -> asyncio.Task[None]:
        """`name` is the caller and a number: `ann 1`."""
        return asyncio.ensure_future(self._hold(name))

    async def _hold(self, name: str) -> None:
        self._let_go[name] = asyncio.Event()
        async with self.admission.lease(name.split()[0]):
            self.running.append(name)
            self.most = max(self.most, len(self._let_go))
            await self._let_go[name].wait()

    def let_go(self, name: str) -> None:
        self._let_go[name].set()


def test_the_next_slot_goes_to_the_next_caller_in_turn() -> None:
    async def scene() -> None:
        room = Room()
        names = ["ann 0", "ann 1", "ann 2", "ann 3", "bob 1", "bob 2", "cleo 1"]
        tasks = [room.enter(name) for name in names]
        await settle()
        assert (room.running, room.admission.waiting, room.admission.free) == (["ann 0"], 6, 0)
        for n in range(len(names)):
            room.let_go(room.running[n])
            await settle()
        await asyncio.gather(*tasks)
        assert room.running == ["ann 0", "bob 1", "cleo 1", "ann 1", "bob 2", "ann 2", "ann 3"]
        assert (room.admission.waiting, room.admission.free) == (0, 1)

    run(scene())


def test_a_full_waiting_room_refuses_at_once() -> None:
    async def scene() -> None:
        room = Room(max_waiting=2)
        tasks = [room.enter(f"ann {n}") for n in range(3)]
        await settle()
        with pytest.raises(Overloaded) as refused:
            await room.enter("bob 1")
        assert refused.value.retry_after_s
        for n in range(3):
            room.let_go(f"ann {n}")
            await settle()
        await asyncio.gather(*tasks)

    run(scene())


def test_whoever_waits_too_long_is_refused_and_forgotten() -> None:
    async def scene() -> None:
        room = Room(max_wait_s=0.02)
        first = room.enter("ann 0")
        await settle()
        with pytest.raises(Overloaded):
            await room.enter("bob 1")
        assert room.admission.waiting == 0
        room.let_go("ann 0")
        await first
        assert room.admission.free == 1

    run(scene())


def test_who_leaves_the_waiting_room_is_passed_over() -> None:
    async def scene() -> None:
        room = Room()
        first, second, third = room.enter("ann 0"), room.enter("bob 1"), room.enter("cleo 1")
        await settle()
        second.cancel()
        await settle()
        assert room.admission.waiting == 1
        room.let_go("ann 0")
        await settle()
        assert room.running == ["ann 0", "cleo 1"]
        room.let_go("cleo 1")
        await asyncio.gather(first, third)
        assert room.admission.free == 1

    run(scene())


def test_a_slot_handed_to_somebody_who_leaves_in_that_moment_goes_on_to_the_next() -> None:
    async def scene() -> None:
        room = Room()
        first, second, third = room.enter("ann 0"), room.enter("bob 1"), room.enter("cleo 1")
        await settle()
        room.let_go("ann 0")
        await asyncio.sleep(0)  # ann's task runs now and hands the slot to bob, whose own task has not run yet
        second.cancel()
        await settle()
        assert second.cancelled()
        assert room.running == ["ann 0", "cleo 1"]
        room.let_go("cleo 1")
        await asyncio.gather(first, third)
        assert (room.admission.free, room.admission.waiting) == (1, 0)

    run(scene())


@pytest.mark.parametrize("seed", range(10))
def test_no_slot_is_lost_or_made_whoever_comes_and_goes(seed: int) -> None:
    async def scene() -> None:
        chance = random.Random(seed)
        admission = Admission(slots=3, max_waiting=20, max_wait_s=0.01)
        running = 0

        async def visit(caller: str) -> None:
            nonlocal running
            async with admission.lease(caller):
                running += 1
                assert running <= 3
                try:
                    await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
                finally:
                    running -= 1

        tasks = []
        for _ in range(400):
            tasks.append(asyncio.ensure_future(visit(chance.choice("abcdef"))))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0.0005)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), Overloaded, asyncio.CancelledError}
        assert (admission.free, admission.waiting, running) == (3, 0, 0)
        assert not {**admission._first, **admission._others, **admission._running_of}

    run(scene())


def test_a_caller_with_nothing_running_comes_first() -> None:
    async def scene() -> None:
        room = Room(slots=2)
        tasks = [room.enter(f"ann {n}") for n in range(6)]
        await settle()
        tasks.append(room.enter("bob 1"))
        await settle()
        room.let_go("ann 0")
        await settle()
        assert room.running == ["ann 0", "ann 1", "bob 1"]
        for n in range(len(tasks)):
            room.let_go(room.running[n])
            await settle()
        await asyncio.gather(*tasks)

    run(scene())


def test_places_are_those_in_which_the_slots_come() -> None:
    async def scene() -> None:
        rng = random.Random(4)
        for _ in range(30):
            admission = Admission(slots=1, max_waiting=100, max_wait_s=5.0)
            order: list[str] = []
            told: dict[str, int] = {}
            gate = asyncio.Event()

            async def hold(name: str, admission: Admission = admission, order: list[str] = order) -> None:
                async with admission.lease(name.split()[0]):
                    order.append(name)

            async def first(admission: Admission = admission, gate: asyncio.Event = gate) -> None:
                async with admission.lease("holder"):
                    await gate.wait()

            tasks = [asyncio.ensure_future(first())]
            await settle()
            names = [f"{rng.choice('abcd')} {n}" for n in range(rng.randint(1, 12))]
            for name in names:
                tasks.append(asyncio.ensure_future(hold(name)))
                await settle()
            for lines in (admission._first, admission._others):
                for caller, line in lines.items():
                    own = [name for name in names if name.split()[0] == caller]
                    for name, turn in zip(own, line, strict=True):
                        told[name] = admission.place(caller, turn)
            assert sorted(told.values()) == list(range(1, len(names) + 1))
            gate.set()
            await asyncio.gather(*tasks)
            # With one slot nobody has anything running when it comes free: the rounds are those of callers in turn.
            assert order == sorted(names, key=lambda name: told[name])

    run(scene())
