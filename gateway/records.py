"""What the history is made of: conversations, items, responses; how they are found in the tables and put there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from gateway.errors import ConversationBusy, NotFound
from gateway.tables import OPEN, conversations, is_open, items, responses

_INSERT_ITEMS = sa.insert(items)
_PREFIXES = {"function_call": "fc", "function_call_output": "fco"}


def new_id(prefix: str) -> str:
    """A fresh public id such as `conv_…`: 128 random bits, so it cannot be guessed."""
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Conversation:
    """A stored thread. Times are Unix seconds.

    Attributes:
        match: the place where it has what was searched for, when something was.
    """

    id: str
    metadata: dict[str, str]
    created_at: int
    updated_at: float
    match: str | None = None


@dataclass(frozen=True)
class Item:
    """One message, or one call of a function or its output.

    Attributes:
        content: OpenAI's content parts; empty for calls.
        tokens: how many tokens its text has, or None when nobody counted.
        kind: OpenAI's type: `message`, `function_call` or `function_call_output`.
        data: the fields of an item that is no message (`call_id`, `name`, `arguments` …).
    """

    id: str
    role: str
    status: str
    content: list[dict[str, Any]]
    is_output: bool = False
    tokens: int | None = None
    response_id: str | None = None
    created_at: int = 0
    kind: str = "message"
    data: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.content)


@dataclass(frozen=True)
class StoredResponse:
    """A response as it was asked for and answered.

    Attributes:
        body: OpenAI's response object without its output.
        feedback: what its caller thought of it: `rating` and perhaps `comment`.
        cuts: where each delta of a background answer ended, in characters of its text.
        holder: the gateway that writes it now.
    """

    id: str
    status: str
    body: dict[str, Any]
    conversation_id: str | None
    output: list[Item]
    feedback: dict[str, Any] | None = None
    cuts: list[int] | None = None
    holder: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether its answer is being written."""
        return self.status in OPEN


@dataclass(frozen=True)
class StoredAnswer:
    """A response without its texts: how it ended, and what its caller thought of it."""

    id: str
    status: str
    body: dict[str, Any]
    feedback: dict[str, Any] | None


Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Page(Generic[Entry]):
    """One page of a list."""

    entries: list[Entry]
    has_more: bool


def as_conversation(row: sa.RowMapping) -> Conversation:
    """A row of `conversations`."""
    return Conversation(row["id"], row["metadata"], row["created_at"], row["updated_at"])


def as_item(row: sa.RowMapping, *, fresh: bool = False) -> Item:
    """A row of `items`; `fresh` makes it a closed copy with an id of its own."""
    return Item(
        id=new_id(_PREFIXES.get(row["kind"], "msg")) if fresh else row["id"],
        role=row["role"],
        status="incomplete" if fresh and row["status"] == "in_progress" else row["status"],
        content=row["content"],
        is_output=row["is_output"],
        tokens=row["tokens"],
        response_id=None if fresh else row["response_id"],
        created_at=row["created_at"],
        kind=row["kind"],
        data=row["data"],
    )


def as_response(db: sa.Connection, row: sa.RowMapping) -> StoredResponse:
    """A row of `responses`, with its output."""
    query = sa.select(items).where(items.c.response_id == row["id"], items.c.is_output).order_by(items.c.position)
    output = [as_item(item) for item in db.execute(query).mappings()]
    return StoredResponse(
        id=row["id"],
        status=row["status"],
        body=row["body"],
        conversation_id=row["conversation_id"],
        output=output,
        feedback=row["feedback"],
        cuts=row["cuts"],
        holder=row["holder"],
    )


def find_conversation(db: sa.Connection, owner: str, conversation_id: str, *, lock: bool = False) -> Conversation:
    """`lock` keeps other gateways from changing it until the transaction ends. Raises NotFound."""
    query = sa.select(conversations).where(conversations.c.id == as_id(conversation_id), conversations.c.owner == owner)
    row = db.execute(_locked(query) if lock else query).mappings().one_or_none()
    if row is None:
        raise no_conversation(conversation_id)
    return as_conversation(row)


def no_conversation(conversation_id: str) -> NotFound:
    """There is none for this caller."""
    return NotFound(f"There is no conversation '{conversation_id}'.", param="conversation")


def find_response(
    db: sa.Connection, owner: str, response_id: str, *, lock: bool = False, param: str = "response_id"
) -> sa.RowMapping:
    """Likewise; `param` is where its caller named it. Raises NotFound."""
    query = sa.select(responses).where(responses.c.id == as_id(response_id), responses.c.owner == owner)
    row = db.execute(_locked(query) if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no response '{response_id}'.", param=param)
    return row


def item_position(db: sa.Connection, conversation_id: str, item_id: str) -> int:
    """Where an item stands. Raises NotFound."""
    query = sa.select(items.c.position).where(items.c.id == as_id(item_id), items.c.conversation_id == conversation_id)
    position = db.execute(query).scalar_one_or_none()
    if position is None:
        raise NotFound(f"There is no item '{item_id}' in this conversation.", param="item_id")
    return int(position)


def insert_conversation(db: sa.Connection, owner: str, conversation: Conversation) -> None:
    """A new row."""
    db.execute(
        sa.insert(conversations).values(
            id=conversation.id,
            owner=owner,
            metadata=conversation.metadata,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
        )
    )


def insert_items(
    db: sa.Connection, new_items: Sequence[Item], *, conversation_id: str | None, response_id: str | None = None
) -> None:
    """New rows, after all that are there; `response_id` is that of all of them, else each has its own."""
    now = int(time.time())
    rows = [
        {
            "id": item.id,
            "conversation_id": conversation_id,
            "response_id": response_id or item.response_id,
            "is_output": item.is_output,
            "role": item.role,
            "status": item.status,
            "content": storable(item.content),
            "tokens": item.tokens,
            "created_at": now,
            "kind": item.kind,
            "data": item.data,
        }
        for item in new_items
    ]
    if rows:
        db.execute(_INSERT_ITEMS, rows)


def storable(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`content` with what no database takes as text (U+0000, halves of surrogate pairs) replaced by U+FFFD.

    Callers cannot send either; a model can make them.
    """
    return [part | {"text": _clean(part["text"])} if "text" in part else part for part in content]


def touch(db: sa.Connection, conversation_id: str) -> None:
    """Marks activity."""
    update = sa.update(conversations).where(conversations.c.id == conversation_id)
    db.execute(update.values(updated_at=time.time()))


def require_no_open_turn(db: sa.Connection, conversation_id: str) -> None:
    """Raises ConversationBusy."""
    query = sa.select(responses.c.id).where(responses.c.conversation_id == conversation_id, is_open)
    if db.execute(query.limit(1)).first() is not None:
        raise busy()


def busy() -> ConversationBusy:
    """An answer is being written there."""
    return ConversationBusy(
        "An answer is being written in this conversation. Wait for it, or stop it.", retry_after_s=1
    )


def as_id(text: str) -> str:
    """PostgreSQL takes no U+0000, not even in what is looked for."""
    return text.replace("\0", "\ufffd")


def _locked(query: sa.Select[Any]) -> sa.Select[Any]:
    """Does nothing on SQLite, which has one writer at a time; lets PostgreSQL add rows that refer to this one."""
    return query.with_for_update(key_share=True)


def _clean(text: str) -> str:
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return text.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")
