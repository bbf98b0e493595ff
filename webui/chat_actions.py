"""What the chat column's buttons do: one method each, from Gradio's values to `Chat` and back to updates of components.

Nothing is kept here but the turns that are running now. A page that opens another conversation leaves its running
turn: the last update of that turn then shows what was opened, so the page is right whichever answer comes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import gradio as gr

from webui import render
from webui.asking import NONE_OPEN, Updates, asking, opened, page_of
from webui.chat import Chat
from webui.identity import Person
from webui.layout import Parts
from webui.listing import Listing
from webui.settings_actions import SettingsActions
from webui.turn import StopSignal
from webui.view import View

POLL_WAITING_S, POLL_READY_S = 1.0, 15.0
_LEAVE_TIMEOUT_S = 3.0


@dataclass
class Running:
    """A turn of one page: how to stop it, where the page goes next when it leaves, and when the turn is over."""

    person: Person
    language: str
    stop: StopSignal = field(default_factory=StopSignal)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    leave_to: str = ""


class ChatActions:
    """Handlers of the chat column; shared by all people."""

    def __init__(self, parts: Parts, chat: Chat, listing: Listing, settings: SettingsActions) -> None:
        self._parts = parts
        self._chat = chat
        self._listing = listing
        self._settings = settings
        self._running: dict[str, Running] = {}

    async def stop(self, request: gr.Request) -> Updates:
        """Stops this page's turn; the turn itself then shows how it ended."""
        running = self._running.get(page_of(request))
        if running is None:
            return self._buttons(View())
        running.stop.set()
        return {self._parts.chat.stop: gr.update()}

    async def send(
        self, request: gr.Request, current: str, typed: str, *settings: object
    ) -> AsyncGenerator[Updates, None]:
        """Sends what was typed and shows the answer as it comes."""
        running = self._begin(request)
        options = self._settings.options(settings)
        turn = self._chat.send(running.person, opened(current), str(typed or ""), options, running.stop)
        try:
            async with aclosing(self._shown(turn, running, opened(current))) as updates:
                async for update in updates:
                    yield update
        finally:
            self._end(request, running)

    async def retry(self, request: gr.Request, current: str, *settings: object) -> AsyncGenerator[Updates, None]:
        """Asks for another answer to the last message."""
        running = self._begin(request)
        options = self._settings.options(settings)
        turn = self._chat.retry(running.person, opened(current), options, running.stop)
        try:
            async with aclosing(self._shown(turn, running, opened(current), keeps_typed=True)) as updates:
                async for update in updates:
                    yield update
        finally:
            self._end(request, running)

    async def _shown(
        self, turn: AsyncGenerator[View, None], running: Running, listed: str, *, keeps_typed: bool = False
    ) -> AsyncGenerator[Updates, None]:
        """Updates for a turn's views: everything at its start and end, only the chat in between."""
        is_first = True
        async with aclosing(turn) as views:
            async for view in views:
                if view.running and not is_first:
                    yield {self._parts.chat.chatbot: render.messages(view.messages, running.language)}
                    continue
                refused_text = view.refused_text
                if running.stop.leaving:
                    view = await self._chat.open(running.person, running.leave_to)
                updates = self.whole(view, running.language)
                if refused_text:
                    updates[self._parts.chat.message] = gr.update(value=refused_text)
                elif is_first and not keeps_typed:
                    updates[self._parts.chat.message] = gr.update(value="")
                if not view.running or view.conversation_id != listed:
                    updates |= await self._listing.updates(running.person, view.conversation_id, running.language)
                is_first = False
                yield updates

    def whole(self, view: View, language: str) -> Updates:
        """Everything that a view decides."""
        notice = render.notice_html(view.notice, view.error, language, has_kept_text=view.has_kept_text)
        updates = self._buttons(view) | {
            self._parts.chat.chatbot: gr.update(value=render.messages(view.messages, language)),
            self._parts.chat.notice: gr.update(value=notice),
            self._parts.current: view.conversation_id or NONE_OPEN,
        }
        if view.error:  # the status line may have news: it is asked for in a second, whatever it says now
            updates[self._parts.timer] = gr.update(value=POLL_WAITING_S)
        return updates

    def _buttons(self, view: View) -> Updates:
        has_question = any(message.role == "user" for message in view.messages)
        is_open = bool(view.conversation_id) and not view.running
        return {
            self._parts.chat.send: gr.update(visible=not view.running),
            self._parts.chat.stop: gr.update(visible=view.running),
            self._parts.chat.retry: gr.update(visible=is_open and has_question and not view.refused_text),
        }

    def _begin(self, request: gr.Request) -> Running:
        language, person = asking(request)
        running = self._running[page_of(request)] = Running(person, language)
        return running

    def _end(self, request: gr.Request, running: Running) -> None:
        running.ended.set()
        if self._running.get(page_of(request)) is running:
            del self._running[page_of(request)]

    async def leave_turn(self, request: gr.Request, conversation_id: str) -> None:
        """Ends this page's turn, which then shows the conversation that the page goes to."""
        running = self._running.get(page_of(request))
        if running is None:
            return
        running.leave_to = conversation_id
        running.stop.leaving = True
        running.stop.set()
        try:
            await asyncio.wait_for(running.ended.wait(), _LEAVE_TIMEOUT_S)
        except TimeoutError:
            pass  # it ends by itself; what was opened is shown already
