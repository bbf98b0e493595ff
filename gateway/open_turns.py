"""The turns that are open now: checkpoints of their answers, and an orderly end when the gateway stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from gateway.errors import GatewayError, ShuttingDown
from gateway.store import Item, Store

log = logging.getLogger("gateway.open_turns")
CHECKPOINT_S = 2.0
_STOPPING = "shutting_down"


class OpenAnswer(Protocol):
    """What a checkpoint asks of a turn."""

    is_stored: bool
    body: dict[str, Any]

    def answer(self) -> Item:
        """The answer so far."""

    def has_news(self) -> bool:
        """Whether it has grown since it was last taken."""

    def cuts(self) -> list[int] | None:
        """Where its pieces end, when its events may have to be told again."""


class OpenTurns:
    """The turns that run now: for checkpoints, for what could not be written yet, and for an orderly stop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: set[asyncio.Task[Any]] = set()
        self._responses: set[OpenAnswer] = set()
        self._unwritten: list[tuple[dict[str, Any], Sequence[Item], Sequence[int] | None]] = []
        self._is_draining = False
        self._is_stopping = False

    def __len__(self) -> int:
        return len(self._tasks)

    def require_open(self) -> None:
        """Raises ShuttingDown once the time for open answers is over."""
        if self._is_stopping:
            raise _stopping()

    def require_ready(self) -> None:
        """Raises ShuttingDown once a stop was asked for: what comes now should go to another gateway."""
        if self._is_draining:
            raise _stopping()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Marks the current task as one that a stop waits for and then ends, with ShuttingDown."""
        task = asyncio.current_task()
        assert task is not None
        self.require_open()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError as cancelled:
            if cancelled.args != (_STOPPING,):
                raise
            task.uncancel()
            raise ShuttingDown("The server is being stopped; the answer ends here.", retry_after_s=5) from None
        finally:
            self._tasks.discard(task)

    @asynccontextmanager
    async def checkpointed(self, turn: OpenAnswer) -> AsyncIterator[None]:
        """Has `turn` written by the checkpoints while the context is open."""
        self._responses.add(turn)
        try:
            yield
        finally:
            self._responses.discard(turn)

    def keep_for_later(self, body: dict[str, Any], answers: Sequence[Item], cuts: Sequence[int] | None = None) -> None:
        """An end that could not be written now; the checkpoints try again."""
        self._unwritten.append((body, answers, cuts))

    async def run_checkpoints(self) -> None:
        """Every two seconds writes all open answers, and what could not be written before. Runs until cancelled."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            try:
                await self.checkpoint()
            except GatewayError as error:
                log.warning("checkpoint: %s", error)
            except Exception:  # a bug must not end the checkpoints of all answers to come
                log.exception("checkpoint")

    async def checkpoint(self) -> None:
        """Writes them once. Raises HistoryUnavailable."""
        while self._unwritten:
            body, answers, ends = self._unwritten[0]
            await self._store.finish_turn(body, answers, cuts=ends)
            del self._unwritten[0]
        grown = [turn for turn in self._responses if turn.is_stored and turn.has_news()]
        if grown:
            cuts = {turn.body["id"]: ends for turn in grown if (ends := turn.cuts()) is not None}
            await self._store.checkpoint([turn.answer() for turn in grown], cuts)

    def drain(self) -> None:
        """A stop was asked for; whoever has reached this gateway is still served."""
        self._is_draining = True

    async def stop(self) -> int:
        """Takes no new turns and ends the open ones; what they have is kept. Returns how many there were."""
        self._is_stopping = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel(_STOPPING)
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        return len(tasks)


def _stopping() -> ShuttingDown:
    return ShuttingDown("The server is being stopped. Try again when it is back.", retry_after_s=5)
