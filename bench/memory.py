"""Resident memory: over many chunks, with slow readers, with many streams."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from pathlib import Path

from bench.load import RESPONSES, Connections, Target, all_at_once
from bench.processes import gateway, mock, resident_kb
from bench.script import Script
from bench.table import Options, Row

_STREAMS = 64
_TOKENS = 200
_FEW, _MANY = 50_000, 1_000_000
_GROWTH = 1.05
_SLOW_KB = 256
_SLOW_READERS = 100


async def measure(options: Options) -> list[Row]:
    """The gateway's resident size as the kernel tells it (VmRSS)."""
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{upstream.port}"
        with gateway(Path(folder) / "chunks", url) as chat:
            rows = [await _growth(chat, options.pick(_MANY, 3 * _FEW))]
        with gateway(Path(folder) / "slow", url) as chat:
            rows.append(await _slow_readers(chat))
        with gateway(Path(folder) / "many", url) as chat:
            rows.append(await _many_streams(chat, options.pick(2000, 500)))
    return rows


async def _growth(chat: Target, many: int) -> Row:
    """64 streams at a time, answers of 200 tokens as fast as they go, chat and stored in turn, on new connections each
    time: the size after 50,000 chunks, and after 1,000,000."""
    stored = dataclasses.replace(chat, path=RESPONSES)
    chunks, few_kb = 0, 0
    while chunks < many:
        for target in (chat, stored):
            async with Connections(target, _STREAMS) as connections:
                replies = await all_at_once(connections, target.request(Script(tokens=_TOKENS)))
            if not all(reply.is_complete for reply in replies):
                raise SystemExit(f"bench: {target.path}: {replies[0].status} {replies[0].body[-300:]!r}")
            chunks += sum(reply.tokens for reply in replies)
        if not few_kb and chunks >= _FEW:
            few_kb = resident_kb(chat.pid)
    many_kb = resident_kb(chat.pid)
    told = f"{many_kb / few_kb:.3f} × ({few_kb / 1000:.0f} MB, then {many_kb / 1000:.0f} MB)"
    what = f"resident memory after {many:,} chunks, against after {_FEW:,}"
    return Row(what, told, f"≤ {_GROWTH} ×", many_kb <= _GROWTH * few_kb)


async def _slow_readers(chat: Target) -> Row:
    """100 clients ask for 6 MB each, as fast as it goes, and read nothing for 3 s; the receive buffers of their sockets
    are small, so the answers wait in the gateway. Its growth since 100 clients who read, divided by them. Then all read
    on, and must get everything."""
    script = Script(tokens=20_000, batch=50)
    async with Connections(chat, _SLOW_READERS) as connections:
        await all_at_once(connections, chat.request(Script(tokens=100, batch=50)))
    before_kb = resident_kb(chat.pid)
    async with Connections(chat, _SLOW_READERS, is_slow=True) as connections:
        answers = [connection.send(chat.request(script)) for connection in connections]
        await asyncio.sleep(3)
        each_kb = (resident_kb(chat.pid) - before_kb) / _SLOW_READERS
        for connection in connections[:5]:
            connection.read_on()
        complete = sum(reply.tokens == script.tokens for reply in await asyncio.gather(*answers[:5]))
    told = f"{each_kb:.0f} kB each of {_SLOW_READERS}; {complete} of 5 that read on got everything"
    return Row("a slow reader", told, f"≤ {_SLOW_KB} kB", each_kb <= _SLOW_KB and complete == 5)


async def _many_streams(chat: Target, count: int) -> Row:
    """2,000 streams at once on one worker, 20 tokens each, one each 500 ms: how many came whole, and the memory of
    each."""
    before_kb = resident_kb(chat.pid)
    async with Connections(chat, count) as connections:
        script = Script(tokens=20, first_ms=1000, spread_ms=500, pace_ms=500)
        running = asyncio.gather(*(connection.send(chat.request(script)) for connection in connections))
        await asyncio.sleep(6)
        each_kb = (resident_kb(chat.pid) - before_kb) / count
        replies = await running
    complete = sum(reply.is_complete and reply.tokens == script.tokens for reply in replies)
    told = f"{complete} of {count} whole, {each_kb:.0f} kB each"
    return Row(f"{count:,} streams at once on one worker", told, "all whole", complete == count)
