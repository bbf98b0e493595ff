"""`/v1/conversations`: OpenAI's Conversations API, and beside it what it lacks: list and fork."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from gateway.auth import Caller
from gateway.deps import CallerDep, PartsDep
from gateway.errors import GatewayError, InvalidRequest
from gateway.prompt import require_plausible
from gateway.response_object import conversation_object, item_object, item_page, page_object
from gateway.response_schemas import ConversationCreate, ConversationUpdate, ForkRequest, InputItem, ItemsCreate
from gateway.schema_base import Text
from gateway.store import Item, Page
from gateway.turn import Parts
from gateway.turn_items import counted_text, question_item

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
async def create_conversation(
    caller: CallerDep, parts: PartsDep, answer: Response, body: ConversationCreate | None = None
) -> dict[str, Any]:
    """A new conversation, with up to 20 first items."""
    body = body or ConversationCreate()
    new_items = _items(body.items or [], parts.settings.context_tokens)
    async with _charged(parts, caller, answer):
        conversation = await parts.store.create_conversation(caller.owner, body.metadata or {}, new_items)
    return conversation_object(conversation)


@router.get("")
async def list_conversations(
    caller: CallerDep,
    parts: PartsDep,
    limit: Limit = 20,
    after: str | None = None,
    q: Annotated[Text | None, Query(max_length=200)] = None,
    pinned: bool | None = None,
) -> dict[str, Any]:
    """The caller's conversations, the newest activity first (ours).

    `q` is looked for in titles and messages; `pinned` leaves those whose metadata has `pinned` = `true`, or the others.
    """
    text = (q or "").strip() or None
    page = await parts.store.list_conversations(caller.owner, limit=limit, after=after, text=text, pinned=pinned)
    return page_object([conversation_object(entry) for entry in page.entries], page.has_more)


@router.get("/{conversation_id}")
async def get_conversation(conversation_id: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """One conversation."""
    return conversation_object(await parts.store.conversation(caller.owner, conversation_id))


@router.post("/{conversation_id}")
async def update_conversation(
    conversation_id: str, body: ConversationUpdate, caller: CallerDep, parts: PartsDep
) -> dict[str, Any]:
    """Replaces the metadata."""
    return conversation_object(
        await parts.store.update_conversation(caller.owner, conversation_id, body.metadata or {})
    )


@router.delete("/{conversation_id}")
async def delete_conversation(conversation_id: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """Deletes a conversation with everything in it."""
    await parts.store.delete_conversation(caller.owner, conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.post("/{conversation_id}/fork")
async def fork_conversation(
    conversation_id: str, body: ForkRequest, caller: CallerDep, parts: PartsDep, answer: Response
) -> dict[str, Any]:
    """A copy of a conversation up to an item (ours)."""
    async with _charged(parts, caller, answer):
        fork = await parts.store.fork_conversation(caller.owner, conversation_id, body.after)
    return conversation_object(fork)


@router.get("/{conversation_id}/items")
async def list_items(
    conversation_id: str,
    caller: CallerDep,
    parts: PartsDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    include: Annotated[list[str] | None, Query(alias="include[]")] = None,
) -> dict[str, Any]:
    """The messages of a conversation; with `include[]=response` (ours) what is known of each answer."""
    if not {"response"}.issuperset(include or ()):
        raise InvalidRequest("'include' takes 'response' only: messages here have no further parts.", param="include")
    page = await parts.store.list_items(
        caller.owner, conversation_id, limit=limit, after=after, is_ascending=order == "asc"
    )
    ids = {item.response_id for item in page.entries if item.is_output and item.response_id} if include else set()
    return item_page(page, await parts.store.answers(caller.owner, ids) if ids else None)


@router.post("/{conversation_id}/items")
async def create_items(
    conversation_id: str, body: ItemsCreate, caller: CallerDep, parts: PartsDep, answer: Response
) -> dict[str, Any]:
    """Adds up to 20 messages."""
    new_items = _items(body.items, parts.settings.context_tokens)
    async with _charged(parts, caller, answer):
        await parts.store.add_items(caller.owner, conversation_id, new_items)
    return item_page(Page(new_items, has_more=False))


@router.get("/{conversation_id}/items/{item_id}")
async def get_item(conversation_id: str, item_id: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """One message."""
    return item_object(await parts.store.item(caller.owner, conversation_id, item_id))


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(conversation_id: str, item_id: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """Deletes one message; returns the conversation, as OpenAI does."""
    return conversation_object(await parts.store.delete_item(caller.owner, conversation_id, item_id))


@asynccontextmanager
async def _charged(parts: Parts, caller: Caller, answer: Response) -> AsyncIterator[None]:
    """One request of the caller's limits, told in `answer`; given back when the failure is ours."""
    reservation = await parts.charge(caller, is_answer=False)
    answer.headers.update(reservation.headers())
    try:
        yield
    except GatewayError as error:
        if error.status >= 500:
            await reservation.refund()
        raise
    finally:
        await reservation.settle(None)


def _items(entries: Sequence[InputItem], context_tokens: int) -> list[Item]:
    items = [_item(entry) for entry in entries]
    for item in items:
        require_plausible(len(counted_text(item).encode()), context_tokens, "items")
    return items


def _item(entry: InputItem) -> Item:
    status = "incomplete" if entry.status == "incomplete" else "completed"
    item = question_item(entry)
    return replace(item, status=status, is_output=item.role == "assistant")
