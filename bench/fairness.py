"""Whether one caller's queue delays another caller, and whether slots stand empty meanwhile."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from bench.load import Connection, Connections, Target
from bench.processes import gateway, mock, new_key
from bench.script import Script
from bench.table import Options, Row, not_measured

_SLOTS = 128
_QUEUED = 500
_LIMIT = 1.2
_LEAST_BUSY = 0.98
_FIRST_MS = 200
_SHORT = Script(tokens=2, first_ms=_FIRST_MS, pace_ms=20)


async def measure(options: Options) -> list[Row]:
    """128 slots, as many as TGI takes by default; the engine's first token comes after 200 ms, then one each 20 ms.
    One key keeps 500 requests waiting (a new one for each that ended; answers of 30 to 90 tokens). Another key asks one
    at a time: p95 of its time to the first token, against the same without the first key. Busy: the seconds of all
    answers open at the mock, divided by slots and time, while there is a queue."""
    seconds = options.pick(25, 8)
    what = "500 queued requests of one key: another key's p95 time to the first token"
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        settings = {"GATEWAY_SLOTS": str(_SLOTS), "GATEWAY_MAX_WAIT_S": "600", "GATEWAY_MAX_WAITING": "2000"}
        with gateway(data, f"http://127.0.0.1:{upstream.port}", **settings) as greedy:
            secret = new_key(data, "other", "--rpm", "1000000")
            if secret is None:
                return [not_measured(what, "no second key could be made", f"≤ {_LIMIT} × alone")]
            other = Target("other", greedy.pid, greedy.port, secret)
            alone = await _first_tokens(other, seconds / 2)
            async with Connections(greedy, _QUEUED + _SLOTS) as connections:
                stop_at = time.monotonic() + 4 + seconds
                crowd = [asyncio.create_task(_keep_asking(greedy, one, stop_at)) for one in connections]
                await asyncio.sleep(3)
                before = await _counts(upstream)
                beside = await _first_tokens(other, seconds)
                after = await _counts(upstream)
                for task in crowd:
                    task.cancel()
                await asyncio.wait(crowd)
    times = _p95(beside) / _p95(alone)
    busy = (after["busy_s"] - before["busy_s"]) / (_SLOTS * (after["at"] - before["at"]))
    told = f"{times:.2f} × alone ({1000 * _p95(beside):.0f} ms against {1000 * _p95(alone):.0f} ms)"
    return [
        Row(what, told, f"≤ {_LIMIT} × alone", times <= _LIMIT),
        Row("the same: slots busy", f"{100 * busy:.1f} %", "≥ 98 %", busy >= _LEAST_BUSY),
    ]


async def _keep_asking(target: Target, connection: Connection, stop_at: float) -> None:
    fewest = 1  # the first answers all begin together: their ends are to be spread
    while time.monotonic() < stop_at:
        script = Script(tokens=random.randint(fewest, 90), first_ms=_FIRST_MS, pace_ms=20)
        fewest = 30
        reply = await connection.send(target.request(script))
        if not reply.is_complete:
            raise SystemExit(f"bench: a queued request got {reply.status}: {reply.body[-300:]!r}")


async def _first_tokens(target: Target, seconds: float) -> list[float]:
    """Times to the first token of one caller's requests, one after the other."""
    times: list[float] = []
    stop_at = time.monotonic() + seconds
    async with Connections(target, 1) as (connection,):
        while time.monotonic() < stop_at:
            times.append((await connection.send(target.request(_SHORT))).ttft_s)
    return times


async def _counts(upstream: Target) -> dict[str, float]:
    counts: dict[str, float] = (await upstream.ask(upstream.raw("GET", "/bench/counts"))).json()
    return counts


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[18]
