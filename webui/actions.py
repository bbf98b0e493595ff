"""What a page does by itself: it loads, and asks again and again how the server is.

Who asks comes from the request that `identity.py` has signed; which language from the browser.
"""

from __future__ import annotations

import gradio as gr

from webui import render
from webui.asking import Updates, asking, merged, opened
from webui.chat import Chat
from webui.chat_actions import POLL_READY_S, POLL_WAITING_S, ChatActions
from webui.client import GatewayClient
from webui.errors import GatewayError
from webui.layout import Parts, labels
from webui.listing import Listing
from webui.settings_actions import SettingsActions
from webui.view import View
from webui.wire import Status


class PageActions:
    """Handlers of the page as a whole; shared by all people."""

    def __init__(
        self,
        parts: Parts,
        chat: Chat,
        client: GatewayClient,
        listing: Listing,
        chat_actions: ChatActions,
        settings: SettingsActions,
    ) -> None:
        self._parts = parts
        self._chat = chat
        self._client = client
        self._listing = listing
        self._chat_actions = chat_actions
        self._settings = settings

    async def load(self, current: str, kept: object, request: gr.Request) -> Updates:
        """A page that was just opened: its language, its settings, the conversation that was open last."""
        language, person = asking(request)
        polled = await self.poll("", 0.0, request)
        view = await self._chat.open(person, opened(current))
        if view.notice and view.notice.key == "not_found":
            view = View()  # nobody asked for it just now: another tab deleted it, or it was never theirs
        updates = merged(labels(self._parts, language), self._chat_actions.whole(view, language))
        updates |= await self._settings.load(kept, person, language)
        updates |= await self._listing.updates(person, view.conversation_id, language)
        return merged(polled, updates)

    async def poll(self, shown: str, pace_s: float, request: gr.Request) -> Updates:
        """The status line; asked for often while the model is not ready, rarely after."""
        language, person = asking(request)
        try:
            status = await self._client.status(person)
        except GatewayError:
            status = Status(stage="connecting")
        self._chat_actions.context_tokens = status.context_tokens or self._chat_actions.context_tokens
        line = render.status_html(status, language)
        wanted_s = POLL_READY_S if status.ready and not status.waiting else POLL_WAITING_S
        updates = {self._parts.timer: gr.update() if wanted_s == pace_s else gr.update(value=wanted_s)}
        if line == shown:
            return updates
        updates[self._parts.chat.status] = gr.update(value=line)
        return updates | self._settings.learn(status)
