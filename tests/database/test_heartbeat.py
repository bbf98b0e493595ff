"""Whose turns are closed by others: those of gateways that are dead, and of nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.database import Database
from gateway.heartbeat import Heartbeat
from gateway.store import Item, Store, new_id

pytestmark = pytest.mark.database
OWNER = "key_1"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def other(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


async def open_turn(store: Store) -> str:
    answer = Item(new_id("msg"), "assistant", "in_progress", [{"type": "output_text", "text": ""}], is_output=True)
    body = {"id": new_id("resp"), "status": "in_progress", "created_at": 0}
    fields: dict[str, Any] = {"conversation_id": None, "previous_id": None, "last_item_id": None, "question": []}
    await store.begin_turn(OWNER, body, answer=answer, **fields)
    return str(body["id"])


async def status(store: Store, response: str) -> str:
    return (await store.response(OWNER, response)).status


async def grow_old(database: Database, seconds: float, holder: str | None = None) -> None:
    """As if that long had passed since the beats so far."""
    update = "UPDATE gateways SET seen_at = seen_at - :s"
    if holder:
        update += " WHERE id = :holder"
    await database.write(lambda db: db.execute(sa.text(update), {"s": seconds, "holder": holder}))


async def beat_for(heartbeat: Heartbeat, clock: Clock, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now < until:
        clock.now += 2
        await heartbeat.beat()


def test_a_dead_gateways_turns_are_closed(database: Database, other: Database, clock: Clock) -> None:
    here, there = Store(database), Store(other)
    mine, dead = Heartbeat(database, here, clock), Heartbeat(other, there, clock)

    async def run() -> None:
        await mine.begin()
        await dead.begin()
        own, left = await open_turn(here), await open_turn(there)
        await beat_for(mine, clock, 10)
        assert await status(here, left) == "in_progress"  # it was seen lately
        await grow_old(database, 20, there.holder)
        await mine.beat()
        assert await status(here, left) == "in_progress"  # it is looked at again
        await beat_for(mine, clock, 8)
        assert await status(here, left) == "incomplete"
        assert await status(here, own) == "in_progress"
        rows = sa.text("SELECT id FROM gateways")
        assert await database.read(lambda db: db.execute(rows).scalars().all()) == [here.holder]

    asyncio.run(run())


def test_after_an_outage_nobody_is_taken_for_dead(database: Database, other: Database, clock: Clock) -> None:
    here, there = Store(database), Store(other)
    mine, slower = Heartbeat(database, here, clock), Heartbeat(other, there, clock)

    async def run() -> None:
        await mine.begin()
        await slower.begin()
        theirs = await open_turn(there)
        await grow_old(database, 14)
        await beat_for(mine, clock, 2)
        await grow_old(database, 60)  # the database was away for a minute
        clock.now += 60
        await mine.beat()  # this gateway is the first to reach it again
        clock.now += 2
        await slower.beat()
        await beat_for(mine, clock, 12)
        assert await status(here, theirs) == "in_progress"
        await grow_old(database, 60, there.holder)
        await mine.beat()  # it looks dead, and then the database is away once more
        clock.now += 60
        await mine.beat()
        assert await status(here, theirs) == "in_progress"

    asyncio.run(run())


def test_turns_of_a_gateway_without_a_row_are_closed_too(database: Database, clock: Clock) -> None:
    here, gone = Store(database), Store(database)
    mine = Heartbeat(database, here, clock)

    async def run() -> None:
        await mine.begin()
        left = await open_turn(gone)
        await beat_for(mine, clock, 10)
        assert await status(here, left) == "incomplete"

    asyncio.run(run())


def test_a_gateway_that_ends_in_order_leaves_no_row(database: Database, clock: Clock) -> None:
    mine = Heartbeat(database, Store(database), clock)

    async def run() -> None:
        await mine.begin()
        await mine.leave()
        rows = sa.text("SELECT count(*) FROM gateways")
        assert await database.read(lambda db: db.execute(rows).scalar_one()) == 0

    asyncio.run(run())
