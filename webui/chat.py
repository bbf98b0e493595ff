"""One person's chat, without a page: send, retry, open, delete. Nothing here knows Gradio or HTTP.

History comes from the gateway at each turn and never from the browser: a page that was open for days shows what is
stored, and no browser sends its whole history up for one more message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from webui import wire
from webui.client import GatewayClient, Options
from webui.errors import ConnectionLost, GatewayError, GatewayUnreachable
from webui.identity import Person
from webui.turn import BUSY_PAUSE_S, BUSY_TRIES, Question, StopSignal, run_turn
from webui.view import Notice, Shown, View

SHOWN_MESSAGES = 60
LARGEST_MESSAGE_CHARS = 100_000
_TITLE_CHARS = 60
_TURNS_AROUND = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # bidirectional overrides, isolates
_UNSEEN = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Chat:
    """The operations of the page, for any person; `close` waits for what is still being tidied up."""

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self._tidying: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Waits for deletions that were begun when people left."""
        if self._tidying:
            await asyncio.wait(self._tidying, timeout=5)

    async def open(self, person: Person, conversation_id: str) -> View:
        """A stored conversation; an empty chat when it is gone."""
        if not conversation_id:
            return View()
        try:
            page = await self._client.items(person, conversation_id, limit=SHOWN_MESSAGES)
        except GatewayError as error:
            if error.code == "not_found":
                return View(notice=Notice("not_found"))
            return View(conversation_id=conversation_id, error=error)
        notice = Notice("older_hidden", {"n": SHOWN_MESSAGES}) if page.has_more else None
        return View(_shown(page.items), conversation_id, notice=notice)

    async def send(
        self, person: Person, conversation_id: str, typed: str, options: Options, stop: StopSignal
    ) -> AsyncGenerator[View, None]:
        """One turn with a new message; a new conversation where there is none."""
        text = typed.replace("\r\n", "\n").translate(_UNSEEN)
        before = await self.open(person, conversation_id)
        problem = _problem_of(text)
        if problem is None and before.conversation_id != conversation_id:
            problem = Notice("conversation_gone")
        if problem or before.error:
            yield replace(before, notice=problem, refused_text=typed)
            return
        try:
            target = conversation_id or (await self._client.create_conversation(person, title_of(text))).id
        except GatewayError as error:
            yield replace(before, error=error, refused_text=typed)
            return
        question = Question(person, target, text, options)
        before = replace(before, conversation_id=target)
        async with aclosing(run_turn(self._client, question, before, stop)) as turn:
            async for view in turn:
                if view.refused_text:
                    view = await self._look_again(question, before, view)
                if view.refused_text and not conversation_id:
                    await asyncio.wait({self._discard_later(person, target)}, timeout=2)
                    view = replace(view, conversation_id="")
                yield view

    async def retry(
        self, person: Person, conversation_id: str, options: Options, stop: StopSignal
    ) -> AsyncGenerator[View, None]:
        """The last message anew, in a fork; the old conversation goes only when the new answer is there."""
        before = await self.open(person, conversation_id)
        last = max((i for i, m in enumerate(before.messages) if m.role == "user"), default=None)
        if before.error or last is None:
            yield replace(before, notice=before.notice or Notice("nothing_to_retry"))
            return
        fork_id = ""
        try:
            after = before.messages[last - 1].item_id if last else None
            fork_id = (await self._client.fork_conversation(person, conversation_id, after)).id
            question = Question(person, fork_id, before.messages[last].text, options)
            start = replace(before, messages=before.messages[:last], conversation_id=fork_id)
            async with aclosing(run_turn(self._client, question, start, stop)) as turn:
                async for view in turn:
                    if view.running:
                        yield replace(view, conversation_id=conversation_id)
                    elif stop.leaving or view.error or view.refused_text or not view.messages[-1].text:
                        yield replace(before, error=view.error, notice=Notice("retry_kept_old"))
                    else:
                        fork_id = ""
                        await asyncio.wait({self._discard_later(person, conversation_id)}, timeout=2)
                        yield view
        except GatewayError as error:
            yield replace(before, error=error)
        finally:
            if fork_id:
                self._discard_later(person, fork_id)

    async def delete(self, person: Person, conversation_id: str) -> None:
        """Deletes a conversation; one that is gone already is no error."""
        for attempt in range(BUSY_TRIES):
            try:
                await self._client.delete_conversation(person, conversation_id)
            except GatewayError as error:
                if error.code == "conversation_busy" and attempt < BUSY_TRIES - 1:
                    await asyncio.sleep(BUSY_PAUSE_S)
                    continue
                if error.code != "not_found":
                    raise
            return

    async def _look_again(self, question: Question, before: View, refused: View) -> View:
        """A stop or a broken connection before the first event leaves doubt whether the message was stored."""
        if refused.error is not None and not isinstance(refused.error, ConnectionLost | GatewayUnreachable):
            return refused
        now = await self.open(question.person, question.conversation_id)
        known = {message.item_id for message in before.messages}
        if any(message.role == "user" and message.item_id not in known for message in now.messages):
            return replace(now, error=refused.error, has_kept_text=_ends_with_text(now))
        return refused

    def _discard_later(self, person: Person, conversation_id: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._discard(person, conversation_id))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)
        return task

    async def _discard(self, person: Person, conversation_id: str) -> None:
        try:
            await self.delete(person, conversation_id)
        except GatewayError:
            pass  # it stays in the list, where the person can delete it


def title_of(text: str) -> str:
    """A conversation's title: the first line of its first message, shortened; nothing in it turns the list around."""
    lines = text.translate(_TURNS_AROUND).splitlines()
    line = " ".join(next((line for line in lines if line.strip()), "").split())
    return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 1].rstrip() + "…"


def _problem_of(text: str) -> Notice | None:
    if not text.strip():
        return Notice("empty_message")
    if len(text) > LARGEST_MESSAGE_CHARS:
        return Notice("message_too_long", {"n": len(text), "limit": LARGEST_MESSAGE_CHARS})
    return None


def _ends_with_text(view: View) -> bool:
    return bool(view.messages) and view.messages[-1].role == "assistant" and bool(view.messages[-1].text)


def _shown(items: tuple[wire.Item, ...]) -> tuple[Shown, ...]:
    marks = {"completed": "", "in_progress": "mark_in_progress"}
    return tuple(
        Shown(
            item.role,
            item.text,
            marks.get(item.status, "mark_incomplete") if item.role == "assistant" else "",
            item.id,
        )
        for item in items
        if item.role in {"user", "assistant"}
    )
