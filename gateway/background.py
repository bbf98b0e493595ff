"""Answers that run on without their callers, and can be watched by anybody who may, from any event on.

What happens in an answer is kept as a short log (gateway/answer_log.py) while it runs. When it has ended its log can be
made again from what the store has, so nothing has to stay in memory. gateway/shared_answers.py has those of others.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gateway.answer_log import AnswerLog, Entry
from gateway.errors import ConversationBusy, GatewayError, InvalidRequest
from gateway.plain import PlainForm, texts_of
from gateway.response_turn import ResponseTurn
from gateway.store import StoredResponse
from gateway.upstream import Generation

log = logging.getLogger("gateway.background")
GOODBYE_S = 10.0


class BackgroundAnswer(AnswerLog):
    """One running answer; a sink for its generation."""

    def __init__(self, turn: ResponseTurn) -> None:
        super().__init__(turn.answer_id)
        self.turn = turn
        self.task: asyncio.Task[None] | None = None
        self._began = asyncio.Event()
        self._error: Exception | None = None
        self._generation: Generation | None = None

    @property
    def first_body(self) -> dict[str, Any]:
        """The response as it was when its question had been written."""
        body: dict[str, Any] = self.log[0].values[0]
        return body

    async def began(self) -> None:
        """Waits until the question is on disk. Raises what kept it from getting there."""
        await self._began.wait()
        if not self.log and self._error is not None:
            raise self._error

    async def run(self) -> None:
        """Gets the answer, to whatever end."""
        turn = self.turn
        try:
            async with turn.open(self._waits) as generation:
                self._generation = generation
                self.place = 0
                self._add("in_progress", turn.body)
                if turn.earlier:
                    self._add("delta", turn.earlier["text"], turn.earlier.get("logprobs", ()))
                await generation.relay(self)
        except GatewayError as error:
            self._error = error
        except asyncio.CancelledError:
            if not turn.is_cancelled:
                raise
        except Exception as error:
            log.exception("a background answer failed")
            self._error = error
        finally:
            self._end()

    def cancel(self) -> None:
        """Ends it soon, unless it is ending anyway."""
        is_open = self.turn.body["status"] in ("queued", "in_progress")
        if self.task is not None and is_open and not self.turn.is_cancelled:
            self.turn.is_cancelled = True
            self.task.cancel()  # once: a second time would end the writing of the end

    # --- what the generation hands on

    def take(self, payloads: list[bytes]) -> None:
        assert self._generation is not None
        for payload in payloads:
            chunk = self._generation.decode(payload)
            if text := self.turn.take(chunk):
                self.log.append(Entry("delta", (text, chunk.logprobs)))

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        texts = texts_of(pieces)
        if texts is None:
            self.take(form.payloads(pieces))
            return
        self.turn.take_texts([text for text in texts if text])
        self.log.extend(Entry("delta", (text,)) for text in texts if text)

    def pass_on(self, piece: bytes, form: PlainForm) -> None:
        self.take_plain([piece], form)
        self._tell()

    def flush(self) -> None:
        self._tell()

    # ---

    async def _waits(self, place: int) -> None:
        if not self.log:
            self._add("created", self.turn.body)
            self._add("queued", self.turn.body)
            self._began.set()
        self.place = place
        self._tell()

    def _add(self, kind: str, *values: Any) -> None:
        self.log.append(Entry(kind, values))
        self._tell()

    def _end(self) -> None:
        turn = self.turn
        if self.log:
            if turn.body["status"] == "failed" and self._error is not None:
                self._add("failed", turn.body)
            else:
                self._add("closing", turn.body, turn.answers())
        self.place = 0
        self.is_over = True
        turn.meter.observed.ran_on(turn.body["status"])
        self._began.set()
        self._tell()


class BackgroundAnswers:
    """All that run now, by the id of their response."""

    def __init__(self) -> None:
        self._running: dict[str, BackgroundAnswer] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def start(self, turn: ResponseTurn) -> BackgroundAnswer:
        """Starts an answer; returns when its question is on disk.

        Raises like ResponseTurn.open until then, and ConversationBusy when the same response runs already.
        """
        answer = BackgroundAnswer(turn)
        response_id = turn.body["id"]
        if (other := self._running.get(response_id)) is not None and not other.is_over:  # it goes on already
            raise ConversationBusy("This response is still being written. Wait for it, or stop it.", retry_after_s=1)
        self._running[response_id] = answer
        answer.task = asyncio.create_task(answer.run(), name=f"background {response_id}")
        answer.task.add_done_callback(lambda task: self._forget(answer, task))
        try:
            await answer.began()
        except asyncio.CancelledError:  # its caller left before anything was promised
            answer.task.cancel()
            raise
        return answer

    def find(self, owner: str, response_id: str) -> BackgroundAnswer | None:
        """The running answer of that owner; None when it does not run here (any more)."""
        answer = self.running(response_id)
        return answer if answer is not None and answer.turn.owner == owner else None

    def running(self, response_id: str) -> BackgroundAnswer | None:
        """The running answer, whoever asks: for other gateways, which have asked who it is."""
        return self._running.get(response_id)

    async def cancel(self, owner: str, stored: StoredResponse) -> None:
        """Ends it, when it runs here, and waits until that is written.

        Raises:
            InvalidRequest: it is no background response.
        """
        answer = self.find(owner, stored.id)
        if answer is None or answer.task is None:
            if stored.body.get("background"):
                return
            raise InvalidRequest(
                "Only a response that was created with 'background': true can be cancelled; the others end when their "
                "connection is closed.",
                param="response_id",
            )
        answer.cancel()
        await asyncio.wait({answer.task}, timeout=GOODBYE_S)

    def _forget(self, answer: BackgroundAnswer, task: asyncio.Task[None]) -> None:
        response_id = answer.turn.body["id"]
        if self._running.get(response_id) is answer:
            del self._running[response_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background answer ended with %r", error)
