"""What the chat column's buttons do: one method each, from Gradio's values to `Chat` and back to updates of components.

Every method is short. What it leaves running is shown by `watch`, which begins when the hidden text `watched` changes,
changes nothing but the chat, and is followed by `settle`. A page watches one thing: a newer watch ends the one before.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from webui import render
from webui.asking import NONE_OPEN, Updates, asking, opened, page_of
from webui.chat import LARGEST_MESSAGE_CHARS, SHOWN_MESSAGES, Chat, Pick
from webui.layout import Parts
from webui.listing import Listing
from webui.settings_actions import SettingsActions
from webui.tags import typed_as_text, typed_from_text
from webui.view import View

POLL_WAITING_S, POLL_READY_S = 1.0, 15.0
_LEAVE_TIMEOUT_S = 1.0
_MOST_KEPT = 500


@dataclass
class Watch:
    """What a page is watching: left when something else is opened there, over when its last update was sent."""

    is_left: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    conversation_id: str = ""
    last: View | None = None


class ChatActions:
    """Handlers of the chat column; shared by all people."""

    def __init__(self, parts: Parts, chat: Chat, listing: Listing, settings: SettingsActions) -> None:
        self._parts = parts
        self._chat = chat
        self._listing = listing
        self._settings = settings
        self._watches: OrderedDict[str, Watch] = OrderedDict()
        self._numbers = itertools.count()
        self.context_tokens = 0

    async def send(self, request: gr.Request, current: str, typed: str, *settings: Any) -> Updates:
        """Sends what was typed."""
        language, person = asking(request)
        view = await self._chat.send(person, opened(current), str(typed or ""), self._settings.options(settings))
        return await self._begun(request, view, current, language) | self._message(view, is_sent=True)

    async def retry(self, request: gr.Request, current: str, *settings: Any) -> Updates:
        """Asks for another answer to the last message."""
        language, person = asking(request)
        view = await self._chat.retry(person, opened(current), self._settings.options(settings))
        return await self._begun(request, view, current, language)

    async def edit(self, request: gr.Request, event: gr.EditData, current: str, reach: int, *settings: Any) -> Updates:
        """Asks a changed message anew, in a copy of the conversation up to there."""
        language, person = asking(request)
        pick = _picked(event.index, language, typed_from_text(str(event.previous_value or "")))
        typed = typed_from_text(str(event.value or ""))
        view = await self._chat.edit(person, opened(current), reach, pick, typed, self._settings.options(settings))
        return await self._begun(request, view, current, language) | self._message(view, is_sent=False)

    async def go_on(self, request: gr.Request, current: str, *settings: Any) -> Updates:
        """Lets the last answer go on, which was cut."""
        language, person = asking(request)
        view = await self._chat.go_on(person, opened(current), self._settings.options(settings))
        return await self._begun(request, view, current, language)

    async def rate(self, request: gr.Request, event: gr.LikeData, current: str, reach: int) -> Updates:
        """Keeps what a person thinks of an answer."""
        language, person = asking(request)
        rating = {True: "up", False: "down"}.get(event.liked) if isinstance(event.liked, bool) else None
        view = await self._chat.rate(person, opened(current), reach, _picked(event.index, language), rating)
        if view.error or not view.messages:
            return self.whole(view, language, is_carried=True)  # which takes the thumb back
        return {self._parts.chat.notice: gr.update(value=render.notice_html(view.notice, None, language))}

    async def older(self, request: gr.Request, current: str, reach: int) -> Updates:
        """The same conversation with more of its past."""
        language, person = asking(request)
        await self.leave(request)
        view = await self._chat.open(person, opened(current), reach + SHOWN_MESSAGES)
        return self.whole(view, language, is_carried=True)

    async def earlier(self, request: gr.Request, current: str) -> Updates:
        """The conversation that the open one is a changed copy of."""
        language, person = asking(request)
        now = await self._chat.open(person, opened(current))
        if not now.earlier_id:
            return self.whole(now, language, is_carried=True)
        await self.leave(request)
        view = await self._chat.open(person, now.earlier_id)
        return self.whole(view, language) | await self._listing.updates(person, view.conversation_id, language)

    async def stop(self, request: gr.Request, current: str) -> Updates:
        """Stops what runs in the open conversation; its watch then shows how it ended."""
        language, person = asking(request)
        if await self._chat.stop(person, opened(current)):
            return {self._parts.chat.stop: gr.update()}
        return self.whole(await self._chat.open(person, opened(current)), language, is_carried=True)

    async def watch(self, request: gr.Request, watched: str) -> AsyncGenerator[Any, None]:
        """Shows a running answer as it comes; yields the chat alone."""
        conversation_id, reach = _watched(watched)
        if not conversation_id:
            yield gr.skip()  # a generator that yields nothing would empty the chat
            return
        language, person = asking(request)
        await self.leave(request)
        watch = self._watches[page_of(request)] = Watch(conversation_id=conversation_id)
        try:
            async with aclosing(self._chat.watch(person, conversation_id, reach)) as views:
                async with aclosing(self._shown(views, watch, language)) as chats:
                    async for bubbles in chats:
                        yield bubbles
            yield gr.skip()  # Gradio repeats the last update at the end: it is to be a small one
        except GeneratorExit:  # the page is gone, and nobody will settle
            self._forget(request, watch)
            raise
        finally:
            watch.is_over.set()
            self._forget_some()

    async def settle(self, request: gr.Request, typed: str) -> Updates:
        """Everything but the chat, when a watch has ended."""
        watch = self._watches.get(page_of(request))
        if watch is None or watch.last is None or watch.is_left.is_set() or not watch.is_over.is_set():
            return {self._parts.chat.stop: gr.update()}
        language, person = asking(request)
        view = await self._chat.ended(person, watch.conversation_id, watch.last)
        if watch.is_left.is_set():  # meanwhile
            return {self._parts.chat.stop: gr.update()}
        self._forget(request, watch)
        updates = self.whole(view, language, is_carried=True)
        if view == watch.last:
            del updates[self._parts.chat.chatbot]  # is there already
        updates |= await self._listing.updates(person, view.conversation_id, language)
        if view.refused_text and str(typed or "").strip():  # somebody has gone on typing
            view = replace(view, refused_text=f"{view.refused_text}\n\n{typed}")
        return updates | self._message(view, is_sent=False)

    async def leave(self, request: gr.Request) -> None:
        """Ends what the page watches, before it shows something else."""
        watch = self._watches.pop(page_of(request), None)
        if watch is None:
            return
        watch.is_left.set()
        try:
            await asyncio.wait_for(watch.is_over.wait(), _LEAVE_TIMEOUT_S)
        except TimeoutError:
            pass  # its next update ends it

    def whole(self, view: View, language: str, *, is_carried: bool = False) -> Updates:
        """Everything that a view decides; what is typed moves along where the view goes on with what was open."""
        column = self._parts.chat
        notice = render.notice_html(view.notice, view.error, language, has_kept_text=view.has_kept_text)
        meter = render.meter_html(view, self.context_tokens, LARGEST_MESSAGE_CHARS, language, is_carried=is_carried)
        updates = self._buttons(view) | {
            column.chatbot: gr.update(
                value=render.messages(view.messages, language),
                feedback_value=render.ratings(view.messages, language),
            ),
            column.notice: gr.update(value=notice),
            column.meter: gr.update(value=meter),
            column.reach: view.reach,
            self._parts.current: view.conversation_id or NONE_OPEN,
        }
        if view.running:
            updates[column.watched] = self._token(view)
        if view.error:  # the status line may have news: it is asked for in a second, whatever it says now
            updates[self._parts.timer] = gr.update(value=POLL_WAITING_S)
        return updates

    async def _begun(self, request: gr.Request, view: View, current: str, language: str) -> Updates:
        """What a page shows of a turn that has just begun, or was refused."""
        updates = self.whole(view, language, is_carried=True)
        if view.conversation_id != opened(current):
            _, person = asking(request)
            updates |= await self._listing.updates(person, view.conversation_id, language)
        return updates

    def _forget(self, request: gr.Request, watch: Watch) -> None:
        if self._watches.get(page_of(request)) is watch:
            del self._watches[page_of(request)]

    def _forget_some(self) -> None:
        """Those of pages that left between the last update and its settling."""
        while len(self._watches) > _MOST_KEPT and next(iter(self._watches.values())).is_over.is_set():
            self._watches.popitem(last=False)

    def _message(self, view: View, *, is_sent: bool) -> Updates:
        if view.refused_text:
            return {self._parts.chat.message: gr.update(value=view.refused_text)}
        return {self._parts.chat.message: gr.update(value="")} if is_sent and view.running else {}

    def _token(self, view: View) -> str:
        """What makes the page watch: it differs each time."""
        return f"{view.conversation_id} {view.reach} {next(self._numbers)}"

    async def _shown(
        self, views: AsyncGenerator[View, None], watch: Watch, language: str
    ) -> AsyncGenerator[list[render.Bubble], None]:
        """The chat of each view; only what runs is rendered anew."""
        above: tuple[Any, ...] | None = None
        rendered: list[render.Bubble] = []
        async for view in views:
            if watch.is_left.is_set():
                return
            if view.messages[:-1] != above:
                above = view.messages[:-1]
                rendered = render.messages(above, language)
            if not view.running:
                watch.last = view
            yield rendered + render.messages(view.messages[-1:], language)

    def _buttons(self, view: View) -> Updates:
        column = self._parts.chat
        has_question = any(message.role == "user" for message in view.messages)
        is_open = bool(view.conversation_id) and not view.running
        can_go_on = is_open and bool(view.messages) and view.messages[-1].can_go_on
        return {
            column.send: gr.update(visible=not view.running),
            column.stop: gr.update(visible=view.running),
            column.retry: gr.update(visible=is_open and has_question and not view.refused_text),
            column.go_on: gr.update(visible=can_go_on and not view.refused_text),
            column.earlier: gr.update(visible=is_open and bool(view.earlier_id)),
            column.older: gr.update(visible=view.has_older),
        }


def _watched(token: str) -> tuple[str, int]:
    """The conversation and the reach in a token; nothing in what is none."""
    conversation_id, _, rest = str(token or "").partition(" ")
    reach = rest.partition(" ")[0]
    return (conversation_id, int(reach)) if reach.isdecimal() and len(reach) < 6 else ("", 0)


def _picked(index: Any, language: str, previous: str | None = None) -> Pick:
    """Finds the message of a bubble; of one that was edited only while its text is what it was."""

    def pick(shown: Any) -> Any:
        place = index[0] if isinstance(index, list | tuple) and index else index
        found = render.message_at(shown, place, language) if isinstance(place, int) and place >= 0 else None
        if found is None or previous is None:
            return found
        return found if typed_from_text(typed_as_text(found.text)).strip() == previous.strip() else None

    return pick
