"""The store's reads are found by an index, never by going through everybody's items."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.database import Database
from gateway.store import Item, Store, new_id

pytestmark = pytest.mark.unit
OWNER = "key_1"


def message(role: str = "user") -> Item:
    return Item(new_id("msg"), role, "completed", [{"type": "input_text", "text": "x"}], is_output=role == "assistant")


async def turn(store: Store, *, conversation: str | None = None, previous: str | None = None, last: str | None) -> Any:
    """One stored turn; returns its response's id and its answer's."""
    body = {"id": new_id("resp"), "status": "in_progress", "created_at": 0, "conversation": None}
    answer = message("assistant")
    await store.begin_turn(
        OWNER,
        body,
        conversation_id=conversation,
        previous_id=previous,
        last_item_id=last,
        question=[message()],
        answer=answer,
    )
    await store.finish_turn(body | {"status": "completed"}, [answer])
    return body["id"], answer.id


def reads(store: Store, conversation: str, response: str, item: str) -> dict[str, Coroutine[Any, Any, Any]]:
    return {
        "history of a conversation": store.history(OWNER, conversation, None),
        "history of a chain": store.history(OWNER, None, response),
        "items": store.list_items(OWNER, conversation, limit=5, after=item, is_ascending=False),
        "item": store.item(OWNER, conversation, item),
        "conversations": store.list_conversations(OWNER, limit=5, after=conversation),
        "response": store.response(OWNER, response),
    }


def test_no_read_goes_through_a_whole_table(database: Database) -> None:
    store = Store(database)
    plans: list[str] = []
    explaining = False

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if explaining and statement.lstrip().upper().startswith(("SELECT", "WITH")):
            plans.extend(
                f"{row[3]}  <-  {statement}" for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )

    async def run() -> None:
        nonlocal explaining
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        response, item = await turn(store, conversation=conversation, last=None)
        response, _ = await turn(store, previous=response, last=None)
        response, _ = await turn(store, previous=response, last=None)
        assert len(await store.history(OWNER, None, response)) == 6
        explaining = True
        for name, read in reads(store, conversation, response, item).items():
            before = len(plans)
            await read
            assert len(plans) > before, name

    asyncio.run(run())
    assert not [
        plan for plan in plans if plan.startswith(("SCAN items", "SCAN responses", "SCAN conversations", "SCAN last"))
    ]
