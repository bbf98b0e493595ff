"""Everything that is stored of one owner, piece by piece: nothing of it is in memory as a whole.

The pages are read one after another while the caller takes them, so what changes meanwhile comes as it was or as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from gateway.response_object import conversation_object, item_object, response_object
from gateway.store import Conversation, Item, Store

_PAGE = 100
Record = dict[str, Any]


async def items_of(store: Store, owner: str, conversation_id: str) -> AsyncIterator[Item]:
    """All items of a conversation, oldest first. Raises NotFound."""
    after: str | None = None
    while True:
        page = await store.list_items(owner, conversation_id, limit=_PAGE, after=after, is_ascending=True)
        for item in page.entries:
            yield item
        if not page.has_more:
            return
        after = page.entries[-1].id


async def conversation_record(store: Store, owner: str, conversation_id: str) -> Record:
    """A conversation with its items, in the form in which they can be posted again. Raises NotFound."""
    conversation = await store.conversation(owner, conversation_id)
    found = [_importable(item) async for item in items_of(store, owner, conversation_id)]
    return _conversation_record(conversation, found)


async def everything(store: Store, owner: str) -> AsyncIterator[Record]:
    """Conversations with their items, then responses, with their input where no conversation has it, then a count."""
    counts = {"conversations": 0, "responses": 0}
    seen: set[str] = set()  # one that is written to meanwhile moves to the end of the list
    after: tuple[float, str] | None = None
    while conversations := await store.conversations_after(owner, after, limit=_PAGE):
        for conversation in conversations:
            after = (conversation.updated_at, conversation.id)
            if conversation.id not in seen:
                seen.add(conversation.id)
                counts["conversations"] += 1
                yield await _whole(store, owner, conversation)
    last: tuple[int, str] | None = None
    while responses := await store.responses_after(owner, last, limit=_PAGE):
        for response, asked in responses:
            last = (response.body["created_at"], response.id)
            counts["responses"] += 1
            yield response_object(response) | {"input": [_importable(item) for item in asked]}
    yield {"object": "export.end", **counts}


async def _whole(store: Store, owner: str, conversation: Conversation) -> Record:
    found = [_importable(item) async for item in items_of(store, owner, conversation.id)]
    return _conversation_record(conversation, found)


def _conversation_record(conversation: Conversation, items: list[Record]) -> Record:
    return {"object": "conversation.export", "conversation": conversation_object(conversation), "items": items}


def _importable(item: Item) -> Record:
    shown = item_object(item)
    del shown["response_id"]
    return shown
