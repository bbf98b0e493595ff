"""Background answers of other gateways, watched and cancelled here; and those of this one, told to the others.

Who watches an answer that another gateway writes begins with what the database has of it, and asks the writer, through
Redis, to be told what happens from there on (gateway/redis_inbox.py). When nothing is heard for two seconds, because
Redis is away or the writer has died, the database is looked at again: it has each answer as it was two seconds ago, and
its end. So nobody waits for ever, and Redis only makes it live. An answer that nobody watches elsewhere costs nothing.
Cancelling goes over the database's notices, which all gateways hear, with Redis or without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.answer_log import AnswerLog, Entry, entries_of
from gateway.background import GOODBYE_S, BackgroundAnswer, BackgroundAnswers
from gateway.database import Database
from gateway.errors import ConversationBusy, GatewayError, NotFound, ShuttingDown
from gateway.open_turns import OpenTurns
from gateway.store import Item, Store, StoredResponse

if TYPE_CHECKING:
    from gateway.redis_inbox import Inbox

log = logging.getLogger("gateway.background")
GATHER_S = 0.03
"""What happens in an answer within so short a time is told to other gateways together."""
LOOK_S = 2.0
"""After so long a silence the database is looked at."""
_GIVE_UP_S = 30.0
_ASK_AGAIN_S = 1.0
_POLL_S = 0.05
_CANCEL = "cancel "
_ENDS = ("closing", "failed", "go_on_behind")


class DistantAnswer(AnswerLog):
    """What is known here of an answer that another gateway writes.

    Args:
        start: begins to follow it; called when somebody watches.
    """

    def __init__(
        self, owner: str, stored: StoredResponse, start: Callable[[DistantAnswer], asyncio.Task[None]]
    ) -> None:
        super().__init__(stored.output[0].id if stored.output else "")
        self.id, self.owner, self.holder = stored.id, owner, stored.holder
        self.heard_at = time.monotonic()
        self._start = start
        self._following: asyncio.Task[None] | None = None
        self._watchers = 0
        self.take_stored(stored)

    async def events(self, starting_after: int) -> AsyncGenerator[bytes]:
        self._watchers += 1
        try:
            if not self.is_over and (self._following is None or self._following.done()):
                self._following = self._start(self)
            async for events in super().events(starting_after):
                yield events
        finally:
            self._watchers -= 1
            if not self._watchers and self._following is not None:
                self._following.cancel()

    def take_stored(self, stored: StoredResponse) -> None:
        """What the database has. A crash may have left less there than was told before."""
        if stored.is_open and stored.holder != self.holder:
            self.lose(ConversationBusy("Another gateway goes on with this response. Watch it again.", retry_after_s=1))
            return
        self.heard_at = time.monotonic()
        entries = entries_of(stored)
        pieces = [entry for entry in entries if entry.kind not in _ENDS]
        self._add([*pieces[len(self.log) :], *(entry for entry in entries if entry.kind in _ENDS)])

    def take_news(self, first: int, place: int, entries: Sequence[Entry]) -> bool:
        """What its writer says: the entries from number `first` on. False when some before them are missing."""
        if first > len(self.log):
            return False
        self.heard_at = time.monotonic()
        self.place = place
        self._add(entries[len(self.log) - first :])
        return True

    def lose(self, error: GatewayError) -> None:
        """It cannot be followed any further."""
        self.lost, self.is_over = error, True
        self._tell()

    def _add(self, entries: Sequence[Entry]) -> None:
        if self.is_over:
            return
        self.log.extend(entries)
        self.is_over = any(entry.kind in _ENDS for entry in entries)
        self._tell()


class SharedAnswers:
    """Both sides of it, for one gateway.

    Args:
        open_turns: ends what is watched here when the gateway stops.
        inbox: None without Redis: then what happens elsewhere is seen every two seconds.
    """

    def __init__(
        self,
        background: BackgroundAnswers,
        database: Database,
        store: Store,
        open_turns: OpenTurns,
        inbox: Inbox | None = None,
    ) -> None:
        self._background = background
        self._open_turns = open_turns
        self._database = database
        self._store = store
        self._inbox = inbox
        self._watched: dict[str, DistantAnswer] = {}
        self._telling: dict[tuple[str, str], asyncio.Task[None]] = {}
        if inbox is not None:
            inbox.on("watch", self._is_watched)
            inbox.on("unwatch", lambda fields: self._stop_telling(fields["response"], fields["gateway"]))
            inbox.on("news", self._hear)
            inbox.on("ended", self._has_ended)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hears what other gateways want while the context is open."""
        loop = asyncio.get_running_loop()

        def heard(text: str) -> None:  # on a thread of the database's
            with contextlib.suppress(RuntimeError):  # the loop is closed: the answers have ended
                loop.call_soon_threadsafe(self._is_said, text)

        self._database.listen(heard)
        try:
            yield
        finally:
            if tasks := set(self._telling.values()):  # all answers have ended: their ends are on the way
                await asyncio.wait(tasks, timeout=1)

    def watch(self, owner: str, stored: StoredResponse) -> AnswerLog:
        """An open background answer that does not run here. Raises ShuttingDown, NotFound when nothing can be shown."""
        self._open_turns.require_open()
        known = self._watched.get(stored.id)
        if known is not None and known.owner == owner and known.holder == stored.holder:
            return known
        return DistantAnswer(owner, stored, self._start)

    async def cancel(self, owner: str, stored: StoredResponse) -> StoredResponse:
        """Has the gateway that writes it end it; returns the response as it has ended.

        Raises:
            ConversationBusy: it did not end in time.
        """
        until, asked_at = time.monotonic() + GOODBYE_S, float("-inf")
        wish = _CANCEL + stored.id
        while stored.is_open:
            if time.monotonic() > until:
                raise ConversationBusy(
                    "The gateway that writes this response does not react. If it has died, the response is closed "
                    "within half a minute; try again then.",
                    retry_after_s=10,
                )
            if time.monotonic() - asked_at > _ASK_AGAIN_S:
                await self._database.write(lambda db: self._database.say(db, wish))
                asked_at = time.monotonic()
            await asyncio.sleep(_POLL_S)
            stored = await self._store.response(owner, stored.id)
        return stored

    # --- what happens elsewhere

    def _start(self, answer: DistantAnswer) -> asyncio.Task[None]:
        self._watched[answer.id] = answer
        task = asyncio.create_task(self._follow(answer), name=f"watch {answer.id}")
        task.add_done_callback(lambda task: self._forget(answer, task))
        return task

    async def _follow(self, answer: DistantAnswer) -> None:
        try:
            async with self._open_turns.running():
                self._say_to_writer("watch", answer, seen=len(answer.log))
                while not answer.is_over:
                    try:
                        async with asyncio.timeout(LOOK_S):
                            await answer.news(len(answer.log), answer.place)
                    except TimeoutError:
                        await self._look(answer)
                        self._say_to_writer("watch", answer, seen=len(answer.log))
        except ShuttingDown:
            stopping = "This server is being stopped; the answer goes on at another one. Watch it again from there."
            answer.lose(ShuttingDown(stopping, retry_after_s=1))

    async def _look(self, answer: DistantAnswer) -> None:
        try:
            answer.take_stored(await self._store.response(answer.owner, answer.id))
        except NotFound as deleted:
            answer.lose(deleted)
        except GatewayError as error:
            if time.monotonic() - answer.heard_at > _GIVE_UP_S:
                answer.lose(error)

    def _forget(self, answer: DistantAnswer, task: asyncio.Task[None]) -> None:
        if self._watched.get(answer.id) is answer:
            del self._watched[answer.id]
        if not answer.is_over:
            self._say_to_writer("unwatch", answer)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("watching an answer of another gateway failed", exc_info=error)
            answer.lose(GatewayError("The answer cannot be followed here. Ask again."))

    def _say_to_writer(self, kind: str, answer: DistantAnswer, **fields: int) -> None:
        if self._inbox is not None and answer.holder is not None:
            self._inbox.post(answer.holder, kind, response=answer.id, gateway=self._inbox.gateway, **fields)

    def _hear(self, fields: Mapping[str, str]) -> None:
        answer = self._watched.get(fields["response"])
        if answer is None or answer.holder != fields["gateway"]:
            return
        if not answer.take_news(int(fields["first"]), int(fields["place"]), _decoded(fields["entries"])):
            self._say_to_writer("watch", answer, seen=len(answer.log))

    def _has_ended(self, fields: Mapping[str, str]) -> None:
        if (answer := self._watched.get(fields["response"])) is not None:
            looking = asyncio.create_task(self._look(answer))
            self._telling[(answer.id, "")] = looking
            looking.add_done_callback(lambda _: self._telling.pop((answer.id, ""), None))

    # --- what happens here

    def _is_said(self, text: str) -> None:
        if text.startswith(_CANCEL) and (answer := self._background.running(text.removeprefix(_CANCEL))) is not None:
            answer.cancel()

    def _is_watched(self, fields: Mapping[str, str]) -> None:
        response, gateway = fields["response"], fields["gateway"]
        self._stop_telling(response, gateway)
        answer = self._background.running(response)
        if answer is None:
            assert self._inbox is not None
            self._inbox.post(gateway, "ended", response=response)
            return
        telling = asyncio.create_task(self._tell(answer, response, gateway, int(fields["seen"])))
        self._telling[(response, gateway)] = telling
        telling.add_done_callback(lambda task: self._told(task, response, gateway))

    def _stop_telling(self, response: str, gateway: str) -> None:
        if (telling := self._telling.pop((response, gateway), None)) is not None:
            telling.cancel()

    async def _tell(self, answer: BackgroundAnswer, response: str, gateway: str, seen: int) -> None:
        """Until its end, or until nobody reads it; Away ends it too, and who watches asks again."""
        assert self._inbox is not None
        own = self._inbox.gateway
        news: dict[str, str | int]
        while True:
            entries, place = answer.log[seen:], answer.place
            news = {"first": seen, "place": place, "entries": _encoded(entries)}
            if not await self._inbox.tell(gateway, "news", response=response, gateway=own, **news):
                return
            seen += len(entries)
            if answer.is_over and seen == len(answer.log):
                return
            await answer.news(seen, place)
            await asyncio.sleep(GATHER_S)

    def _told(self, task: asyncio.Task[None], response: str, gateway: str) -> None:
        if self._telling.get((response, gateway)) is task:
            del self._telling[(response, gateway)]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("an answer is not told to another gateway any more: %r", error)


def _encoded(entries: Sequence[Entry]) -> str:
    return msgspec.json.encode([(entry.kind, entry.values) for entry in entries]).decode()


def _decoded(text: str) -> list[Entry]:
    return [Entry(kind, _values(kind, values)) for kind, values in msgspec.json.decode(text)]


def _values(kind: str, values: list[Any]) -> tuple[Any, ...]:
    if kind == "closing":
        body, answers = values
        return body, msgspec.convert(answers, list[Item])
    return tuple(values)
