"""What happened in a background answer, as a short log; its events are made from that anew for each who watches.

Created, queued, in progress, pieces of text, the end: the same log gives everybody the same events with the same
numbers. It can be made again from what the store has, while an answer runs and after its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import GatewayError, NotFound
from gateway.response_object import ResponseEvents, body_again
from gateway.sse import render
from gateway.store import Item, StoredResponse


@dataclass(frozen=True)
class Entry:
    """One thing that happened: `kind` is the name of a method of ResponseEvents, `values` are its arguments."""

    kind: str
    values: tuple[Any, ...]


class AnswerLog:
    """A log that grows, and those who watch it.

    Attributes:
        place: in the queue; 0 when it does not wait.
        lost: why it cannot be followed to its end, which may yet come.
    """

    def __init__(self, answer_id: str) -> None:
        self.answer_id = answer_id
        self.log: list[Entry] = []
        self.place = 0
        self.is_over = False
        self.lost: GatewayError | None = None
        self._news = asyncio.Event()

    async def events(self, starting_after: int) -> AsyncGenerator[bytes]:
        """What a watcher gets, from after the event with that number; comments tell a place in the queue."""
        encoder = ResponseEvents(self.answer_id, starting_after)
        seen, told = 0, 0
        while True:
            news = self._news
            events = b"".join(_encoded(encoder, entry) for entry in self.log[seen:])
            seen = len(self.log)
            if self.place and told != (told := self.place):
                events += b": queued, place %d\n\n" % told
            if events:
                yield events
            if self.is_over and seen == len(self.log):
                if self.lost is not None:
                    yield render(msgspec.json.encode(self.lost.body()), event="error")
                return
            if news is self._news:
                await news.wait()

    async def news(self, seen: int, place: int) -> None:
        """Waits until it has more entries than `seen`, another place, or is over."""
        while len(self.log) <= seen and self.place == place and not self.is_over:
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def entries_of(stored: StoredResponse) -> list[Entry]:
    """The log of a stored response, as far as the store has it.

    Raises:
        NotFound: it has no answer that could be shown.
    """
    if not stored.output:
        raise NotFound("This response has no output to stream.", param="response_id")
    body, answer = stored.body, stored.output[0]  # the message; when there is none, a call, which has no text
    is_background, has_ended = bool(body.get("background")), not stored.is_open
    entries = [Entry("created", (body_again(body, "queued" if is_background else "in_progress"),))]
    if is_background:
        entries.append(Entry("queued", (body_again(body, "queued"),)))
    if stored.cuts is not None or not is_background:  # else it never got a slot
        entries.append(Entry("in_progress", (body_again(body, "in_progress"),)))
        entries += [Entry("delta", (piece,)) for piece in _pieces(answer, stored.cuts, is_whole=has_ended)]
    if has_ended:
        if (body["incomplete_details"] or {}).get("reason") == "interrupted":
            entries.append(Entry("go_on_behind", ()))
        entries.append(
            Entry("failed", (body,)) if body["status"] == "failed" else Entry("closing", (body, stored.output))
        )
    return entries


def events_again(stored: StoredResponse, starting_after: int) -> bytes:
    """The events of a stored response that has ended, made from what the store has of it.

    One who has seen later events than there are (the last two seconds before a crash) still gets the closing ones.
    Raises as `entries_of`.
    """
    entries = entries_of(stored)
    encoder = ResponseEvents(stored.output[0].id, starting_after)
    return b"".join(_encoded(encoder, entry) for entry in entries)


def _pieces(answer: Item, cuts: Sequence[int] | None, *, is_whole: bool) -> list[str]:
    """Of an answer that runs only those that are whole: where the next one ends, nobody knows here yet."""
    text = answer.text
    ends = [end for end in cuts or () if end <= len(text)]
    if is_whole and (not ends or ends[-1] < len(text)):
        ends.append(len(text))
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if end > begin]


def _encoded(encoder: ResponseEvents, entry: Entry) -> bytes:
    made: bytes = getattr(encoder, entry.kind)(*entry.values)
    return made
