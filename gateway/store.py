"""Conversations, their items and responses: what is kept, found, listed, copied and deleted.

Everything belongs to an owner; what belongs to another does not exist for the caller. How a turn is written is in
stored_turns.py.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from gateway.errors import ConversationBusy, NotFound
from gateway.forks import copy_items
from gateway.records import (
    Conversation,
    Item,
    Page,
    StoredAnswer,
    StoredResponse,
    as_conversation,
    as_id,
    as_item,
    as_response,
    find_conversation,
    find_response,
    insert_conversation,
    insert_items,
    item_position,
    new_id,
    require_no_open_turn,
    touch,
)
from gateway.search import holds, match_in
from gateway.stored_turns import StoredTurns
from gateway.tables import OPEN, conversations, is_open, is_pinned, items, responses

__all__ = ["Conversation", "Item", "Page", "Store", "StoredAnswer", "StoredResponse", "new_id"]


_AT_ONCE = 100


class Store(StoredTurns):
    """Conversations, items and responses of all owners. Every method may raise HistoryUnavailable."""

    # --- conversations

    async def create_conversation(self, owner: str, meta: dict[str, str], new_items: Sequence[Item]) -> Conversation:
        conversation = Conversation(new_id("conv"), meta, int(time.time()), time.time())

        def job(db: sa.Connection) -> None:
            insert_conversation(db, owner, conversation)
            insert_items(db, new_items, conversation_id=conversation.id)

        await self._database.write(job)
        return conversation

    async def conversation(self, owner: str, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        return await self._database.read(lambda db: find_conversation(db, owner, conversation_id))

    async def list_conversations(
        self, owner: str, *, limit: int, after: str | None, text: str | None = None, pinned: bool | None = None
    ) -> Page[Conversation]:
        """The newest activity first; with `text`, those that have it in them, and where; only (not) `pinned` ones.

        Raises NotFound for an unknown `after`.
        """

        def job(db: sa.Connection) -> Page[Conversation]:
            query = sa.select(conversations).where(conversations.c.owner == owner)
            if text is not None:
                query = query.where(holds(text))
            if pinned is not None:
                query = query.where(is_pinned if pinned else ~is_pinned)
            key = sa.tuple_(conversations.c.updated_at, conversations.c.id)
            if after is not None:
                last = find_conversation(db, owner, after)
                query = query.where(key < sa.tuple_(sa.literal(last.updated_at), sa.literal(last.id)))
            query = query.order_by(conversations.c.updated_at.desc(), conversations.c.id.desc()).limit(limit + 1)
            found = [as_conversation(row) for row in db.execute(query).mappings()]
            page = found[:limit]
            if text is not None:
                page = [replace(c, match=match_in(db, c.id, c.metadata.get("title", ""), text)) for c in page]
            return Page(page, len(found) > limit)

        return await self._database.read(job)

    async def update_conversation(self, owner: str, conversation_id: str, meta: dict[str, str]) -> Conversation:
        """Replaces the metadata. Raises NotFound."""

        def job(db: sa.Connection) -> Conversation:
            find_conversation(db, owner, conversation_id, lock=True)
            db.execute(sa.update(conversations).where(conversations.c.id == conversation_id).values(metadata=meta))
            return find_conversation(db, owner, conversation_id)

        return await self._database.write(job)

    async def delete_conversation(self, owner: str, conversation_id: str) -> None:
        """With its items and responses. Raises NotFound, ConversationBusy while an answer is being written."""

        def job(db: sa.Connection) -> None:
            find_conversation(db, owner, conversation_id, lock=True)
            require_no_open_turn(db, conversation_id)
            db.execute(sa.delete(conversations).where(conversations.c.id == conversation_id))
            self._database.erase(db)

        await self._database.write(job)

    async def fork_conversation(self, owner: str, conversation_id: str, after: str | None) -> Conversation:
        """A new conversation with copies of the items up to `after` (none when it is None), and of their responses.

        Raises NotFound.
        """

        def job(db: sa.Connection) -> Conversation:
            source = find_conversation(db, owner, conversation_id)
            fork = Conversation(new_id("conv"), source.metadata, int(time.time()), time.time())
            insert_conversation(db, owner, fork)
            if after is not None:
                copy_items(db, conversation_id, item_position(db, conversation_id, after), fork.id)
            return fork

        return await self._database.write(job)

    # --- items

    async def add_items(self, owner: str, conversation_id: str, new_items: Sequence[Item]) -> None:
        """Raises NotFound, ConversationBusy."""

        def job(db: sa.Connection) -> None:
            find_conversation(db, owner, conversation_id, lock=True)
            require_no_open_turn(db, conversation_id)
            insert_items(db, new_items, conversation_id=conversation_id)
            touch(db, conversation_id)

        await self._database.write(job)

    async def list_items(
        self, owner: str, conversation_id: str, *, limit: int, after: str | None, is_ascending: bool
    ) -> Page[Item]:
        """Raises NotFound for an unknown conversation or `after`."""

        def job(db: sa.Connection) -> Page[Item]:
            find_conversation(db, owner, conversation_id)
            query = sa.select(items).where(items.c.conversation_id == conversation_id)
            if after is not None:
                last = item_position(db, conversation_id, after)
                query = query.where(items.c.position > last if is_ascending else items.c.position < last)
            order = items.c.position.asc() if is_ascending else items.c.position.desc()
            found = [as_item(row) for row in db.execute(query.order_by(order).limit(limit + 1)).mappings()]
            return Page(found[:limit], len(found) > limit)

        return await self._database.read(job)

    async def item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        """Raises NotFound."""

        def job(db: sa.Connection) -> Item:
            find_conversation(db, owner, conversation_id)
            position = item_position(db, conversation_id, item_id)
            return as_item(db.execute(sa.select(items).where(items.c.position == position)).mappings().one())

        return await self._database.read(job)

    async def delete_item(self, owner: str, conversation_id: str, item_id: str) -> Conversation:
        """Raises NotFound, ConversationBusy."""

        def job(db: sa.Connection) -> Conversation:
            conversation = find_conversation(db, owner, conversation_id, lock=True)
            require_no_open_turn(db, conversation_id)
            position = item_position(db, conversation_id, item_id)
            db.execute(sa.delete(items).where(items.c.position == position))
            self._database.erase(db)
            return conversation

        return await self._database.write(job)

    # --- all of one owner

    async def conversations_after(
        self, owner: str, after: tuple[float, str] | None, *, limit: int
    ) -> list[Conversation]:
        """The oldest activity first, after a conversation's (`updated_at`, `id`)."""
        place = sa.tuple_(conversations.c.updated_at, conversations.c.id)
        query = sa.select(conversations).where(conversations.c.owner == owner)
        if after is not None:
            query = query.where(place > sa.tuple_(*map(sa.literal, after)))
        query = query.order_by(conversations.c.updated_at, conversations.c.id).limit(limit)
        return await self._database.read(lambda db: [as_conversation(row) for row in db.execute(query).mappings()])

    async def responses_after(
        self, owner: str, after: tuple[int, str] | None, *, limit: int
    ) -> list[tuple[StoredResponse, list[Item]]]:
        """The oldest first, after a response's (`created_at`, `id`); with their input where no conversation has it."""
        place = sa.tuple_(responses.c.created_at, responses.c.id)
        query = sa.select(responses).where(responses.c.owner == owner)
        if after is not None:
            query = query.where(place > sa.tuple_(*map(sa.literal, after)))
        query = query.order_by(responses.c.created_at, responses.c.id).limit(limit)

        def job(db: sa.Connection) -> list[tuple[StoredResponse, list[Item]]]:
            rows = db.execute(query).mappings().all()
            return [(as_response(db, row), [] if row["conversation_id"] else _asked(db, row["id"])) for row in rows]

        return await self._database.read(job)

    async def delete_everything(self, owner: str) -> tuple[int, int]:
        """All conversations and responses of an owner, some at a time. Returns how many of each.

        Raises ConversationBusy while one of them is being written; some may be gone then.
        """

        def job(db: sa.Connection) -> tuple[int, int]:
            open_turns = sa.select(responses.c.id).where(responses.c.owner == owner, is_open)
            if db.execute(open_turns.limit(1)).first() is not None:
                raise ConversationBusy("An answer is being written. Wait for it, or stop it.", retry_after_s=1)
            self._database.erase(db)
            some = sa.select(responses.c.id).where(responses.c.owner == owner).limit(_AT_ONCE)
            answers = db.execute(sa.delete(responses).where(responses.c.id.in_(some))).rowcount
            if answers:
                return 0, answers
            some = sa.select(conversations.c.id).where(conversations.c.owner == owner).limit(_AT_ONCE)
            return db.execute(sa.delete(conversations).where(conversations.c.id.in_(some))).rowcount, 0

        totals = (0, 0)
        while any(deleted := await self._database.write(job)):
            totals = (totals[0] + deleted[0], totals[1] + deleted[1])
        return totals

    # --- responses

    async def response(self, owner: str, response_id: str) -> StoredResponse:
        """Raises NotFound."""
        return await self._database.read(lambda db: as_response(db, find_response(db, owner, response_id)))

    async def answers(self, owner: str, response_ids: Collection[str]) -> dict[str, StoredAnswer]:
        """Those of these responses that there are, by their ids."""
        table = responses.c
        query = sa.select(table.id, table.status, table.body, table.feedback)
        query = query.where(table.owner == owner, table.id.in_(response_ids))
        return await self._database.read(
            lambda db: {row["id"]: StoredAnswer(**row) for row in db.execute(query).mappings()}
        )

    async def input_items(
        self, owner: str, response_id: str, *, limit: int, after: str | None, is_ascending: bool
    ) -> Page[Item]:
        """What a response was asked with. Raises NotFound for an unknown response or `after`."""

        def job(db: sa.Connection) -> Page[Item]:
            find_response(db, owner, response_id)
            asked = (items.c.response_id == response_id) & items.c.is_output.is_(False)
            query = sa.select(items).where(asked)
            if after is not None:
                last = db.execute(
                    sa.select(items.c.position).where(asked, items.c.id == as_id(after))
                ).scalar_one_or_none()
                if last is None:
                    raise NotFound(f"There is no item '{after}' in the input of this response.", param="after")
                query = query.where(items.c.position > last if is_ascending else items.c.position < last)
            order = items.c.position.asc() if is_ascending else items.c.position.desc()
            found = [as_item(row) for row in db.execute(query.order_by(order).limit(limit + 1)).mappings()]
            return Page(found[:limit], len(found) > limit)

        return await self._database.read(job)

    async def set_feedback(self, owner: str, response_id: str, feedback: dict[str, Any] | None) -> None:
        """Keeps what the caller thinks of an answer, or forgets it. Raises NotFound."""

        def job(db: sa.Connection) -> None:
            find_response(db, owner, response_id, lock=True)
            db.execute(sa.update(responses).where(responses.c.id == response_id).values(feedback=feedback))

        await self._database.write(job)

    async def delete_response(self, owner: str, response_id: str) -> None:
        """Its items stay in their conversation, as at OpenAI. Raises NotFound, ConversationBusy while it is open."""

        def job(db: sa.Connection) -> None:
            row = find_response(db, owner, response_id, lock=True)
            if row["status"] in OPEN:
                raise ConversationBusy("This response is still being written. Try again when it has ended.")
            of_conversation = (items.c.response_id == response_id) & items.c.conversation_id.is_not(None)
            db.execute(sa.update(items).where(of_conversation).values(response_id=None))
            db.execute(sa.delete(responses).where(responses.c.id == response_id))
            self._database.erase(db)

        await self._database.write(job)


def _asked(db: sa.Connection, response_id: str) -> list[Item]:
    query = sa.select(items).where(items.c.response_id == response_id, items.c.is_output.is_(False))
    return [as_item(row) for row in db.execute(query.order_by(items.c.position)).mappings()]
