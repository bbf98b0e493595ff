"""What the figures of bench/ stand on: the mock has TGI's bytes, the load generator counts right. No time is judged."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.load import RESPONSES, Connections, Reply, Target, unframed
from bench.mock import serve
from bench.processes import cpu_s
from bench.profile import rendered
from bench.relay import Pass, ratio
from bench.script import Script
from bench.table import Row, not_measured, render
from tests.fakes.tgi import exchange

pytestmark = pytest.mark.unit
MOVING = re.compile(
    r'"created":\d+|"model":"[^"]+"|"content":"(?:[^"\\]|\\.)*"|"(?:prompt|completion|total)_tokens":\d+'
)


@asynccontextmanager
async def mock(fault: str = "") -> AsyncIterator[Target]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = asyncio.create_task(serve(port, fault))
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        writer.close()
        yield Target("direct", 0, port)
    finally:
        serving.cancel()
        await asyncio.wait({serving})


def with_mock(use: Callable[[Target], Awaitable[Any]], fault: str = "") -> Any:
    async def run() -> Any:
        async with mock(fault) as target:
            return await use(target)

    return asyncio.run(run())


def asked(script: Script, **fields: Any) -> Reply:
    reply: Reply = with_mock(lambda target: target.ask(target.request(script, **fields)))
    return reply


def still(text: str) -> str:
    """Without what differs from answer to answer."""
    return MOVING.sub(lambda found: found[0].split(":")[0], text)


def headers_of(reply: Reply) -> dict[str, str]:
    moving = ("content-length", "x-compute-characters")
    return {name: value for name, value in reply.headers.items() if name not in moving}


def recorded_headers(response: dict[str, Any]) -> dict[str, str]:
    """Without the server's own timings, which nobody here reads."""
    moving = re.compile(
        "content-length|x-compute-(time|characters)|x-(total|validation|queue|inference)-time|x-.*token"
    )
    return {name: value for name, value in response["headers"].items() if not moving.match(name)}


def test_a_stream_has_the_recorded_bytes() -> None:
    response = exchange("chat/usage-stream")["response"]
    reply = asked(Script(tokens=9), max_tokens=5, stream_options={"include_usage": True})
    pieces = [text for _, text in response["pieces_ms_text"]]
    assert still(reply.body.decode()) == still("".join(pieces))
    assert headers_of(reply) == recorded_headers(response)


def test_a_stream_without_usage_that_ends_by_itself_has_the_recorded_bytes() -> None:
    pieces = [text for _, text in exchange("chat/natural-end-stream")["response"]["pieces_ms_text"]]
    reply = asked(Script(tokens=len(pieces) - 1))
    assert still(reply.body.decode()) == still("".join(pieces))


def test_a_whole_answer_has_the_recorded_bytes() -> None:
    response = exchange("chat/minimal")["response"]
    reply = asked(Script(tokens=50), stream=False, max_tokens=40)
    assert still(reply.body.decode()) == still(response["body"])
    assert headers_of(reply) == recorded_headers(response)


@pytest.mark.parametrize("name", ["http/info", "http/health", "http/tokenize", "http/chat-tokenize", "http/not-found"])
def test_the_other_answers_have_the_recorded_form(name: str) -> None:
    recorded = exchange(name)
    request, response = recorded["request"], recorded["response"]
    reply: Reply = with_mock(
        lambda target: target.ask(target.raw(request["method"], request["path"], request.get("body")))
    )
    assert reply.status == response["status"]
    assert headers_of(reply) == recorded_headers(response)
    assert shape(reply.body.decode()) == shape(response["body"])


def shape(body: str) -> Any:
    """Names and types, one entry for a list."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: of(inner) for name, inner in value.items()}
        return [of(value[0])] if isinstance(value, list) else type(value)

    return of(json.loads(body)) if body else None


def test_an_overloaded_mock_answers_as_recorded() -> None:
    plain, streamed = exchange("http/overloaded")["response"], exchange("http/overloaded-stream")["response"]
    reply = asked(Script(fault="overloaded"), stream=False)
    assert (reply.status, reply.body.decode()) == (429, plain["body"])
    assert asked(Script(fault="overloaded")).body.decode() == "".join(text for _, text in streamed["pieces_ms_text"])


def test_an_engine_that_dies_ends_its_streams_as_recorded() -> None:
    killed = exchange("lifecycle/kill")["sigkill-shard-while-streaming"]["stream"]["last_pieces"]
    reply = asked(Script(tokens=9, fault="engine_died", after=1))
    assert still(reply.body.decode()) == still("".join(text for _, text in killed[-3:]))


@pytest.mark.parametrize(
    ("fault", "is_whole", "tokens"),
    [("ends", True, 3), ("resets", False, None), ("half", False, 3), ("refuses", False, 0)],
)
def test_a_cut_stream_is_never_complete(fault: str, is_whole: bool, tokens: int | None) -> None:
    reply = asked(Script(tokens=9, fault=fault, after=3))
    assert reply.is_whole is is_whole
    assert not reply.is_complete
    assert tokens is None or reply.tokens == tokens


def test_a_mock_that_is_down_fails_whatever_the_script_says() -> None:
    reply = with_mock(lambda target: target.ask(target.request(Script())), fault="refuses")
    assert (reply.status, reply.is_whole) == (0, False)


@pytest.mark.parametrize(
    "script", [Script(tokens=1), Script(tokens=57), Script(tokens=57, batch=8), Script(tokens=64, batch=8)]
)
def test_tokens_are_counted_right(script: Script) -> None:
    async def use(target: Target) -> None:
        async with Connections(target, 3) as connections:
            for _ in range(2):  # kept alive in between
                replies = await asyncio.gather(*(one.send(target.request(script)) for one in connections))
                assert [(reply.tokens, reply.is_complete) for reply in replies] == [(script.tokens, True)] * 3
        counts = (await target.ask(target.raw("GET", "/bench/counts"))).json()
        assert (counts["tokens"], counts["begun"], counts["left"], counts["running"]) == (6 * script.tokens, 6, 0, 0)

    with_mock(use)


def test_tokens_of_responses_are_counted_by_their_deltas() -> None:
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":" a"}\n\n'
    assert Reply(0, body=delta * 7 + b'data: {"type":"response.completed","content":""}\n\n').tokens == 7


def test_stamps_tell_the_age_of_each_token() -> None:
    reply = asked(Script(tokens=5, stamp=1, pace_ms=1))
    assert len(reply.ages_s) == 5
    assert all(0 <= age < 60 for age in reply.ages_s)
    assert 0 < reply.ttft_s < reply.ended_at - reply.begun_at


def test_the_mock_keeps_when_its_caller_left_and_makes_no_more() -> None:
    async def use(target: Target) -> None:
        async with Connections(target, 1) as (connection,):
            answer = connection.send(target.request(Script(tokens=1000, pace_ms=5, id="a7")))
            await asyncio.sleep(0.05)
            left_at = connection.leave()
        assert not (await answer).is_whole
        kept: list[dict[str, Any]] = []
        while not kept:
            kept = (await target.ask(target.raw("GET", "/bench/kept"))).json()
        assert (kept[0]["id"], kept[0]["how"]) == ("a7", "left")
        assert kept[0]["ended_at"] > left_at
        assert 0 < len(kept[0]["token_times"]) < 1000
        counts = (await target.ask(target.raw("GET", "/bench/counts"))).json()
        assert (counts["left"], counts["running"], counts["tokens"]) == (1, 0, len(kept[0]["token_times"]))

    with_mock(use)


def test_a_slow_reader_stops_the_mock() -> None:
    async def use(target: Target) -> None:
        # far more than the kernel's buffers take
        async with Connections(target, 1, is_slow=True) as (connection,):
            answer = connection.send(target.request(Script(tokens=400_000, batch=100)))
            made = -1
            while made != (made := (await target.ask(target.raw("GET", "/bench/counts"))).json()["tokens"]) or not made:
                await asyncio.sleep(0.1)
            assert made < 400_000
            connection.read_on()
            assert (await answer).tokens == 400_000

    with_mock(use)


def test_a_script_is_the_last_one_of_the_prompt() -> None:
    script = Script(tokens=7, first_ms=2.5, id="x_1", fault="half")
    body = Target("", 0, 1, path=RESPONSES).request(script, prompt=f"{Script(tokens=3)} and then")
    assert Script.last_in(body) == script
    assert Script.last_in(b'{"messages":[]}') == Script()


def test_chunks_are_unframed_as_far_as_they_came() -> None:
    framed = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"
    assert unframed(framed) == b"hello!"
    assert unframed(framed[:6]) == b"hel"


def test_the_clock_of_a_process_counts_its_cpu() -> None:
    before, own = cpu_s(os.getpid()), time.process_time()
    sum(range(200_000))
    assert cpu_s(os.getpid()) - before == pytest.approx(time.process_time() - own, abs=0.05)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    ours = [Pass(cost, 1) for cost in (2, 30, 8)]
    assert ratio(ours, [Pass(cost, 1) for cost in (1, 3, 2)]) == 4


def test_the_table_tells_what_was_reached() -> None:
    rows = [Row("a", "1", "≤ 2", True), Row("b", "3", "≤ 2", False), not_measured("c", "no nginx", "≤ 2")]
    assert render(rows).splitlines()[2:] == [
        "| a | 1 | ≤ 2 | yes |",
        "| b | 3 | ≤ 2 | **no** |",
        "| c | not measured: no nginx | ≤ 2 |  |",
    ]


def test_a_profile_counts_the_samples_of_the_main_thread() -> None:
    samples = ["main;_serve (a.py:1);send (b.py:2) 3", "main;_serve (a.py:1) 1", "thread;wait (c.py:9) 50"]
    text = rendered(samples)
    assert text.startswith("4 samples")
    assert "75.0 %  send (b.py:2)" in text
    assert "100.0 %  _serve (a.py:1)" in text
    assert "wait" not in text


def test_a_response_is_complete_when_its_status_says_so() -> None:
    headers = {"content-type": "application/json"}
    for status, is_complete in (("completed", True), ("incomplete", False), ("failed", False)):
        body = json.dumps({"object": "response", "id": "resp_7", "status": status}, separators=(",", ":")).encode()
        reply = Reply(0, status=200, headers=headers, body=body, is_whole=True)
        assert (reply.is_complete, reply.response_id) == (is_complete, "resp_7")
