"""Conversations, their items and responses: what is kept, found, listed, copied and deleted.

Everything belongs to an owner; what belongs to another does not exist for the caller. How a turn is written is in
stored_turns.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa

from gateway.errors import ConversationBusy
from gateway.records import (
    Conversation,
    Item,
    Page,
    StoredResponse,
    as_conversation,
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
from gateway.stored_turns import StoredTurns
from gateway.tables import OPEN, conversations, items, responses

__all__ = ["Conversation", "Item", "Page", "Store", "StoredResponse", "new_id"]


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

    async def list_conversations(self, owner: str, *, limit: int, after: str | None) -> Page[Conversation]:
        """The newest activity first. Raises NotFound for an unknown `after`."""

        def job(db: sa.Connection) -> Page[Conversation]:
            query = sa.select(conversations).where(conversations.c.owner == owner)
            key = sa.tuple_(conversations.c.updated_at, conversations.c.id)
            if after is not None:
                last = find_conversation(db, owner, after)
                query = query.where(key < sa.tuple_(sa.literal(last.updated_at), sa.literal(last.id)))
            query = query.order_by(conversations.c.updated_at.desc(), conversations.c.id.desc()).limit(limit + 1)
            found = [as_conversation(row) for row in db.execute(query).mappings()]
            return Page(found[:limit], len(found) > limit)

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

        await self._database.write(job)

    async def fork_conversation(self, owner: str, conversation_id: str, after: str | None) -> Conversation:
        """A new conversation with copies of the items up to `after` (none when it is None). Raises NotFound."""

        def job(db: sa.Connection) -> Conversation:
            source = find_conversation(db, owner, conversation_id)
            fork = Conversation(new_id("conv"), source.metadata, int(time.time()), time.time())
            insert_conversation(db, owner, fork)
            if after is not None:
                last = item_position(db, conversation_id, after)
                query = sa.select(items).where(items.c.conversation_id == conversation_id, items.c.position <= last)
                copies = [as_item(row, fresh=True) for row in db.execute(query.order_by(items.c.position)).mappings()]
                insert_items(db, copies, conversation_id=fork.id)
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
            return conversation

        return await self._database.write(job)

    # --- responses

    async def response(self, owner: str, response_id: str) -> StoredResponse:
        """Raises NotFound."""
        return await self._database.read(lambda db: as_response(db, find_response(db, owner, response_id)))

    async def delete_response(self, owner: str, response_id: str) -> None:
        """Its items stay in their conversation, as at OpenAI. Raises NotFound, ConversationBusy while it is open."""

        def job(db: sa.Connection) -> None:
            row = find_response(db, owner, response_id, lock=True)
            if row["status"] in OPEN:
                raise ConversationBusy("This response is still being written. Try again when it has ended.")
            of_conversation = (items.c.response_id == response_id) & items.c.conversation_id.is_not(None)
            db.execute(sa.update(items).where(of_conversation).values(response_id=None))
            db.execute(sa.delete(responses).where(responses.c.id == response_id))

        await self._database.write(job)
