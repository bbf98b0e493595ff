"""What was deleted is in none of SQLite's files any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.database import Database
from gateway.store import Item, Store, new_id

pytestmark = pytest.mark.unit
OWNER = "key_1"
SECRET = "a sentence that must not stay 秘密"


def said(role: str = "user") -> Item:
    return Item(
        new_id("msg"), role, "completed", [{"type": "input_text", "text": SECRET * 200}], is_output=role == "assistant"
    )


def is_on_disk(folder: Path) -> bool:
    needles = (SECRET.encode(), SECRET[:20].encode())
    return any(needle in file.read_bytes() for file in folder.iterdir() if file.is_file() for needle in needles)


async def _conversation(store: Store) -> Callable[[], Awaitable[Any]]:
    conversation = await store.create_conversation(OWNER, {"title": SECRET}, [said(), said()])
    return lambda: store.delete_conversation(OWNER, conversation.id)


async def _item(store: Store) -> Callable[[], Awaitable[Any]]:
    item = said()
    conversation = await store.create_conversation(OWNER, {}, [item])
    return lambda: store.delete_item(OWNER, conversation.id, item.id)


async def _response(store: Store) -> Callable[[], Awaitable[Any]]:
    answer = said("assistant")
    body = {"id": new_id("resp"), "status": "in_progress", "created_at": 0, "instructions": SECRET}
    fields: dict[str, Any] = {"conversation_id": None, "previous_id": None, "last_item_id": None}
    await store.begin_turn(OWNER, body, question=[said()], answer=answer, **fields)
    await store.finish_turn(body | {"status": "completed"}, [answer])
    return lambda: store.delete_response(OWNER, str(body["id"]))


async def _everything(store: Store) -> Callable[[], Awaitable[Any]]:
    await _conversation(store)
    await _response(store)
    return lambda: store.delete_everything(OWNER)


@pytest.mark.parametrize("make", [_conversation, _item, _response, _everything])
def test_deleted_text_does_not_stay_on_disk(
    database: Database, tmp_path: Path, make: Callable[[Store], Awaitable[Callable[[], Awaitable[Any]]]]
) -> None:
    store = Store(database)

    async def run() -> None:
        await store.create_conversation(OWNER, {}, [Item("msg_1", "user", "completed", [{"text": "another"}])])
        delete = await make(store)
        assert is_on_disk(tmp_path)
        await delete()

    asyncio.run(run())
    assert not is_on_disk(tmp_path)
