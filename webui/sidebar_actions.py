"""What choosing in the sidebar does: open and begin conversations. What needs no chat is in `sidebar_routes.py`."""

from __future__ import annotations

import gradio as gr

from webui.asking import Updates, asking
from webui.chat import Chat
from webui.chat_actions import ChatActions
from webui.layout import Parts
from webui.listing import Listing


class SidebarActions:
    """Handlers of the sidebar; shared by all people."""

    def __init__(self, parts: Parts, chat: Chat, listing: Listing, chat_actions: ChatActions) -> None:
        self._parts = parts
        self._chat = chat
        self._listing = listing
        self._chat_actions = chat_actions

    async def new_chat(self, request: gr.Request) -> Updates:
        """An empty chat; a conversation begins with its first message."""
        return await self.open("", request)

    async def open(self, chosen: str, request: gr.Request) -> Updates:
        """A conversation from the list. Behind a `#` the script counts its choices, so that each one is a new value,
        and says whether the sidebar stays open."""
        language, person = asking(request)
        conversation_id, _, how = str(chosen or "").partition("#")
        await self._chat_actions.leave(request)
        view = await self._chat.open(person, conversation_id)
        updates = self._chat_actions.whole(view, language)
        updates |= await self._listing.updates(person, view.conversation_id, language)
        return updates if how.endswith("stay") else updates | {self._parts.side.sidebar: gr.update(open=False)}
