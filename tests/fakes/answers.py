"""Background answers of the scripted gateway: they run on without their callers, and are watched from any event on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Scenario:
    """How the next answers go."""

    words: list[str] = field(default_factory=lambda: ["Hello", ", ", "this ", "is ", "an ", "answer."])
    delay_s: float = 0.0
    first_delay_s: float = 0.0
    error: tuple[int, str, str, dict[str, str]] | None = None  # status, code, message, headers
    fails_after: int | None = None  # words before response.failed
    cut_after: int | None = None  # words before every connection just ends, once; the answer runs on
    dies_after: int | None = None  # words before the answer ends as `interrupted`, and its connections without a word
    places: list[int] = field(default_factory=list)  # in the queue, 0.3 s each
    incomplete: bool = False
    incomplete_reason: str = "max_output_tokens"
    truncated_items: int = 0


class Answer:
    """One answer: its events so far, and what it writes into its stored item."""

    def __init__(self, scenario: Scenario, response: Json, item: Json, ended: Callable[[], None]) -> None:
        self.response = response
        self.item = item
        self.stopped_at: float | None = None
        self.task: asyncio.Task[None] | None = None
        self._scenario = scenario
        self._ended = ended
        self._events: list[bytes] = []
        self._comment = b": keep-alive\n\n"
        self._cuts = 0
        self._begun_at = time.monotonic()
        self._news = asyncio.Event()

    def start(self) -> None:
        """Begins; the first event is there at once."""
        self._begin()
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends it as `cancelled`; returns when that is stored."""
        if self.task is not None and not self.task.done():
            self.stopped_at = time.monotonic()
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def watch(self, after: int) -> AsyncIterator[bytes]:
        """The events after a number, as they come."""
        seen, cuts, told = after + 1, self._cuts, b""
        while True:
            news = self._news
            if told != self._comment:
                told = self._comment
                yield told
            for event in self._events[seen:]:
                seen += 1
                yield event
            if cuts != self._cuts or (self.task is not None and self.task.done() and seen >= len(self._events)):
                return
            if news is self._news and seen >= len(self._events):
                await news.wait()

    async def _run(self) -> None:
        try:
            await self._go()
        except asyncio.CancelledError:
            self._close("cancelled", None)
            raise
        finally:
            self._ended()
            asyncio.get_running_loop().call_soon(self._tell)  # when the task is done

    async def _go(self) -> None:
        scenario = self._scenario
        for place in scenario.places:
            self._comment = b": queued, place %d\n\n" % place
            self._tell()
            await asyncio.sleep(0.3)
        await asyncio.sleep(scenario.first_delay_s)
        self._add("response.in_progress", response=self.response)
        if self._text:
            self._add("response.output_text.delta", delta=self._text)
        for index, word in enumerate(scenario.words):
            if index == scenario.fails_after:
                self.item["status"] = "incomplete"
                self.response |= {"status": "failed", "error": {"code": "upstream_failed", "message": "boom"}}
                self._add("response.failed", response=self.response)
                return
            if index == scenario.cut_after:
                self._cuts += 1
                self._tell()
            if index == scenario.dies_after:
                self._cuts += 1
                self._close("incomplete", "interrupted")
                return
            self._text += word
            self._add("response.output_text.delta", delta=word)
            await asyncio.sleep(scenario.delay_s)
        self._close(*(("incomplete", scenario.incomplete_reason) if scenario.incomplete else ("completed", None)))

    @property
    def _text(self) -> str:
        text: str = self.item["content"][0]["text"]
        return text

    @_text.setter
    def _text(self, text: str) -> None:
        self.item["content"][0]["text"] = text

    def _begin(self) -> None:
        self._add("response.created", response=self.response)
        self._add("response.queued", response=self.response)

    def _close(self, status: str, reason: str | None) -> None:
        self.item["status"] = "completed" if status == "completed" else "incomplete"
        words = len(self._text.split())
        seconds = round(time.monotonic() - self._begun_at, 3)
        self.response |= {
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "truncated_items": self._scenario.truncated_items,
            # Engines count at the end: of what was stopped nobody knows.
            "usage": None
            if status == "cancelled"
            else {"input_tokens": 41, "output_tokens": words, "total_tokens": 41 + words},
            "timing": {"queued_s": 0.0, "first_token_s": 0.12, "answer_s": seconds},
            "output": [self.item],
        }
        kind = "response.completed" if status == "completed" else "response.incomplete"
        self._add(kind, response=self.response)

    def _add(self, kind: str, **fields: Any) -> None:
        body = {"type": kind, "sequence_number": len(self._events), **fields}
        self._events.append(f"event: {kind}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode())
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
