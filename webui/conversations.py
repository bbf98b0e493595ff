"""A person's conversations as a list: pages of it, names, pins, exports and imports. Nothing here knows Gradio or HTTP.

Title and pin are in the conversation's metadata, which the gateway keeps; so is the mark of one that is to be deleted
(`deletions.py`), which is in no list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from webui import wire
from webui.chat import title_of
from webui.client import GatewayClient
from webui.deletions import Deletions, Stop, is_marked
from webui.errors import GatewayError
from webui.identity import Person
from webui.importing import Imported, Item

PAGE = 100
_PIN = "pinned"
_ITEMS_AT_ONCE, _ITEMS_BYTES = 20, 500_000  # the gateway takes 20 items and 1 MiB


@dataclass(frozen=True)
class ListPage:
    """Conversations, newest activity first; the pinned ones only with the first page, where nothing is looked for."""

    entries: tuple[wire.Conversation, ...]
    pinned: tuple[wire.Conversation, ...]
    has_more: bool


class Conversations:
    """The operations of the sidebar, for any person. Every method may raise GatewayError."""

    def __init__(self, client: GatewayClient, stop: Stop | None = None) -> None:
        self._client = client
        self.deletions = Deletions(client, stop)

    async def page(self, person: Person, *, after: str = "", q: str = "", limit: int = PAGE) -> ListPage:
        """One page of the list, or of what a search finds."""
        if q:
            found = await self._client.conversations(person, limit=limit, after=after, q=q)
            return ListPage(self._kept(person, found.conversations), (), found.has_more)
        page = await self._client.conversations(person, limit=limit, after=after, pinned=False)
        pinned = () if after else await self._pinned(person)
        return ListPage(self._kept(person, page.conversations), self._kept(person, pinned), page.has_more)

    async def rename(self, person: Person, conversation_id: str, title: str) -> str:
        """Gives it another title, and returns that as it is kept; one without a letter changes nothing."""
        metadata = await self._metadata(person, conversation_id)
        if title := title_of(title):
            metadata["title"] = title
            await self._client.set_metadata(person, conversation_id, metadata)
        return metadata.get("title", "")

    async def pin(self, person: Person, conversation_id: str, *, pinned: bool) -> None:
        """Keeps it at the top of the list, or no longer."""
        metadata = await self._metadata(person, conversation_id)
        metadata.pop(_PIN, None)
        await self._client.set_metadata(person, conversation_id, metadata | ({_PIN: "true"} if pinned else {}))

    async def export(self, person: Person, conversation_id: str, form: str) -> tuple[str, bytes]:
        """Its title, and the conversation as `md` or `json`."""
        title = (await self._client.conversation(person, conversation_id)).title
        return title, await self._client.export(person, conversation_id, form)

    async def add(self, person: Person, imported: Imported) -> wire.Conversation:
        """Stores an imported conversation: all of it, or nothing when something refuses a part of it."""
        conversation = await self._client.create_conversation(person, imported.title)
        try:
            for some in _portions(imported.items):
                await self._client.add_items(person, conversation.id, some)
        except GatewayError:
            await self._client.delete_conversation(person, conversation.id)
            raise
        return conversation

    async def _metadata(self, person: Person, conversation_id: str) -> dict[str, str]:
        return dict((await self._client.conversation(person, conversation_id)).metadata)

    async def _pinned(self, person: Person) -> tuple[wire.Conversation, ...]:
        page = await self._client.conversations(person, limit=PAGE, pinned=True)
        pinned = page.conversations
        while page.has_more:
            page = await self._client.conversations(person, limit=PAGE, after=pinned[-1].id, pinned=True)
            pinned += page.conversations
        return pinned

    def _kept(self, person: Person, listed: Sequence[wire.Conversation]) -> tuple[wire.Conversation, ...]:
        """Those that are not to be deleted. Of the others, those whose time is over are deleted meanwhile."""
        for conversation in listed:
            if is_marked(conversation):
                self.deletions.see(person, conversation)
        return tuple(conversation for conversation in listed if not is_marked(conversation))


def _portions(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The items in their order, in groups that the gateway takes at once."""
    group: list[Item] = []
    size = 0
    for item in items:
        item_bytes = len(json.dumps(item))
        if group and (len(group) == _ITEMS_AT_ONCE or size + item_bytes > _ITEMS_BYTES):
            yield group
            group, size = [], 0
        group.append(item)
        size += item_bytes
    if group:
        yield group
