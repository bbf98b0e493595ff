"""The turns that run now, by conversation: any page of their person can look on, and they end when nobody is here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from webui.errors import GatewayError
from webui.identity import Person
from webui.turn import Turn

log = logging.getLogger("webui.turns")
KEPT_S = 5.0
"""So long an ended turn can still be asked how it ended."""


class Turns:
    """All of them; `close` waits for what is being tidied up."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Turn] = {}
        self._tidying: set[asyncio.Task[None]] = set()

    def start(self, turn: Turn, then: Callable[[Turn], Awaitable[None]] | None = None) -> Turn:
        """Begins a turn; `then` tidies up behind it, whoever looks on or not."""
        self._running[turn.person.id, turn.conversation_id] = turn
        turn.start().add_done_callback(lambda task: self._ended(turn, then, was_cancelled=task.cancelled()))
        return turn

    def find(self, person: Person, conversation_id: str) -> Turn | None:
        """The turn that runs, or has just ended, in a conversation of a person's."""
        return self._running.get((person.id, conversation_id))

    def running(self, person: Person, conversation_id: str) -> Turn | None:
        """The turn that runs in a conversation of a person's, and was not told to stop."""
        turn = self.find(person, conversation_id)
        return None if turn is None or turn.is_over or turn.is_stopped else turn

    def stop_all_of(self, person_id: str) -> None:
        """Ends what a person has running: that person is gone."""
        for (owner, _), turn in self._running.items():
            if owner == person_id and not turn.is_over and not turn.is_stopped:
                log.info("an answer is ended: its reader has gone")
                self.tidy(turn.stop())

    def tidy(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Does something that outlives whoever asked for it."""
        task = asyncio.ensure_future(_quietly(work))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)
        return task

    async def close(self) -> None:
        """Lets go of what runs: it runs on in the gateway, and is found there by the next web UI."""
        if tasks := [task for turn in self._running.values() if (task := turn.let_go()) is not None]:
            await asyncio.wait(tasks, timeout=5)
        if self._tidying:
            await asyncio.wait(self._tidying, timeout=5)

    def _ended(self, turn: Turn, then: Callable[[Turn], Awaitable[None]] | None, *, was_cancelled: bool) -> None:
        if then is None or was_cancelled:
            turn.is_tidy.set()
        else:
            self.tidy(then(turn)).add_done_callback(lambda _: turn.is_tidy.set())
        asyncio.get_running_loop().call_later(KEPT_S, self._forget, turn)

    def _forget(self, turn: Turn) -> None:
        place = (turn.person.id, turn.conversation_id)
        if self._running.get(place) is turn:
            del self._running[place]


async def _quietly(work: Awaitable[None]) -> None:
    try:
        await work
    except GatewayError as error:
        log.warning("what a turn left could not be tidied up: %s", error)
