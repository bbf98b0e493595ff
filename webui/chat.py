"""One person's chat, without a page: send, retry, edit, go on, watch, open, rate. Nothing here knows Gradio or HTTP.

History comes from the gateway at each turn and never from the browser: a page that was open for days shows what is
stored, and no browser sends its whole history up for one more message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from webui import wire
from webui.client import GatewayClient, Options
from webui.errors import GatewayError
from webui.identity import Person
from webui.shown import cut_answer, outcome, shown_items
from webui.turn import BUSY_PAUSE_S, BUSY_TRIES, Frame, Turn
from webui.turns import Turns
from webui.view import Notice, Shown, View

SHOWN_MESSAGES = 40
MOST_SHOWN = 400
LARGEST_MESSAGE_CHARS = 100_000
EARLIER = "earlier"
"""The key of a conversation's metadata that holds the one that it is a changed copy of."""
Pick = Callable[[Sequence[Shown]], Shown | None]
"""Finds the message that a person means among those of a page."""
_TITLE_CHARS = 60
_PAGE = 100
_TURNS_AROUND = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # bidirectional overrides, isolates
_UNSEEN = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Chat:
    """The operations of the page, for any person."""

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self.turns = Turns()

    async def close(self) -> None:
        """Lets go of running answers, and waits for deletions that were begun."""
        await self.turns.close()

    async def open(self, person: Person, conversation_id: str, reach: int = SHOWN_MESSAGES) -> View:
        """A stored conversation, and what runs in it; an empty chat when it is gone."""
        if not conversation_id:
            return View(reach=SHOWN_MESSAGES)
        reach = min(max(reach, SHOWN_MESSAGES), MOST_SHOWN)
        try:
            page, conversation = await asyncio.gather(
                self._items(person, conversation_id, reach), self._client.conversation(person, conversation_id)
            )
        except GatewayError as error:
            if error.code == "not_found":
                return View(notice=Notice("not_found"), reach=SHOWN_MESSAGES)
            return View(conversation_id=conversation_id, error=error, reach=reach)
        view = View(
            shown_items(page.items),
            conversation_id,
            has_older=page.has_more,
            reach=reach,
            earlier_id=conversation.metadata.get(EARLIER, ""),
        )
        return self._with_what_runs(person, view, page.items)

    async def send(self, person: Person, conversation_id: str, typed: str, options: Options) -> View:
        """Begins a turn with a new message, in a new conversation where there is none; `watch` has the rest."""
        text = typed.replace("\r\n", "\n").translate(_UNSEEN)
        before = await self.open(person, conversation_id)
        problem = _problem_of(text)
        if problem is None and before.conversation_id != conversation_id:
            problem = Notice("conversation_gone")
        if problem or before.error or before.running:
            return replace(before, notice=problem, refused_text=typed)
        try:
            target = conversation_id or (await self._client.create_conversation(person, title_of(text))).id
        except GatewayError as error:
            return replace(before, error=error, refused_text=typed)
        return self._ask(
            person, replace(before, conversation_id=target), text, options, home=None if conversation_id else ""
        )

    async def retry(self, person: Person, conversation_id: str, options: Options) -> View:
        """The last message anew, in a fork; the old conversation goes only when the new answer is there."""
        before = await self.open(person, conversation_id)
        last = max((i for i, m in enumerate(before.messages) if m.role == "user"), default=None)
        if before.error or before.running or last is None:
            return replace(before, notice=before.notice or (Notice("nothing_to_retry") if last is None else None))
        return await self._branch(person, before, last, before.messages[last].text, options, is_retry=True)

    async def edit(
        self, person: Person, conversation_id: str, reach: int, pick: Pick, typed: str, options: Options
    ) -> View:
        """A message that was sent before, changed, in a fork; the old conversation stays as it is."""
        text = typed.replace("\r\n", "\n").translate(_UNSEEN)
        before = await self.open(person, conversation_id, reach)
        picked = pick(before.messages)
        place = None if picked is None else before.messages.index(picked)
        problem = _problem_of(text) or (Notice("conversation_changed") if place is None else None)
        if problem or place is None or before.error or before.running:
            return replace(before, notice=problem, refused_text=typed if text.strip() else "")
        return await self._branch(person, before, place, text, options, is_retry=False)

    async def go_on(self, person: Person, conversation_id: str, options: Options) -> View:
        """Lets the last answer go on, which was cut."""
        before = await self.open(person, conversation_id)
        cut = cut_answer(before)
        if cut is None or before.error or before.running:
            return replace(before, notice=before.notice or (Notice("nothing_to_go_on") if cut is None else None))
        question = before.messages[-2] if len(before.messages) > 1 else None
        turn = Turn(
            self._client,
            person,
            conversation_id,
            partial(self._client.go_on, person, cut.response_id, options.max_total_tokens),
            before=_above(before, before.messages[:-2]),
            question=question,
            response_id=cut.response_id,
            already=cut.text,
        )
        return self._begin(turn)

    async def rate(self, person: Person, conversation_id: str, reach: int, pick: Pick, rating: str | None) -> View:
        """Keeps what a person thinks of an answer."""
        view = await self.open(person, conversation_id, reach)
        answer = pick(view.messages)
        if answer is None or not answer.response_id:
            return replace(view, notice=view.notice or Notice("not_rated"))
        try:
            await self._client.rate(person, answer.response_id, rating)
        except GatewayError as error:
            return replace(view, error=error)
        rated = tuple(replace(m, rating=rating or "") if m is answer else m for m in view.messages)
        return replace(view, messages=rated, notice=Notice("rated" if rating else "rating_taken_back"))

    async def stop(self, person: Person, conversation_id: str) -> bool:
        """Ends what runs in a conversation; tells whether anything did."""
        turn = self.turns.running(person, conversation_id)
        if turn is None:
            return False
        self.turns.tidy(turn.stop())
        return True

    async def watch(self, person: Person, conversation_id: str, reach: int) -> AsyncGenerator[View, None]:
        """Views of what runs in a conversation, then one that says how it ended; none when nothing runs."""
        turn = self.turns.find(person, conversation_id)
        if turn is None:
            return
        start = replace(turn.before, running=True)
        if reach > SHOWN_MESSAGES:
            whole = await self.open(person, conversation_id, reach)
            start = replace(whole, messages=tuple(m for m in whole.messages if not turn.has(m) and not m.is_running))
        async with aclosing(turn.frames()) as frames:
            async for frame in frames:
                yield replace(start, messages=(*start.messages, *_running(turn, frame)))
        yield await self._end(person, turn, start)

    async def ended(self, person: Person, conversation_id: str, view: View) -> View:
        """The last view of a turn again, when what the turn left is in order; what it could not know is looked up."""
        turn = self.turns.find(person, conversation_id)
        if turn is None:
            return view
        try:
            async with asyncio.timeout(2):
                await turn.is_tidy.wait()
        except TimeoutError:
            return view
        is_known = view.conversation_id != conversation_id or not view.messages[-1].is_running
        return view if is_known else await self._end(person, turn, turn.before)

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

    async def _items(self, person: Person, conversation_id: str, reach: int) -> wire.ItemPage:
        page = await self._client.items(person, conversation_id, limit=min(reach, _PAGE))
        while page.has_more and len(page.items) < reach:
            limit = min(reach - len(page.items), _PAGE)
            older = await self._client.items(person, conversation_id, limit=limit, after=page.items[0].id)
            page = wire.ItemPage(older.items + page.items, older.has_more)
        return page

    def _with_what_runs(self, person: Person, view: View, items: tuple[wire.Item, ...]) -> View:
        """A view with its running answer, which is found again when nobody here receives it."""
        turn = self.turns.running(person, view.conversation_id)
        last = items[-1] if items else None
        if turn is None and last is not None and last.status == "in_progress" and last.response_id:
            ending = self.turns.find(person, view.conversation_id)
            is_ending = ending is not None and ending.is_stopped and ending.response_id == last.response_id
            turn = None if is_ending else self._found(person, view, last)
        if turn is None:
            return view
        above = tuple(message for message in view.messages if not turn.has(message))
        running = _running(turn, Frame(turn.text, turn.place, turn.is_reconnecting))
        return replace(view, messages=(*above, *running), running=True)

    def _found(self, person: Person, view: View, last: wire.Item) -> Turn:
        of_turn = [message for message in view.messages if message.response_id == last.response_id]
        turn = Turn(
            self._client,
            person,
            view.conversation_id,
            partial(self._client.watch, person, last.response_id, None),
            before=_above(view, tuple(m for m in view.messages if m not in of_turn)),
            question=next((message for message in of_turn if message.role == "user"), None),
            response_id=last.response_id,
            already=last.text,
        )
        return self.turns.start(turn)

    def _ask(
        self,
        person: Person,
        before: View,
        text: str,
        options: Options,
        *,
        home: str | None,
        is_retry: bool = False,
        earlier: str = "",
    ) -> View:
        turn = Turn(
            self._client,
            person,
            before.conversation_id,
            partial(self._client.respond, person, before.conversation_id, text, options),
            before=_above(replace(before, earlier_id=earlier or before.earlier_id), before.messages),
            question=Shown("user", text),
            home=home,
            is_retry=is_retry,
        )
        return self._begin(turn)

    def _begin(self, turn: Turn) -> View:
        self.turns.start(turn, self._tidy_up)
        return replace(turn.before, messages=(*turn.before.messages, *_running(turn, Frame(turn.text))), running=True)

    async def _branch(
        self, person: Person, before: View, place: int, text: str, options: Options, *, is_retry: bool
    ) -> View:
        """Asks `text` in a fork that ends above the message at `place`."""
        old = before.conversation_id
        try:
            fork = await self._client.fork_conversation(
                person, old, before.messages[place - 1].item_id if place else None
            )
            if not is_retry:
                title = title_of(text) if not place and not before.has_older else fork.title
                await self._client.set_metadata(person, fork.id, {**fork.metadata, "title": title, EARLIER: old})
        except GatewayError as error:
            return replace(before, error=error, refused_text="" if is_retry else text)
        start = replace(before, conversation_id=fork.id, messages=before.messages[:place])
        earlier = "" if is_retry else old
        return self._ask(person, start, text, options, home=old, is_retry=is_retry, earlier=earlier)

    async def _tidy_up(self, turn: Turn) -> None:
        """A conversation that was made for an answer that never came goes; so does what a retry has replaced."""
        if turn.home is None:
            return
        if turn.is_refused or (turn.is_retry and not turn.counts_as_answer):
            await self.delete(turn.person, turn.conversation_id)
        elif turn.is_retry and turn.home:
            await self.delete(turn.person, turn.home)

    async def _end(self, person: Person, turn: Turn, start: View) -> View:
        """How a turn ended."""
        went_wrong = turn.is_refused or (turn.is_over and turn.is_retry and not turn.counts_as_answer)
        if not went_wrong and turn.error is not None:
            stored = await self.open(person, turn.conversation_id)
            if stored.conversation_id and stored.error is None:
                return replace(stored, error=turn.error, has_kept_text=bool(turn.text))
        if not went_wrong:
            return outcome(turn, start)
        refused = "" if turn.is_retry or turn.question is None else turn.question.text
        if turn.home is None:
            return replace(turn.before, error=turn.error, refused_text=refused)
        back = await self.open(person, turn.home)
        notice = Notice("retry_kept_old") if turn.is_retry else None
        return replace(back, error=turn.error, notice=notice, refused_text=refused)


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


def _above(view: View, messages: tuple[Shown, ...]) -> View:
    """What a page shows above a question and its answer: no more than it has room for."""
    kept = messages[-SHOWN_MESSAGES + 2 :]
    has_older = view.has_older or len(kept) < len(messages)
    return replace(
        view, messages=kept, has_older=has_older, reach=SHOWN_MESSAGES, running=False, notice=None, error=None
    )


def _running(turn: Turn, frame: Frame) -> tuple[Shown, ...]:
    """The question and the answer as it is now."""
    mark = "mark_reconnecting" if frame.is_reconnecting else "mark_queued" if frame.place else ""
    answer = Shown("assistant", frame.text, mark, is_running=True, place=frame.place)
    asked = () if turn.question is None else (turn.question,)
    return (*asked, answer)
