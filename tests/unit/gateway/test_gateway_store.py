"""The store's reads are found by an index, never by going through everybody's items; and how turns are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
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
    body = {"id": new_id("resp"), "status": "completed", "created_at": 0, "conversation": None}
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
    await store.finish_turn(body, answer)
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


def test_no_read_goes_through_a_whole_table(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3")
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
    database.close()
    assert not [
        plan for plan in plans if plan.startswith(("SCAN items", "SCAN responses", "SCAN conversations", "SCAN last"))
    ]


def test_checkpoints_leave_closed_answers_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3")
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        response, _ = await turn(store, conversation=conversation, last=None)
        (answer,) = (await store.response(OWNER, response)).output
        late = Item(answer.id, "assistant", "in_progress", [{"type": "output_text", "text": "late"}])
        await store.checkpoint([late])
        assert (await store.response(OWNER, response)).output == [answer]

    asyncio.run(run())
    database.close()


def test_what_a_crash_left_open_is_closed_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3")
    store = Store(database)

    async def run() -> None:
        body = {"id": "resp_1", "status": "in_progress", "created_at": 0}
        answer = Item("msg_1", "assistant", "in_progress", [{"type": "output_text", "text": "so far"}], is_output=True)
        fields: dict[str, Any] = {"conversation_id": None, "previous_id": None, "last_item_id": None}
        await store.begin_turn(OWNER, body, question=[message()], answer=answer, **fields)
        assert await store.close_open_turns() == 1
        assert await store.close_open_turns() == 0
        stored = await store.response(OWNER, "resp_1")
        assert (stored.status, stored.body["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})
        assert [(item.status, item.text) for item in stored.output] == [("incomplete", "so far")]

    asyncio.run(run())
    database.close()
