"""The only module that speaks SQL about conversations and responses: what is kept of every turn.

A turn is two short transactions: `begin_turn` writes the question and an open answer, `finish_turn` closes the answer.
In between, one shared `checkpoint` keeps what has been generated so far, so a crash loses two seconds at most.
Everything belongs to an owner; what belongs to another does not exist for the caller.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from gateway.database import Database
from gateway.errors import ConversationBusy, NotFound

HISTORY_ITEMS = 500
"""At most so many items of a conversation are read for a prompt."""

metadata = sa.MetaData()
conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String),
    sa.Column("metadata", sa.JSON),
    sa.Column("created_at", sa.Integer),
    sa.Column("updated_at", sa.Float),
)
responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String),
    sa.Column("conversation_id", sa.String),
    sa.Column("previous_id", sa.String),
    sa.Column("status", sa.String),
    sa.Column("body", sa.JSON),
    sa.Column("created_at", sa.Integer),
)
items = sa.Table(
    "items",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("id", sa.String),
    sa.Column("conversation_id", sa.String),
    sa.Column("response_id", sa.String),
    sa.Column("is_output", sa.Boolean),
    sa.Column("role", sa.String),
    sa.Column("status", sa.String),
    sa.Column("content", sa.JSON),
    sa.Column("tokens", sa.Integer),
    sa.Column("created_at", sa.Integer),
)


def new_id(prefix: str) -> str:
    """A fresh public id such as `conv_…`: 128 random bits, so it cannot be guessed."""
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Conversation:
    """A stored thread. Times are Unix seconds."""

    id: str
    metadata: dict[str, str]
    created_at: int
    updated_at: float


@dataclass(frozen=True)
class Item:
    """One message.

    Attributes:
        content: OpenAI's content parts.
        tokens: how many tokens its text has, or None when nobody counted.
    """

    id: str
    role: str
    status: str
    content: list[dict[str, Any]]
    is_output: bool = False
    tokens: int | None = None
    response_id: str | None = None
    created_at: int = 0

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.content)


@dataclass(frozen=True)
class StoredResponse:
    """A response as it was asked for and answered; `body` is OpenAI's response object without its output."""

    id: str
    status: str
    body: dict[str, Any]
    conversation_id: str | None
    output: list[Item]


Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Page(Generic[Entry]):
    """One page of a list."""

    entries: list[Entry]
    has_more: bool


class Store:
    """Conversations, items and responses of all owners. Every method may raise HistoryUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- conversations

    async def create_conversation(self, owner: str, meta: dict[str, str], new_items: Sequence[Item]) -> Conversation:
        conversation = Conversation(new_id("conv"), meta, int(time.time()), time.time())

        def job(db: sa.Connection) -> None:
            _insert_conversation(db, owner, conversation)
            _insert_items(db, new_items, conversation_id=conversation.id)

        await self._database.write(job)
        return conversation

    async def conversation(self, owner: str, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        return await self._database.read(lambda db: _conversation(db, owner, conversation_id))

    async def list_conversations(self, owner: str, *, limit: int, after: str | None) -> Page[Conversation]:
        """The newest activity first. Raises NotFound for an unknown `after`."""

        def job(db: sa.Connection) -> Page[Conversation]:
            query = sa.select(conversations).where(conversations.c.owner == owner)
            key = sa.tuple_(conversations.c.updated_at, conversations.c.id)
            if after is not None:
                last = _conversation(db, owner, after)
                query = query.where(key < sa.tuple_(sa.literal(last.updated_at), sa.literal(last.id)))
            query = query.order_by(conversations.c.updated_at.desc(), conversations.c.id.desc()).limit(limit + 1)
            found = [_as_conversation(row) for row in db.execute(query).mappings()]
            return Page(found[:limit], len(found) > limit)

        return await self._database.read(job)

    async def update_conversation(self, owner: str, conversation_id: str, meta: dict[str, str]) -> Conversation:
        """Replaces the metadata. Raises NotFound."""

        def job(db: sa.Connection) -> Conversation:
            _conversation(db, owner, conversation_id)
            db.execute(sa.update(conversations).where(conversations.c.id == conversation_id).values(metadata=meta))
            return _conversation(db, owner, conversation_id)

        return await self._database.write(job)

    async def delete_conversation(self, owner: str, conversation_id: str) -> None:
        """With its items and responses. Raises NotFound, ConversationBusy while an answer is being written."""

        def job(db: sa.Connection) -> None:
            _conversation(db, owner, conversation_id)
            _require_no_open_turn(db, conversation_id)
            db.execute(sa.delete(conversations).where(conversations.c.id == conversation_id))

        await self._database.write(job)

    async def fork_conversation(self, owner: str, conversation_id: str, after: str | None) -> Conversation:
        """A new conversation with copies of the items up to `after` (none when it is None). Raises NotFound."""

        def job(db: sa.Connection) -> Conversation:
            source = _conversation(db, owner, conversation_id)
            fork = Conversation(new_id("conv"), source.metadata, int(time.time()), time.time())
            _insert_conversation(db, owner, fork)
            if after is not None:
                last = _item_position(db, conversation_id, after)
                query = sa.select(items).where(items.c.conversation_id == conversation_id, items.c.position <= last)
                copies = [_as_item(row, fresh=True) for row in db.execute(query.order_by(items.c.position)).mappings()]
                _insert_items(db, copies, conversation_id=fork.id)
            return fork

        return await self._database.write(job)

    # --- items

    async def add_items(self, owner: str, conversation_id: str, new_items: Sequence[Item]) -> None:
        """Raises NotFound, ConversationBusy."""

        def job(db: sa.Connection) -> None:
            _conversation(db, owner, conversation_id)
            _require_no_open_turn(db, conversation_id)
            _insert_items(db, new_items, conversation_id=conversation_id)
            _touch(db, conversation_id)

        await self._database.write(job)

    async def list_items(
        self, owner: str, conversation_id: str, *, limit: int, after: str | None, is_ascending: bool
    ) -> Page[Item]:
        """Raises NotFound for an unknown conversation or `after`."""

        def job(db: sa.Connection) -> Page[Item]:
            _conversation(db, owner, conversation_id)
            query = sa.select(items).where(items.c.conversation_id == conversation_id)
            if after is not None:
                last = _item_position(db, conversation_id, after)
                query = query.where(items.c.position > last if is_ascending else items.c.position < last)
            order = items.c.position.asc() if is_ascending else items.c.position.desc()
            found = [_as_item(row) for row in db.execute(query.order_by(order).limit(limit + 1)).mappings()]
            return Page(found[:limit], len(found) > limit)

        return await self._database.read(job)

    async def item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        """Raises NotFound."""

        def job(db: sa.Connection) -> Item:
            _conversation(db, owner, conversation_id)
            position = _item_position(db, conversation_id, item_id)
            return _as_item(db.execute(sa.select(items).where(items.c.position == position)).mappings().one())

        return await self._database.read(job)

    async def delete_item(self, owner: str, conversation_id: str, item_id: str) -> Conversation:
        """Raises NotFound, ConversationBusy."""

        def job(db: sa.Connection) -> Conversation:
            conversation = _conversation(db, owner, conversation_id)
            _require_no_open_turn(db, conversation_id)
            position = _item_position(db, conversation_id, item_id)
            db.execute(sa.delete(items).where(items.c.position == position))
            return conversation

        return await self._database.write(job)

    # --- turns

    async def history(self, owner: str, conversation_id: str | None, previous_id: str | None) -> list[Item]:
        """The items before a new turn, oldest first: of a conversation, or of a chain of responses.

        Raises NotFound, ConversationBusy when a turn is open there.
        """

        def job(db: sa.Connection) -> list[Item]:
            if conversation_id is not None:
                _conversation(db, owner, conversation_id)
                _require_no_open_turn(db, conversation_id)
                query = sa.select(items).where(items.c.conversation_id == conversation_id)
            elif previous_id is not None:
                query = _chain_items(db, owner, previous_id)
            else:
                return []
            rows = db.execute(query.order_by(items.c.position.desc()).limit(HISTORY_ITEMS)).mappings()
            return [_as_item(row) for row in rows][::-1]

        return await self._database.read(job)

    async def begin_turn(
        self,
        owner: str,
        body: dict[str, Any],
        *,
        conversation_id: str | None,
        previous_id: str | None,
        last_item_id: str | None,
        question: Sequence[Item],
        answer: Item,
    ) -> None:
        """Writes the question and an open answer.

        `last_item_id` ends the history that the prompt was made of: a turn that came in between, while this one waited
        for its place, would be missing in the prompt. Raises NotFound, and ConversationBusy for that or an open turn.
        """

        def job(db: sa.Connection) -> None:
            if conversation_id is not None:
                _conversation(db, owner, conversation_id)
                _require_no_open_turn(db, conversation_id)
                _require_last_item(db, conversation_id, last_item_id)
                _touch(db, conversation_id)
            db.execute(
                sa.insert(responses).values(
                    id=body["id"],
                    owner=owner,
                    conversation_id=conversation_id,
                    previous_id=previous_id,
                    status="in_progress",
                    body=body,
                    created_at=body["created_at"],
                )
            )
            _insert_items(db, [*question, answer], conversation_id=conversation_id, response_id=body["id"])

        await self._database.write(job)

    async def finish_turn(self, body: dict[str, Any], answer: Item) -> None:
        """Closes an open turn with its final response object and answer."""

        def job(db: sa.Connection) -> None:
            update = sa.update(responses).where(responses.c.id == body["id"])
            db.execute(update.values(status=body["status"], body=body))
            row = sa.update(items).where(items.c.id == answer.id)
            db.execute(row.values(status=answer.status, content=answer.content, tokens=answer.tokens))
            conversation = body.get("conversation")
            if conversation is not None:
                _touch(db, conversation["id"])

        await self._database.write(job)

    async def abandon_turn(self, response_id: str) -> None:
        """Takes a turn back that failed before its caller was told anything of it."""
        await self._database.write(lambda db: db.execute(sa.delete(responses).where(responses.c.id == response_id)))

    async def checkpoint(self, answers: Iterable[Item]) -> None:
        """Keeps what open answers have so far, in one transaction."""
        values = [{"item_id": answer.id, "so_far": answer.content} for answer in answers]
        statement = (
            sa.update(items)
            .where(items.c.id == sa.bindparam("item_id"), items.c.status == "in_progress")
            .values(content=sa.bindparam("so_far"))
        )
        await self._database.write(lambda db: db.execute(statement, values))

    async def close_open_turns(self) -> int:
        """At start: closes turns that a crash left open, as `incomplete`. Returns how many."""

        def job(db: sa.Connection) -> int:
            open_turns = db.execute(sa.select(responses).where(responses.c.status == "in_progress")).mappings().all()
            for row in open_turns:
                body = row["body"] | {"status": "incomplete", "incomplete_details": {"reason": "interrupted"}}
                update = sa.update(responses).where(responses.c.id == row["id"])
                db.execute(update.values(status="incomplete", body=body))
            db.execute(sa.update(items).where(items.c.status == "in_progress").values(status="incomplete"))
            return len(open_turns)

        return await self._database.write(job)

    # --- responses

    async def response(self, owner: str, response_id: str) -> StoredResponse:
        """Raises NotFound."""

        def job(db: sa.Connection) -> StoredResponse:
            row = _response(db, owner, response_id)
            query = sa.select(items).where(items.c.response_id == response_id, items.c.is_output)
            output = [_as_item(item) for item in db.execute(query.order_by(items.c.position)).mappings()]
            return StoredResponse(row["id"], row["status"], row["body"], row["conversation_id"], output)

        return await self._database.read(job)

    async def delete_response(self, owner: str, response_id: str) -> None:
        """Its items stay in their conversation, as at OpenAI. Raises NotFound, ConversationBusy while it is open."""

        def job(db: sa.Connection) -> None:
            row = _response(db, owner, response_id)
            if row["status"] == "in_progress":
                raise ConversationBusy("This response is still being written. Try again when it has ended.")
            of_conversation = (items.c.response_id == response_id) & items.c.conversation_id.is_not(None)
            db.execute(sa.update(items).where(of_conversation).values(response_id=None))
            db.execute(sa.delete(responses).where(responses.c.id == response_id))

        await self._database.write(job)


def _insert_conversation(db: sa.Connection, owner: str, conversation: Conversation) -> None:
    db.execute(
        sa.insert(conversations).values(
            id=conversation.id,
            owner=owner,
            metadata=conversation.metadata,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
        )
    )


def _insert_items(
    db: sa.Connection, new_items: Sequence[Item], *, conversation_id: str | None, response_id: str | None = None
) -> None:
    now = int(time.time())
    rows = [
        {
            "id": item.id,
            "conversation_id": conversation_id,
            "response_id": response_id,
            "is_output": item.is_output,
            "role": item.role,
            "status": item.status,
            "content": item.content,
            "tokens": item.tokens,
            "created_at": now,
        }
        for item in new_items
    ]
    if rows:
        db.execute(sa.insert(items), rows)


def _conversation(db: sa.Connection, owner: str, conversation_id: str) -> Conversation:
    query = sa.select(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
    row = db.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no conversation '{conversation_id}'.", param="conversation")
    return _as_conversation(row)


def _response(db: sa.Connection, owner: str, response_id: str) -> sa.RowMapping:
    query = sa.select(responses).where(responses.c.id == response_id, responses.c.owner == owner)
    row = db.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no response '{response_id}'.", param="response_id")
    return row


def _item_position(db: sa.Connection, conversation_id: str, item_id: str) -> int:
    query = sa.select(items.c.position).where(items.c.id == item_id, items.c.conversation_id == conversation_id)
    position = db.execute(query).scalar_one_or_none()
    if position is None:
        raise NotFound(f"There is no item '{item_id}' in this conversation.", param="item_id")
    return int(position)


def _chain_items(db: sa.Connection, owner: str, previous_id: str) -> sa.Select[Any]:
    """The items of a response, of the one before it, and so on. In a conversation its whole thread so far counts."""
    row = _response(db, owner, previous_id)
    if row["status"] == "in_progress":
        raise ConversationBusy("That response is still being written. Wait for it, or stop it.", retry_after_s=1)
    links = sa.select(responses.c.id, responses.c.previous_id, responses.c.conversation_id)
    chain = links.where(responses.c.id == previous_id).cte(recursive=True)
    chain = chain.union(links.where(responses.c.id == chain.c.previous_id, responses.c.owner == owner))
    last, earlier = items.alias(), items.alias()
    of_chain = sa.select(last.c.position).join(chain, last.c.response_id == chain.c.id)
    before_it = sa.select(earlier.c.position).where(  # a chain may begin at a response of a conversation
        earlier.c.conversation_id == chain.c.conversation_id,
        last.c.response_id == chain.c.id,
        earlier.c.position <= last.c.position,
    )
    return sa.select(items).where(items.c.position.in_(of_chain.union(before_it)))


def _require_no_open_turn(db: sa.Connection, conversation_id: str) -> None:
    query = sa.select(responses.c.id).where(
        responses.c.conversation_id == conversation_id, responses.c.status == "in_progress"
    )
    if db.execute(query.limit(1)).first() is not None:
        raise ConversationBusy(
            "An answer is being written in this conversation. Wait for it, or stop it.", retry_after_s=1
        )


def _require_last_item(db: sa.Connection, conversation_id: str, item_id: str | None) -> None:
    query = sa.select(items.c.id).where(items.c.conversation_id == conversation_id).order_by(items.c.position.desc())
    if db.execute(query.limit(1)).scalar() != item_id:
        raise ConversationBusy(
            "Another message came into this conversation while this one waited. Send it again.", retry_after_s=1
        )


def _touch(db: sa.Connection, conversation_id: str) -> None:
    update = sa.update(conversations).where(conversations.c.id == conversation_id)
    db.execute(update.values(updated_at=time.time()))


def _as_conversation(row: sa.RowMapping) -> Conversation:
    return Conversation(row["id"], row["metadata"], row["created_at"], row["updated_at"])


def _as_item(row: sa.RowMapping, *, fresh: bool = False) -> Item:
    return Item(
        id=new_id("msg") if fresh else row["id"],
        role=row["role"],
        status="incomplete" if fresh and row["status"] == "in_progress" else row["status"],
        content=row["content"],
        is_output=row["is_output"],
        tokens=row["tokens"],
        response_id=None if fresh else row["response_id"],
        created_at=row["created_at"],
    )
