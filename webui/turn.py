"""One turn: a message goes to the gateway, its answer is shown about ten times a second until it ends or is stopped.

Events are received by a task of their own, so a stop is heard at once and text that came in a burst is shown even when
nothing follows it. Ending that task closes the stream; the gateway then keeps what was generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from webui import wire
from webui.client import GatewayClient, Options
from webui.errors import GatewayError
from webui.identity import Person
from webui.view import Notice, Shown, View

PACE_S = 0.1
BUSY_TRIES, BUSY_PAUSE_S = 10, 0.2


class StopSignal(asyncio.Event):
    """Set to stop a turn; `leaving` when the page goes elsewhere, so that what comes is of no use any more."""

    leaving = False


class Answer:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.text = ""
        self.started = False
        self.finished: wire.Finished | None = None
        self.error: GatewayError | None = None

    def take(self, event: wire.ResponseEvent) -> None:
        """Adds one event."""
        match event:
            case wire.Started():
                self.started = True
            case wire.Delta(text):
                self.started = True
                self.text += text
            case wire.Finished():
                self.finished = event
            case wire.Failed(code, message):
                self.error = GatewayError(code, message)

    @property
    def mark(self) -> str:
        """How the answer ended, where that is not simply its end."""
        match self.finished:
            case None:
                return "mark_failed" if self.error else "mark_stopped"
            case wire.Finished(status="completed"):
                return ""
            case wire.Finished(reason="max_output_tokens"):
                return "mark_length"
        return "mark_incomplete"  # the server was stopped, for one


@dataclass(frozen=True)
class Question:
    """A message on its way: whose, where to, what, and how it is to be answered."""

    person: Person
    conversation_id: str
    text: str
    options: Options


async def run_turn(
    client: GatewayClient, question: Question, before: View, stop: StopSignal
) -> AsyncGenerator[View, None]:
    """Views of a running turn, then one that says how it ended; that one never comes when the page has left."""
    asked = (*before.messages, Shown("user", question.text))
    running = replace(before, messages=asked, running=True, notice=None, error=None)
    yield running
    answer = Answer()
    receiving = asyncio.create_task(_receive(client, question, answer))
    stopping = asyncio.create_task(stop.wait())
    try:
        shown = ""
        while True:
            await asyncio.wait({receiving, stopping}, timeout=PACE_S, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done() or stopping.done():
                break
            if answer.text != shown:
                shown = answer.text
                yield replace(running, messages=(*asked, Shown("assistant", shown)))
    finally:
        receiving.cancel()
        stopping.cancel()
        await asyncio.wait({receiving, stopping})
    yield _closing_view(before, asked, answer)


async def _receive(client: GatewayClient, question: Question, answer: Answer) -> None:
    for attempt in range(BUSY_TRIES):
        try:
            asked = client.respond(question.person, question.conversation_id, question.text, question.options)
            async with asked as events:
                async for event in events:
                    answer.take(event)
        except GatewayError as error:
            # After a stop the gateway needs a moment to write down what was generated.
            if error.code == "conversation_busy" and attempt < BUSY_TRIES - 1:
                await asyncio.sleep(BUSY_PAUSE_S)
                continue
            answer.error = error
        return


def _closing_view(before: View, asked: tuple[Shown, ...], answer: Answer) -> View:
    if not answer.started and answer.finished is None:
        return replace(before, error=answer.error, refused_text=asked[-1].text)
    left_out = answer.finished.truncated_items if answer.finished else 0
    return View(
        messages=(*asked, Shown("assistant", answer.text, answer.mark)),
        conversation_id=before.conversation_id,
        notice=Notice("truncated", {"n": left_out}) if left_out else None,
        error=answer.error,
        has_kept_text=bool(answer.text),
    )
