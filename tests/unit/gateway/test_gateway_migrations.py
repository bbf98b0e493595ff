"""Databases of every released version come up to this one with all that is in them.

tests/released/ holds one small dump for each migration that a release ended with, made by that release's own code.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.auth import Keys
from gateway.database import Database
from gateway.errors import NotAuthenticated
from gateway.store import Store

pytestmark = pytest.mark.unit
RELEASED = sorted((Path(__file__).resolve().parents[2] / "released").glob("*.sql"))


@pytest.mark.parametrize("migrated", RELEASED, ids=lambda path: path.stem, indirect=True)
def test_nothing_is_lost_on_the_way_up(migrated: Database) -> None:
    store, keys = Store(migrated), Keys(migrated)

    async def run() -> None:
        laptop = await keys.find("sk-released-0001-" + "x" * 30)
        with pytest.raises(NotAuthenticated, match="revoked"):
            await keys.find("sk-released-revoked-" + "x" * 30)
        (thread,) = (await store.list_conversations(laptop.id, limit=9, after=None)).entries
        assert thread.metadata == {"title": "Grüße, 你好", "pinned": "true"}
        page = await store.list_items(laptop.id, thread.id, limit=9, after=None, is_ascending=True)
        assert [(item.kind, item.role, item.status, item.text, item.data) for item in page.entries] == [
            ("message", "user", "completed", 'imported 你好 "quoted"', None),
            ("message", "user", "completed", "What is 1+1?", None),
            ("message", "assistant", "completed", "Two, 二.", None),
            ("message", "user", "completed", "And 2+2?", None),
            ("message", "assistant", "in_progress", "Fo", None),
        ]
        cut = str(page.entries[-1].response_id)
        assert await store.close_open_turns() == 1
        stored = await store.response(laptop.id, cut)
        assert (stored.status, stored.feedback, stored.cuts) == ("incomplete", None, None)
        assert (await store.reopen_turn(laptop.id, cut)).output[0].text == "Fo"
        (other,) = (await store.list_conversations(f"{laptop.id}/ann", limit=9, after=None)).entries
        assert [item.text for item in await store.history(f"{laptop.id}/ann", other.id, None)] == ["hello", "hi"]
        last = sa.text("SELECT id FROM responses WHERE previous_id IS NOT NULL")
        chain = migrated.read_now(lambda db: db.execute(last).scalar_one())
        history = await store.history(laptop.id, None, chain)
        assert [item.text for item in history] == ["chain one", "one", "chain two", "two"]

    asyncio.run(run())


def test_every_release_has_a_dump() -> None:
    assert [path.stem for path in RELEASED] == ["0001"]  # a release adds its own
