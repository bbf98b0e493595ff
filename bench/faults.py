"""Upstreams that break off, and one that is down beside one that is not."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import tempfile
from pathlib import Path

from bench.load import RESPONSES, Connections, Target
from bench.processes import free_port, gateway, mock
from bench.script import Script
from bench.table import Options, Row, not_measured

_CUTS = ("ends", "resets", "half", "engine_died")
_AT_ONCE = 20
_HIDDEN = "a failure before the first byte is hidden when another upstream is healthy"


async def measure(options: Options) -> list[Row]:
    """With one upstream that breaks answers off, then with two of which one fails at once."""
    return [await _cut(options.pick(1000, 160)), await _hidden(options.pick(300, 60))]


async def _cut(count: int) -> Row:
    """Answers of 20 tokens that break off after 0 to 19 of them: the stream ends without `[DONE]`, the connection is
    reset, an event is cut in two, or the engine dies as a real one was seen to (an error event, then `[DONE]`). Chat
    and stored, streamed and not. Counted: answers that a client would take for complete (a 200 whose API says so)."""
    passed = 0
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        with gateway(Path(folder), f"http://127.0.0.1:{upstream.port}") as chat:
            kinds = [(target, is_stream) for target in _both(chat) for is_stream in (True, False)]

            async def ask(numbers: range) -> int:
                taken = 0
                for number in numbers:
                    target, is_stream = kinds[number // len(_CUTS) % len(kinds)]
                    script = Script(tokens=20, fault=_CUTS[number % len(_CUTS)], after=random.randint(0, 19))
                    taken += (await target.ask(target.request(script, stream=is_stream))).is_complete
                return taken

            passed = sum(await asyncio.gather(*(ask(range(n, count, _AT_ONCE)) for n in range(_AT_ONCE))))
    told = f"{passed} of {count}"
    return Row("cut upstream streams passed off as complete", told, "0 of 1,000", passed == 0)


async def _hidden(count: int) -> Row:
    """Three upstreams: a healthy one, one that drops each connection when it has the request, and one that nobody
    listens at. Chat and stored, streamed and not, four at a time: each must be answered in whole."""
    with mock() as healthy, mock("refuses") as broken, tempfile.TemporaryDirectory() as folder:
        ports = (broken.port, healthy.port, free_port())
        upstreams = ",".join(f"tgi=http://127.0.0.1:{port}" for port in ports)
        try:
            with gateway(Path(folder), upstreams) as chat:
                complete = await _answered(chat, count)
        except SystemExit:
            return not_measured(_HIDDEN, "this version speaks to one upstream", "all")
    return Row(_HIDDEN, f"{complete} of {count} answered in whole", "all", complete == count)


async def _answered(chat: Target, count: int) -> int:
    async def ask(number: int) -> int:
        complete = 0
        target = _both(chat)[number % 2]
        async with Connections(target, 1) as (connection,):
            for turn in range(count // 4):
                reply = await connection.send(target.request(Script(tokens=5), stream=turn % 2 == 0))
                complete += reply.is_complete
        return complete

    return sum(await asyncio.gather(*map(ask, range(4))))


def _both(chat: Target) -> tuple[Target, Target]:
    return chat, dataclasses.replace(chat, path=RESPONSES)
