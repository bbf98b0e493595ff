"""The list of a person's conversations, as an update of the page."""

from __future__ import annotations

import gradio as gr

from webui import render
from webui.asking import Updates
from webui.client import GatewayClient
from webui.errors import GatewayError
from webui.identity import Person
from webui.layout import Parts
from webui.texts import say

LISTED = 100


class Listing:
    """Asked for after everything that may have changed the list."""

    def __init__(self, parts: Parts, client: GatewayClient) -> None:
        self._parts = parts
        self._client = client

    async def updates(self, person: Person, selected: str, language: str) -> Updates:
        """The list as it is now, with one entry selected."""
        try:
            page = await self._client.conversations(person, limit=LISTED)
        except GatewayError:
            return {}  # what is listed stays; the reason stands beside the chat or in the status line
        listed = render.choices(page.conversations, language)
        value = selected if any(selected == c.id for c in page.conversations) else None
        info = "" if listed else say(language, "no_conversations")
        return {self._parts.side.conversations: gr.update(choices=listed, value=value, info=info)}
