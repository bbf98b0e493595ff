"""What grows old goes; what is pinned, young, or being written stays. tests/database runs the same on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.database import Database
from gateway.retention import Retention
from gateway.store import Item, Store, new_id

pytestmark = pytest.mark.unit
OWNER = "key_1"
DAY = 86_400


def said(text: str, role: str = "user", status: str = "completed") -> Item:
    return Item(new_id("msg"), role, status, [{"type": "input_text", "text": text}], is_output=role == "assistant")


async def a_turn(store: Store, conversation: str | None, *, is_open: bool = False) -> str:
    body = {
        "id": new_id("resp"),
        "status": "in_progress",
        "created_at": int(time.time()),
        "conversation": {"id": conversation} if conversation else None,
    }
    answer = said("", "assistant", "in_progress")
    fields: dict[str, Any] = {"conversation_id": conversation, "previous_id": None, "last_item_id": None}
    await store.begin_turn(OWNER, body, question=[said("q")], answer=answer, **fields)
    if not is_open:
        await store.finish_turn(body | {"status": "completed"}, [said("a", "assistant")])
    return str(body["id"])


async def there(database: Database, table: str) -> set[str]:
    found = sa.text(f"SELECT id FROM {table}")
    return set(await database.read(lambda db: db.execute(found).scalars().all()))


def retention(database: Database, days_later: float, conversation_days: int = 0, response_days: int = 0) -> Retention:
    return Retention(
        database,
        conversation_days=conversation_days,
        response_days=response_days,
        clock=lambda: time.time() + days_later * DAY,
    )


def test_old_conversations_go_with_all_that_is_in_them(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        for _ in range(120):
            await store.create_conversation(OWNER, {"title": "t"}, [said("x")])
        await a_turn(store, (await store.create_conversation(OWNER, {}, [])).id)
        pinned = (await store.create_conversation(OWNER, {"pinned": "true"}, [said("pinned")])).id
        unpinned = (await store.create_conversation(OWNER, {"pinned": "false"}, [])).id
        written = (await store.create_conversation(OWNER, {}, [])).id
        await a_turn(store, written, is_open=True)
        assert await retention(database, 6.9, conversation_days=7).sweep() == (0, 0)
        assert unpinned in await there(database, "conversations")
        assert await retention(database, 7.1, conversation_days=7).sweep() == (122, 0)
        assert await there(database, "conversations") == {pinned, written}
        assert len(await there(database, "responses")) == 1
        assert len(await there(database, "items")) == 3
        assert await retention(database, 7.1, conversation_days=7).sweep() == (0, 0)

    asyncio.run(run())


def test_activity_keeps_a_conversation(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        age = sa.text("UPDATE conversations SET updated_at = updated_at - :s, created_at = created_at - :s")
        await database.write(lambda db: db.execute(age, {"s": 100 * DAY}))
        await store.add_items(OWNER, conversation, [said("again")])
        assert await retention(database, 0, conversation_days=7).sweep() == (0, 0)

    asyncio.run(run())


def test_old_responses_in_no_conversation_go(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        inside = await a_turn(store, conversation)
        await a_turn(store, None)
        still_open = await a_turn(store, None, is_open=True)
        assert await retention(database, 29.9, response_days=30).sweep() == (0, 0)
        assert await retention(database, 30.1, response_days=30).sweep() == (0, 1)
        assert await there(database, "responses") == {inside, still_open}
        assert len(await there(database, "items")) == 4

    asyncio.run(run())


def test_nothing_goes_by_itself_when_all_is_kept(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        await store.create_conversation(OWNER, {}, [])
        await a_turn(store, None)
        assert await retention(database, 100_000).sweep() == (0, 0)

    asyncio.run(run())


def test_it_goes_on_by_itself_until_it_is_ended(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        await store.create_conversation(OWNER, {}, [])
        task = asyncio.create_task(retention(database, 2, conversation_days=1).run())
        while await there(database, "conversations"):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())
