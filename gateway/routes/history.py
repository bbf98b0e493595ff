"""What is kept beside conversations and responses themselves: input items, feedback, exports; and forgetting all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from gateway.deps import CallerDep, KeyDep, KeysDep, PartsDep, get_admin, get_caller
from gateway.documented import LINES, MARKDOWN
from gateway.errors import GatewayError, InvalidRequest
from gateway.export import Record, conversation_record, everything, items_of
from gateway.markdown import document
from gateway.response_object import output_item, page_object
from gateway.response_schemas import FeedbackRequest
from gateway.schema_base import Text

router = APIRouter(prefix="/v1", tags=["history"])


async def get_owner(
    request: Request, key: KeyDep, owner: Annotated[Text | None, Query(min_length=1, max_length=300)] = None
) -> str:
    """Whose data is meant: the caller's, or for an admin any owner's: a key's id, or `key_…/end user`."""
    if owner is None:
        return (await get_caller(request, key)).owner
    await get_admin(key)
    return owner


OwnerDep = Annotated[str, Depends(get_owner)]


@router.get("/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    caller: CallerDep,
    parts: PartsDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    include: Annotated[list[str] | None, Query(alias="include[]")] = None,
) -> dict[str, Any]:
    """What a response was asked with."""
    if include:
        raise InvalidRequest("'include' is not supported: messages here have no further parts.", param="include")
    page = await parts.store.input_items(
        caller.owner, response_id, limit=limit, after=after, is_ascending=order == "asc"
    )
    return page_object([output_item(item) for item in page.entries], page.has_more)


@router.post("/responses/{response_id}/feedback")
async def give_feedback(response_id: str, body: FeedbackRequest, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """What the caller thinks of an answer (ours); a rating of null takes it back."""
    feedback = None
    if body.rating is not None:
        feedback = {"rating": body.rating, "comment": body.comment, "created_at": int(time.time())}
    await parts.store.set_feedback(caller.owner, response_id, feedback)
    return {"id": response_id, "object": "response.feedback", **(feedback or {"rating": None, "comment": None})}


@router.get("/conversations/{conversation_id}/export", response_model=None, responses=MARKDOWN)
async def export_conversation(
    conversation_id: str, caller: CallerDep, parts: PartsDep, format: Literal["md", "json"] = "json"
) -> Response:
    """One conversation as a document to read, or to post again (ours)."""
    store, owner = parts.store, caller.owner
    if format == "md":
        conversation = await store.conversation(owner, conversation_id)
        items = [item async for item in items_of(store, owner, conversation_id)]
        content, kind = document(conversation, items).encode(), "text/markdown; charset=utf-8"
    else:
        content, kind = (
            msgspec.json.encode(await conversation_record(store, owner, conversation_id)),
            "application/json",
        )
    return Response(content, media_type=kind, headers=_as_file(f"{conversation_id}.{format}"))


@router.get("/export", response_model=None, responses=LINES)
async def export_all(owner: OwnerDep, keys: KeysDep, parts: PartsDep) -> Response:
    """All that is stored of the caller, one JSON object a line (ours); whole when the last one is `export.end`."""
    key_id, _, end_user = owner.partition("/")
    key = await asyncio.to_thread(keys.get, key_id)
    head = {
        "object": "export",
        "created_at": int(time.time()),
        "key": {"id": key.id, "name": key.name, "created_at": key.created_at, "expires_at": key.expires_at},
        "end_user": end_user or None,
    }
    records = everything(parts.store, owner)
    first = await anext(records)  # what fails until here has an honest status
    return StreamingResponse(
        _lines(head, first, records), media_type="application/jsonl", headers=_as_file("export.jsonl")
    )


@router.delete("/data")
async def delete_all(owner: OwnerDep, parts: PartsDep) -> dict[str, Any]:
    """Deletes all conversations and responses of the caller (ours); the key stays."""
    conversations, responses = await parts.store.delete_everything(owner)
    return {"object": "data.deleted", "deleted": True, "conversations": conversations, "responses": responses}


async def _lines(head: Record, first: Record, records: AsyncIterator[Record]) -> AsyncIterator[bytes]:
    yield msgspec.json.encode(head) + b"\n"
    yield msgspec.json.encode(first) + b"\n"
    try:
        async for record in records:
            yield msgspec.json.encode(record) + b"\n"
    except GatewayError as error:  # there is no status to tell it by any more, and no `export.end` follows
        yield msgspec.json.encode(error.body()) + b"\n"


def _as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
