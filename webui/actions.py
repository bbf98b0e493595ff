"""What the page's buttons do: one method each, from Gradio's values to `Chat` and back to updates of components.

Who asks comes from the request that `identity.py` has signed; which language from the browser. Nothing is kept here but
the turns that are running now. A page that opens another conversation leaves its running turn: the turn's own last
update then shows what was opened, so the page is right whichever of the two answers reaches it last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from webui import render
from webui.address import ADDRESS_HEADER
from webui.chat import Chat
from webui.client import GatewayClient, Options
from webui.errors import GatewayError
from webui.identity import PERSON_HEADER, Person
from webui.layout import Parts, labels
from webui.texts import language_of, say
from webui.turn import StopSignal
from webui.view import View
from webui.wire import Status

LISTED = 100
POLL_WAITING_S, POLL_READY_S = 1.0, 15.0
_NONE_OPEN = "none"  # BrowserState does not write empty values: "" would leave the last conversation remembered
_LEAVE_TIMEOUT_S = 3.0

Updates = dict[Any, Any]


@dataclass
class Running:
    """A turn of one page: how to stop it, where the page goes next when it leaves, and when the turn is over."""

    person: Person
    language: str
    stop: StopSignal = field(default_factory=StopSignal)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    leave_to: str = ""


class Actions:
    """Handlers for one page layout; shared by all people."""

    def __init__(self, parts: Parts, chat: Chat, client: GatewayClient) -> None:
        self._parts = parts
        self._chat = chat
        self._client = client
        self._running: dict[str, Running] = {}

    async def load(self, current: str, request: gr.Request) -> Updates:
        """A page that was just opened: its language, the list, the conversation that was open last."""
        language, person = _asking(request)
        view = await self._chat.open(person, _opened(current))
        if view.notice and view.notice.key == "not_found":
            view = View()  # nobody asked for it just now: another tab deleted it, or it was never theirs
        updates = _merged(labels(self._parts, language), self._whole(view, language))
        updates |= await self._list(person, view.conversation_id, language)
        return _merged(updates, await self.poll("", 0.0, request))

    async def poll(self, shown: str, pace_s: float, request: gr.Request) -> Updates:
        """The status line; asked for often while the model is not ready, rarely after."""
        language, person = _asking(request)
        try:
            status = await self._client.status(person)
        except GatewayError:
            status = Status(stage="connecting")
        line = render.status_html(status, language)
        wanted_s = POLL_READY_S if status.ready else POLL_WAITING_S
        updates = {self._parts.timer: gr.update() if wanted_s == pace_s else gr.update(value=wanted_s)}
        if line == shown:
            return updates
        updates[self._parts.status] = gr.update(value=line)
        if status.context_tokens:
            updates[self._parts.total_tokens] = gr.update(maximum=status.context_tokens)
        return updates

    async def new_chat(self, request: gr.Request) -> Updates:
        """An empty chat; a conversation begins with its first message."""
        return await self.open("", request)

    async def open(self, chosen: str, request: gr.Request) -> Updates:
        """A conversation from the list."""
        language, person = _asking(request)
        await self._leave_turn(request, chosen or "")
        view = await self._chat.open(person, chosen or "")
        updates = self._whole(view, language) | await self._list(person, view.conversation_id, language)
        return updates | {self._parts.sidebar: gr.update(open=False)}

    async def ask_delete(self) -> Updates:
        """Deleting is asked about first."""
        return {self._parts.delete: gr.update(visible=False), self._parts.confirm: gr.update(visible=True)}

    async def keep(self) -> Updates:
        """Not deleted after all."""
        return {self._parts.delete: gr.update(visible=True), self._parts.confirm: gr.update(visible=False)}

    async def delete(self, current: str, request: gr.Request) -> Updates:
        """Deletes the open conversation and shows an empty chat."""
        language, person = _asking(request)
        try:
            await self._chat.delete(person, _opened(current))
        except GatewayError as error:
            return await self.keep() | {self._parts.notice: render.notice_html(None, error, language)}
        return await self.new_chat(request)

    async def stop(self, request: gr.Request) -> Updates:
        """Stops this page's turn; the turn itself then shows how it ended."""
        running = self._running.get(_page_of(request))
        if running is None:
            return self._buttons(View())
        running.stop.set()
        return {self._parts.stop: gr.update()}

    async def send(
        self,
        current: str,
        typed: str,
        temperature: float,
        top_p: float,
        total_tokens: float,
        instructions: str,
        request: gr.Request,
    ) -> AsyncGenerator[Updates, None]:
        """Sends what was typed and shows the answer as it comes."""
        running = self._begin(request)
        options = Options(temperature, top_p, int(total_tokens), instructions)
        turn = self._chat.send(running.person, _opened(current), typed or "", options, running.stop)
        try:
            async with aclosing(self._shown(turn, running, _opened(current))) as updates:
                async for update in updates:
                    yield update
        finally:
            self._end(request, running)

    async def retry(
        self,
        current: str,
        temperature: float,
        top_p: float,
        total_tokens: float,
        instructions: str,
        request: gr.Request,
    ) -> AsyncGenerator[Updates, None]:
        """Asks for another answer to the last message."""
        running = self._begin(request)
        options = Options(temperature, top_p, int(total_tokens), instructions)
        turn = self._chat.retry(running.person, _opened(current), options, running.stop)
        try:
            async with aclosing(self._shown(turn, running, _opened(current), keeps_typed=True)) as updates:
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
                    yield {self._parts.chatbot: render.messages(view.messages, running.language)}
                    continue
                refused_text = view.refused_text
                if running.stop.leaving:
                    view = await self._chat.open(running.person, running.leave_to)
                updates = self._whole(view, running.language)
                if refused_text:
                    updates[self._parts.message] = gr.update(value=refused_text)
                elif is_first and not keeps_typed:
                    updates[self._parts.message] = gr.update(value="")
                if not view.running or view.conversation_id != listed:
                    updates |= await self._list(running.person, view.conversation_id, running.language)
                is_first = False
                yield updates

    def _whole(self, view: View, language: str) -> Updates:
        """Everything that a view decides."""
        notice = render.notice_html(view.notice, view.error, language, has_kept_text=view.has_kept_text)
        updates = self._buttons(view) | {
            self._parts.chatbot: gr.update(value=render.messages(view.messages, language)),
            self._parts.notice: gr.update(value=notice),
            self._parts.current: view.conversation_id or _NONE_OPEN,
        }
        if view.error:  # the status line may have news: it is asked for in a second, whatever it says now
            updates[self._parts.timer] = gr.update(value=POLL_WAITING_S)
        return updates

    def _buttons(self, view: View) -> Updates:
        has_question = any(message.role == "user" for message in view.messages)
        is_open = bool(view.conversation_id) and not view.running
        return {
            self._parts.send: gr.update(visible=not view.running),
            self._parts.stop: gr.update(visible=view.running),
            self._parts.retry: gr.update(visible=is_open and has_question and not view.refused_text),
            self._parts.delete: gr.update(visible=is_open),
            self._parts.confirm: gr.update(visible=False),
        }

    async def _list(self, person: Person, selected: str, language: str) -> Updates:
        try:
            page = await self._client.conversations(person, limit=LISTED)
        except GatewayError:
            return {}  # what is listed stays; the reason stands beside the chat or in the status line
        listed = render.choices(page.conversations, language)
        value = selected if any(selected == c.id for c in page.conversations) else None
        info = "" if listed else say(language, "no_conversations")
        return {self._parts.conversations: gr.update(choices=listed, value=value, info=info)}

    def _begin(self, request: gr.Request) -> Running:
        language, person = _asking(request)
        running = self._running[_page_of(request)] = Running(person, language)
        return running

    def _end(self, request: gr.Request, running: Running) -> None:
        running.ended.set()
        if self._running.get(_page_of(request)) is running:
            del self._running[_page_of(request)]

    async def _leave_turn(self, request: gr.Request, conversation_id: str) -> None:
        running = self._running.get(_page_of(request))
        if running is None:
            return
        running.leave_to = conversation_id
        running.stop.leaving = True
        running.stop.set()
        try:
            await asyncio.wait_for(running.ended.wait(), _LEAVE_TIMEOUT_S)
        except TimeoutError:
            pass  # it ends by itself; what was opened is shown already


def _merged(first: Updates, second: Updates) -> Updates:
    """Both; where both change one component, its properties together."""
    merged = dict(first)
    for part, update in second.items():
        merged[part] = {**merged[part], **update} if isinstance(merged.get(part), dict) else update
    return merged


def _opened(current: str | None) -> str:
    return "" if not current or current == _NONE_OPEN else current


def _asking(request: gr.Request) -> tuple[str, Person]:
    person = Person(request.headers[PERSON_HEADER], request.headers.get(ADDRESS_HEADER, ""))
    return language_of(request.headers.get("accept-language", "")), person


def _page_of(request: gr.Request) -> str:
    return f"{request.headers[PERSON_HEADER]}/{request.session_hash}"
