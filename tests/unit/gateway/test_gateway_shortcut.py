"""The short way of reads that only add text: whatever the wire cuts, callers get the same as on the long way."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import Prompt, tgi
from gateway.plain import PlainForm, text_of
from gateway.sending import JoinedWrites
from gateway.settings import Timeouts
from gateway.upstream import Generation
from gateway.wire import Exchange, unchunked

pytestmark = pytest.mark.unit
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([" a", "", "\n\n", '"', "\\", "data: ", "}", "你好", "\r\n", "5\r\n", "😀"]),
        st.text(max_size=9),
    ),
    min_size=1,
    max_size=12,
)


def event(text: str, created: int, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": reason}
    chunk = {"object": "chat.completion.chunk", "id": "", "created": created, "model": "m", "choices": [choice]}
    return (
        b"data: " + json.dumps({**chunk, "usage": None}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    )


def framed(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)


class Wire:
    """The transport of an exchange that nobody answers but the test."""

    def write(self, data: bytes) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    pause_reading = resume_reading = abort


class Sink:
    """Keeps the texts, and which way they came."""

    def __init__(self, generation: Generation) -> None:
        self.texts: list[str] = []
        self.passed = 0
        self._decode = generation.decode

    def take(self, payloads: list[bytes]) -> None:
        self.texts += [self._decode(payload).text for payload in payloads]

    def take_plain(self, pieces: list[bytes], form: PlainForm) -> None:
        self.take(form.payloads(pieces))

    def pass_on(self, piece: bytes, form: PlainForm) -> Awaitable[None] | None:
        self.passed += 1
        self.take(form.payloads([piece]))
        return None

    def flush(self) -> None:
        pass


async def relayed(reads: list[bytes], *, at_once: int = 1, made: list[weakref.ref[Generation]] | None = None) -> Sink:
    """What becomes of these reads, the last `at_once` of which come before anybody is waked."""
    exchange = Exchange(b"")
    exchange.connection_made(cast("asyncio.Transport", Wire()))
    exchange.data_received(HEAD)

    async def no_count() -> int:
        return 1

    prompt = Prompt(messages=[], max_tokens=1000)
    generation = Generation(exchange, tgi, prompt, model="m", timeouts=Timeouts(), count_prompt=no_count)
    sink = Sink(generation)
    if made is not None:
        made.append(weakref.ref(generation))

    async def answer() -> None:
        with generation:
            await generation.await_first_event()
            await generation.relay(sink)

    relay = asyncio.create_task(answer())
    for read in reads[:-at_once]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        exchange.data_received(read)
    await asyncio.sleep(0)
    for read in reads[-at_once:]:
        exchange.data_received(read)
    await asyncio.wait_for(relay, 5)
    return sink


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.data())
def test_however_the_wire_cuts_an_answer_its_texts_are_the_same(texts: list[str], data: st.DataObject) -> None:
    created = data.draw(st.lists(st.sampled_from([999, 1000]), min_size=len(texts), max_size=len(texts)))
    events = [event(text, at) for text, at in zip(texts, created, strict=True)]
    body = b"".join(events) + event("", 1000, "stop") + b"data: [DONE]\n\n"
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    edges = sorted({0, *places, len(body)}) if data.draw(st.booleans()) else _ends_of([*events, body])
    wire = framed([body[begin:end] for begin, end in pairwise(edges)]) + b"0\r\n\r\n"
    cuts = sorted({0, *data.draw(st.lists(st.integers(0, len(wire)), max_size=8)), len(wire)})
    sink = asyncio.run(relayed([wire[begin:end] for begin, end in pairwise(cuts)]))
    assert "".join(sink.texts) == "".join(texts)


def _ends_of(events: list[bytes]) -> list[int]:
    """Where events end in the body, whose rest is the last chunk."""
    *single, whole = events
    ends, end = [0], 0
    for one in single:
        ends.append(end := end + len(one))
    return [*ends, len(whole)]


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_answer_waits_for_no_garbage_collection(is_cut: bool) -> None:
    """Each way of its events: all in one read, in reads of their own, and behind its end."""
    events = [framed([event(f" {n}", 1000)]) for n in range(4)]
    end = framed([event("", 1000, "stop"), b"data: [DONE]\n\n"]) + b"0\r\n\r\n"
    made: list[weakref.ref[Generation]] = []
    gc.disable()
    try:
        asyncio.run(relayed([*events, end] if is_cut else [b"".join(events) + end], made=made))
        assert made[0]() is None
    finally:
        gc.enable()


def test_nothing_is_handed_on_behind_the_end() -> None:
    events = [framed([event(f" {n}", 1000)]) for n in range(4)]
    end = framed([event("", 1000, "stop"), b"data: [DONE]\n\n"])
    sink = asyncio.run(relayed([*events, end, framed([event(" late", 1000)])], at_once=2))
    assert sink.texts == [*(f" {n}" for n in range(4)), ""]


def test_reads_of_one_event_take_the_short_way() -> None:
    reads = [framed([event(f" {n}", 1000)]) for n in range(10)]
    sink = asyncio.run(relayed([*reads, framed([event("", 1000, "stop"), b"data: [DONE]\n\n"]) + b"0\r\n\r\n"]))
    assert sink.texts == [*(f" {n}" for n in range(10)), ""]
    assert sink.passed == 8  # all but the first, and the one that the form is learned from


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"5\r\nhello\r\n", b"hello"),
        (b"5\r\nhello\r\n1\r\n!\r\n", b"hello!"),
        (b"5\r\nhello\r\n0\r\n\r\n", None),  # the end is the parser's
        (b"0\r\n\r\n", None),
        (b"6\r\nhello\r\n", None),
        (b"5\r\nhello\r\n1\r\n", None),
        (b"5\r\nhello", None),
        (b"llo\r\n1\r\n!\r\n", None),  # the rest of a chunk
        (b"\r\n5\r\nhello\r\n", None),
        (b"5;x=y\r\nhello\r\n", None),
        (b"4\r\nh\r\no\r\n", None),  # a line end inside: the parser knows
    ],
)
def test_only_whole_chunks_spare_the_parser(data: bytes, body: bytes | None) -> None:
    assert unchunked(data) == body


def test_one_piece_is_found_only_in_a_whole_chunk_of_one_event() -> None:
    payload = event(" a", 1000)[6:-2]
    form = PlainForm.learn(payload, payload)
    assert form is not None
    assert form.only_piece(framed([event(" bc", 1000)])) == b" bc"
    assert form.only_piece(framed([event("", 1000)])) == b""
    for other in (
        framed([event(" b", 1000), event(" c", 1000)]),
        framed([event(" b", 1000) + event(" c", 1000)]),
        framed([event(" bc", 1000)])[1:],
        framed([event(" bc", 1000)])[:-1],
        event(" bc", 1000),
        b"x" + framed([event(" bc", 1000)]),
        framed([form.head + form.tail[1:]]),
    ):
        assert form.only_piece(other) is None


def test_when_only_the_date_moves_on_the_form_does_too() -> None:
    payload = event(" a", 1000)[6:-2]
    form = PlainForm.learn(payload, payload)
    assert form is not None
    assert form.only_piece(framed([event(" b", 1001)])) == b" b"
    assert form.renamed([b" b"]) == event(" b", 1001)
    assert form.only_piece(framed([event(" c", 1001)])) == b" c"
    for other in (
        event(" d", 1002).replace(b'"m"', b'"n"'),
        event('"created":1,', 1002, "stop"),
        event(" d", 10020)[:-1],
    ):
        assert form.only_piece(framed([other])) is None
    assert form.only_piece(framed([event(" e", 1001)])) == b" e"


def test_a_date_that_we_gave_stays() -> None:
    theirs, ours = event(" a", 1000)[6:-2], event(" a", 7)[6:-2]
    form = PlainForm.learn(theirs, ours)
    assert form is not None
    assert form.only_piece(framed([event(" b", 1001)])) == b" b"
    assert form.renamed([b" b"]) == event(" b", 7)


@pytest.mark.parametrize(
    ("piece", "text"),
    [(b"a", "a"), (b"", ""), (b'\\"\\n', '"\n'), ("你".encode(), "你"), (b"\\ud83d\\ude00", "😀")],
)
def test_a_piece_is_its_text(piece: bytes, text: str) -> None:
    assert text_of(piece) == text


@pytest.mark.parametrize("piece", [b'a","role":"b', b"\\ud83d", b"\xff", b"\\", b"\x01"])
def test_a_piece_that_is_no_text_is_looked_at_closer(piece: bytes) -> None:
    assert text_of(piece) is None


class Written:
    """A transport that keeps its writes."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.is_lost = False

    def write(self, data: bytes) -> None:
        assert not self.is_lost, "uvloop raises RuntimeError for this"
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.is_lost

    def close(self) -> None:
        self.writes.append("closed")


def test_a_head_leaves_with_what_follows_at_once_and_alone_otherwise() -> None:
    async def main() -> list[Any]:
        written = Written()
        joined = JoinedWrites(cast("asyncio.Transport", written), asyncio.get_running_loop())
        joined.write(b"HTTP/1.1 200 OK\r\n\r\n")
        joined.write(b"body")
        joined.write(b"more")
        joined.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await asyncio.sleep(0)
        joined.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        joined.close()
        await asyncio.sleep(0)
        return written.writes

    assert asyncio.run(main()) == [
        b"HTTP/1.1 200 OK\r\n\r\nbody",
        b"more",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "closed",
    ]


def test_a_head_whose_reader_left_in_the_same_moment_is_dropped() -> None:
    async def main() -> list[Any]:
        written = Written()
        joined = JoinedWrites(cast("asyncio.Transport", written), asyncio.get_running_loop())
        joined.write(b"HTTP/1.1 200 OK\r\n\r\n")
        written.is_lost = True
        await asyncio.sleep(0)
        return written.writes

    assert asyncio.run(main(), debug=True) == []
