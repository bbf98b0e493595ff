"""Deleting with ten seconds to think again.

A conversation that is to be deleted gets a mark in its metadata at once, and is in no list from then on; ten seconds
later it is deleted. The mark is kept by the gateway, so nothing depends on this process or on the page: when the page
is closed the deletion goes on; when the UI is stopped in order it deletes at once; when it was killed, or another one
of several UIs is asked, whoever next lists the person's conversations deletes what is overdue.

What a person sees as kept is kept: a message that came after the mark (from another tab) takes the mark away, and the
conversation is back in the list. The mark therefore has the last message of the time in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from webui import wire
from webui.client import GatewayClient
from webui.errors import GatewayError
from webui.identity import Person

UNDO_S = 10.0
_MARK = "deleted"
_BUSY_TRIES, _BUSY_PAUSE_S = 120, 0.5  # an answer that runs on in spite of a stop is waited for, for a minute
_LOOKED_AT = 20  # the newest messages: one of them is the person's last


Stop = Callable[[Person, str], Awaitable[object]]
"""Ends the answer that runs in a conversation."""


class Deletions:
    """Conversations that wait for their deletion; `close` deletes them without waiting any longer.

    An answer that runs there goes on, for it may be had back, until the time has come.
    """

    def __init__(
        self,
        client: GatewayClient,
        stop: Stop | None = None,
        *,
        undo_s: float = UNDO_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._stop = stop
        self._undo_s = undo_s
        self._clock = clock
        self._waiting: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    async def mark(self, person: Person, conversation_id: str) -> None:
        """From now on it is in no list; in ten seconds it is gone. Raises GatewayError."""
        conversation = await self._client.conversation(person, conversation_id)
        due = int(self._clock() + self._undo_s)
        mark = f"{due}:{await self._last_message(person, conversation_id)}"
        await self._client.set_metadata(person, conversation_id, {**conversation.metadata, _MARK: mark})
        self._start(person, conversation_id, self._undo_s)

    async def undo(self, person: Person, conversation_id: str) -> None:
        """It is in the list again. Raises GatewayError, `not_found` when it was too late."""
        if task := self._waiting.pop((person.id, conversation_id), None):
            task.cancel()  # first: what it may still have asked for is then told by `not_found`
        await self._unmark(person, conversation_id)

    def see(self, person: Person, conversation: wire.Conversation) -> None:
        """A marked conversation was met in a list: if nobody here waits for its time, somebody does from now on."""
        due = _due_of(conversation.metadata[_MARK])
        if (person.id, conversation.id) not in self._waiting:
            self._start(person, conversation.id, min(self._undo_s, max(0.0, due - self._clock())))

    async def close(self) -> None:
        """Deletes what waits, at once: whoever deleted it does not see it again."""
        self._hurry.set()
        if self._waiting:
            await asyncio.wait(self._waiting.values(), timeout=5)

    def _start(self, person: Person, conversation_id: str, delay_s: float) -> None:
        key = (person.id, conversation_id)
        if earlier := self._waiting.pop(key, None):
            earlier.cancel()
        task = self._waiting[key] = asyncio.create_task(self._delete_later(person, conversation_id, delay_s))
        task.add_done_callback(lambda ended: self._waiting.get(key) is ended and self._waiting.pop(key))

    async def _delete_later(self, person: Person, conversation_id: str, delay_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), delay_s)
        # A gateway that is away leaves the mark: the next look at the list begins again from there.
        with suppress(GatewayError):
            for _ in range(_BUSY_TRIES):
                if await self._is_gone_or_kept(person, conversation_id):
                    return
                await asyncio.sleep(_BUSY_PAUSE_S)

    async def _is_gone_or_kept(self, person: Person, conversation_id: str) -> bool:
        """Deletes what is still marked and has had no message since; False while an answer runs there."""
        mark = (await self._client.conversation(person, conversation_id)).metadata.get(_MARK)
        if mark is None:
            return True
        if await self._last_message(person, conversation_id) != mark.partition(":")[2]:
            await self._unmark(person, conversation_id)
            return True
        try:
            await self._client.delete_conversation(person, conversation_id)
        except GatewayError as error:
            if error.code == "conversation_busy":
                if self._stop is not None:
                    await self._stop(person, conversation_id)
                return False
            raise
        return True

    async def _unmark(self, person: Person, conversation_id: str) -> None:
        metadata = dict((await self._client.conversation(person, conversation_id)).metadata)
        if metadata.pop(_MARK, None) is not None:
            await self._client.set_metadata(person, conversation_id, metadata)

    async def _last_message(self, person: Person, conversation_id: str) -> str:
        """The id of the person's last message, "" without one. Answers do not count: they end by themselves."""
        items = (await self._client.items(person, conversation_id, limit=_LOOKED_AT)).items
        return next((item.id for item in reversed(items) if item.role == "user"), "")


def is_marked(conversation: wire.Conversation) -> bool:
    """Whether it is to be deleted."""
    return _MARK in conversation.metadata


def _due_of(mark: str) -> float:
    due = mark.partition(":")[0]
    return float(due) if due.isascii() and due.isdigit() else 0.0
