"""History: there at once, never lost, and what it costs."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import RESPONSES, Connection, Connections, Reply, Target, all_at_once, connect
from bench.processes import cpu_s, gateway, gateway_process, mock
from bench.script import Script
from bench.table import Options, Row

_AT_ONCE = 8
_COST_STREAMS = 64
_COST_LIMIT_S = 0.001
_DELTA = re.compile(rb'"type":"response\.output_text\.delta"[^\n]*?"delta":"([^"]*)"')


async def measure(options: Options) -> list[Row]:
    """Stored turns on SQLite, as it comes by default (WAL, synchronous=FULL)."""
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{upstream.port}"
        with gateway(Path(folder) / "readable", url) as chat:
            stored = dataclasses.replace(chat, path=RESPONSES)
            rows = [await _readable(stored, options.pick(500, 100)), await _cost(stored, options)]
        rows.append(await _killed(Path(folder) / "killed", url, options.pick(200, 5)))
    return rows


async def _readable(target: Target, count: int) -> Row:
    """Turns of 10 tokens, 8 at a time. In the moment that an answer's stream has ended, another connection gets the
    response, and the first one continues it with `previous_response_id`: both must have the whole answer."""
    wrong = 0

    async def look(times: int) -> None:
        nonlocal wrong
        async with Connections(target, 2) as (writer, reader):
            for _ in range(times):
                reply = await writer.send(target.request(Script(tokens=10)))
                reading = reader.send(target.get(f"{RESPONSES}/{reply.response_id}"))
                request = target.request(Script(tokens=1), stream=False, previous_response_id=reply.response_id)
                went_on = await writer.send(request)
                wrong += not (_is_there(await reading, _text(reply)) and went_on.is_complete and reply.is_complete)

    await asyncio.gather(*(look(count // _AT_ONCE) for _ in range(_AT_ONCE)))
    total = count // _AT_ONCE * _AT_ONCE
    told = f"{total - wrong} of {total} read and continued at once"
    return Row("history readable 0 ms after the end of the stream", told, "all", wrong == 0)


async def _cost(target: Target, options: Options) -> Row:
    """CPU of the gateway for a streamed response of 20 tokens with `store: true`, minus the same with `store: false`,
    64 at a time, taking turns; medians of the rounds."""
    extra = []
    script = Script(tokens=20, first_ms=20, spread_ms=20, pace_ms=20)
    async with Connections(target, _COST_STREAMS) as connections:
        for number in range(options.rounds + 1):
            costs = []
            for is_stored in (True, False):
                before = cpu_s(target.pid)
                for _ in range(4):
                    replies = await all_at_once(connections, target.request(script, store=is_stored))
                    if not all(reply.is_complete for reply in replies):
                        raise SystemExit(f"bench: a response was not complete: {replies[0].body[-500:]!r}")
                costs.append((cpu_s(target.pid) - before) / (4 * _COST_STREAMS))
            if number:  # the first round warms up
                extra.append((costs[0] - costs[1], costs[1]))
    more, plain = (statistics.median(pair[n] for pair in extra) for n in (0, 1))
    told = f"{1000 * more:.2f} ms more than {1000 * plain:.2f} ms"
    return Row("CPU of a stored turn beside a stateless one", told, "≤ 1 ms more", more <= _COST_LIMIT_S)


@dataclass
class Told:
    """What one life of the gateway told its clients: whole answers by id, and questions that were accepted."""

    answers: dict[str, bytes] = field(default_factory=dict)
    questions: set[str] = field(default_factory=set)


async def _killed(data: Path, url: str, kills: int) -> Row:
    """Eight clients store turns (20 tokens, one each 5 ms) without a pause; after 0.1 to 0.6 s the gateway gets a
    SIGKILL. The next one on the same folder must have every answer whose end was told, word by word, and every question
    whose beginning was (`response.created`), closed."""
    told = Told()
    lost = checked = 0
    for number in range(kills + 1):
        with gateway_process(data, url) as (process, chat):
            target = dataclasses.replace(chat, path=RESPONSES)
            checked += len(told.answers) + len(told.questions)
            lost += await _lost(target, told)
            if number == kills:
                break
            told = Told()
            asking = [asyncio.create_task(_keep_asking(target, told)) for _ in range(_AT_ONCE)]
            await asyncio.sleep(random.uniform(0.1, 0.6))
            process.kill()
            await asyncio.gather(*asking)
    what = f"acknowledged turns lost in {kills} SIGKILLs"
    return Row(what, f"{lost} of {checked}", "0", lost == 0 and checked >= kills)


async def _keep_asking(target: Target, told: Told) -> None:
    """Until the connection ends."""
    connection: Connection = await connect(target)
    while True:
        reply = await connection.send(target.request(Script(tokens=20, first_ms=5, pace_ms=5)))
        if reply.response_id is not None:
            if reply.is_complete:
                told.answers[reply.response_id] = _text(reply)
            else:
                told.questions.add(reply.response_id)
        if not reply.is_whole:
            return


async def _lost(target: Target, told: Told) -> int:
    """How many turns are not as they were told."""
    lost = 0
    async with Connections(target, 1) as (connection,):
        for name, text in told.answers.items():
            lost += not _is_there(await connection.send(target.get(f"{RESPONSES}/{name}")), text)
        for name in told.questions:
            reply = await connection.send(target.get(f"{RESPONSES}/{name}"))
            lost += reply.status != 200 or reply.json()["status"] == "in_progress"
    return lost


def _is_there(reply: Reply, text: bytes) -> bool:
    return reply.is_complete and _text_of(reply) == text


def _text_of(reply: Reply) -> bytes:
    parts = (part for item in reply.json()["output"] for part in item["content"])
    return "".join(part["text"] for part in parts).encode()


def _text(reply: Reply) -> bytes:
    """What the deltas of a stream add up to."""
    return b"".join(_DELTA.findall(reply.body))
