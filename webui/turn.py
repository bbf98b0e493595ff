"""One turn: a message goes to the gateway and its answer comes, received by a task of its own.

Pages only look on, any number of them; whoever leaves changes nothing. When the connection breaks the answer runs on in
the gateway, and is gone on with from the last event that came: no word is lost, none comes twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from webui import wire
from webui.client import GatewayClient, Stream
from webui.errors import ConnectionLost, GatewayError, GatewayUnreachable, KeyMissing
from webui.identity import Person
from webui.pace import PACE_S, Pace
from webui.view import Shown, View

BUSY_TRIES, BUSY_PAUSE_S = 10, 0.2
GIVE_UP_AFTER_S = 120.0
"""Of an answer that runs but cannot be reached."""
LOOK_AFTER_S = 15.0
"""For a message of which nobody knows whether it was stored."""
STOP_SHOWN_AFTER_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_MAY_COME_BACK = {"history_unavailable", "shutting_down", "internal_error", "http_502", "http_503", "http_504"}
_DRAIN_STEPS = 5


@dataclass(frozen=True)
class Frame:
    """What a running answer looks like at one moment."""

    text: str
    place: int = 0
    is_reconnecting: bool = False


class Turn:
    """One answer, from its question to its end.

    Attributes:
        before: what its page shows above the question.
        question: the message that it answers.
        already: text of the answer that is known before it comes again.
        home: where its page goes back to when nothing was stored: a conversation, or "" for an empty chat; None when
            the conversation was there before.
        is_retry: it takes the place of an answer in `home`, if it comes to something.
        is_stopped: somebody asked to end it.
        is_tidy: it has ended, and what it left is put in order.
    """

    def __init__(
        self,
        client: GatewayClient,
        person: Person,
        conversation_id: str,
        first: Callable[[], Stream],
        *,
        before: View,
        question: Shown | None = None,
        response_id: str = "",
        already: str = "",
        home: str | None = None,
        is_retry: bool = False,
    ) -> None:
        self.person = person
        self.conversation_id = conversation_id
        self.before = before
        self.question = question
        self.home = home
        self.is_retry = is_retry
        self.response_id = response_id
        self.place = 0
        self.is_reconnecting = False
        self.is_stopped = False
        self.is_over = False
        self.finished: wire.Finished | None = None
        self.error: GatewayError | None = None
        self._client = client
        self._first = first
        self._already = already
        self._known = {message.item_id for message in before.messages}
        self._pieces: list[str] = []
        self._last: int | None = None
        self.is_tidy = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._ending = asyncio.Event()

    @property
    def text(self) -> str:
        """What there is of the answer so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        come = self._pieces[0] if self._pieces else ""
        return come if len(come) >= len(self._already) else self._already

    @property
    def is_refused(self) -> bool:
        """It has ended and nothing of it was stored."""
        return self.is_over and not self.response_id

    @property
    def counts_as_answer(self) -> bool:
        """It has ended with text and without an error."""
        return self.is_over and self.error is None and bool(self.text)

    def has(self, message: Shown) -> bool:
        """Whether a stored message is its question or its answer."""
        return bool(self.response_id) and message.response_id == self.response_id

    def start(self) -> asyncio.Task[None]:
        """Begins to receive it."""
        self._task = asyncio.create_task(self._run(), name=f"turn in {self.conversation_id}")
        return self._task

    async def stop(self) -> None:
        """Ends it, and frees the model; it is over when the gateway has said so."""
        self.is_stopped = True
        self._ending.set()
        self._tell()
        for pause_s in itertools.chain((0.0, 0.3, 1.0, 2.0), itertools.repeat(_LONGEST_PAUSE_S)):
            await asyncio.sleep(pause_s)
            if self.is_over:
                return
            if not self.response_id:
                await self._stop_unstarted()
            else:
                try:
                    await self._client.cancel(self.person, self.response_id)
                    return
                except GatewayError:
                    continue  # a gateway that is away is told when it is back

    def let_go(self) -> asyncio.Task[None] | None:
        """Receives no more of it; it runs on. Returns what is ending by that."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """How it looks, about ten times a second where something changes, until it has ended or was stopped."""
        pace, last = Pace(len(self.text)), None
        while not self._ending.is_set():
            text = self.text
            frame = Frame(text[: pace.step(len(text))], self.place, self.is_reconnecting)
            if frame == last:
                await self._news.wait()
                continue
            last = frame
            yield frame
            await _unless(self._ending, PACE_S)
        if self.is_stopped:
            await self._over_within(STOP_SHOWN_AFTER_S)
            return
        for _ in range(_DRAIN_STEPS):
            shown = pace.step(len(self.text))
            if len(self.text) == shown:
                return
            yield Frame(self.text[:shown])
            await asyncio.sleep(PACE_S)

    async def _run(self) -> None:
        try:
            await self._receive()
        except GatewayError as error:
            self.error = error
        except asyncio.CancelledError:
            if not self.is_stopped:
                raise
            await self._stop_what_was_stored()
        finally:
            self.is_over = True
            self._ending.set()
            self._tell()

    async def _receive(self) -> None:
        opening, pause_s, lost_at = self._first, _FIRST_PAUSE_S, None
        loop = asyncio.get_running_loop()
        for attempt in itertools.count():
            before = self._last
            try:
                await self._take_all(opening)
                return
            except GatewayError as error:
                if error.code == "conversation_busy" and not self.response_id and attempt < BUSY_TRIES:
                    await asyncio.sleep(BUSY_PAUSE_S)  # after a stop the gateway writes down what was generated
                    continue
                if not self.response_id:
                    await self._find(error)
                elif not _may_come_back(error):
                    raise
                if self._last != before:
                    pause_s, lost_at = _FIRST_PAUSE_S, None
                lost_at = lost_at or loop.time()
                if loop.time() - lost_at > GIVE_UP_AFTER_S:
                    raise
            opening = self._again
            self.is_reconnecting = True
            self._tell()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _take_all(self, opening: Callable[[], Stream]) -> None:
        async with opening() as events:
            async for told in events:
                self._take(told)
                if isinstance(told.event, wire.Broken):
                    raise ConnectionLost(f"the gateway ended the stream: {told.event.code}")

    def _again(self) -> Stream:
        return self._client.watch(self.person, self.response_id, self._last)

    def _take(self, told: wire.Told) -> None:
        self.is_reconnecting = False
        if told.number is not None:
            self._last = told.number
        match told.event:
            case wire.Started(response_id):
                self.response_id = response_id
            case wire.Queued(place):
                self.place = place
            case wire.Running():
                self.place = 0
            case wire.Delta(text):
                self.place = 0
                self._pieces.append(text)
            case wire.Finished(text):
                self.finished = told.event
                self._pieces = [text]
            case wire.Failed(code, message):
                self.error = GatewayError(code, message)
        self._tell()

    async def _find(self, error: GatewayError) -> None:
        """Looks for the question in the store, when nobody knows whether it got there; raises `error` otherwise."""
        if not isinstance(error, ConnectionLost) and not (isinstance(error, GatewayUnreachable) and error.was_sent):
            raise error
        deadline = asyncio.get_running_loop().time() + LOOK_AFTER_S
        while True:
            try:
                page = await self._client.items(self.person, self.conversation_id, limit=4)
            except (GatewayUnreachable, KeyMissing):
                if asyncio.get_running_loop().time() > deadline or self.is_stopped:
                    raise error from None
                await asyncio.sleep(0.5)
                continue
            asked = [item for item in page.items if item.role == "user" and item.id not in self._known]
            if not asked or not asked[-1].response_id:
                raise error
            self.response_id = asked[-1].response_id
            return

    async def _stop_unstarted(self) -> None:
        """Before the gateway has promised anything, leaving is enough; whether it had is looked up."""
        await asyncio.sleep(STOP_SHOWN_AFTER_S / 2)
        if self.response_id or self._task is None or self._task.done():
            return
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _stop_what_was_stored(self) -> None:
        try:
            await self._find(ConnectionLost("stopped"))
            await self._client.cancel(self.person, self.response_id)
        except GatewayError:
            pass  # nothing was stored, or the gateway is away: it ends what nobody asked to keep

    async def _over_within(self, seconds: float) -> None:
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=seconds)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _may_come_back(error: GatewayError) -> bool:
    return isinstance(error, ConnectionLost | GatewayUnreachable | KeyMissing) or error.code in _MAY_COME_BACK


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Waits, but not when the event comes first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
