"""What the sidebar's buttons do: open, begin and delete conversations."""

from __future__ import annotations

import gradio as gr

from webui import render
from webui.asking import Updates, asking, opened
from webui.chat import Chat
from webui.chat_actions import ChatActions
from webui.errors import GatewayError
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
        """A conversation from the list."""
        language, person = asking(request)
        await self._chat_actions.leave(request)
        view = await self._chat.open(person, chosen or "")
        updates = self._chat_actions.whole(view, language)
        updates |= await self._listing.updates(person, view.conversation_id, language)
        return updates | {self._parts.side.sidebar: gr.update(open=False)}

    async def ask_delete(self) -> Updates:
        """Deleting is asked about first."""
        return {self._parts.side.delete: gr.update(visible=False), self._parts.side.confirm: gr.update(visible=True)}

    async def keep(self) -> Updates:
        """Not deleted after all."""
        return {self._parts.side.delete: gr.update(visible=True), self._parts.side.confirm: gr.update(visible=False)}

    async def delete(self, current: str, request: gr.Request) -> Updates:
        """Deletes the open conversation and shows an empty chat."""
        language, person = asking(request)
        try:
            await self._chat.delete(person, opened(current))
        except GatewayError as error:
            return await self.keep() | {self._parts.chat.notice: render.notice_html(None, error, language)}
        return await self.new_chat(request)
