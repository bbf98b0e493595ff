"""A client that leaves: when the upstream's connection is closed, and what is made for nobody."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import RESPONSES, Connections, Target, connect
from bench.processes import gateway, mock
from bench.script import Script
from bench.table import Options, Row

_AT_ONCE = 20
_LIMIT_S = 0.010
_PATIENCE_S = 5.0
_QUEUE_SLOTS = 4


@dataclass(frozen=True)
class Kind:
    """When a client leaves: `stays_s` after its request, within these bounds."""

    name: str
    script: Script
    is_stream: bool
    stays_s: tuple[float, float]


KINDS = (
    Kind("mid-stream", Script(tokens=1000, first_ms=10, pace_ms=20), True, (0.06, 0.2)),
    Kind("before the first token", Script(tokens=1000, first_ms=10_000, pace_ms=20), True, (0.03, 0.15)),
    Kind("not streamed", Script(tokens=1000, first_ms=10, pace_ms=20), False, (0.06, 0.2)),
)


@dataclass
class Tally:
    """Of all departures: seconds to the upstream's end, how many never ended, the most tokens made after one."""

    lags_s: list[float]
    left: int = 0
    missed: int = 0
    wasted: int = 0


async def measure(options: Options) -> list[Row]:
    """1,000 clients close their connection at a random moment, 20 at a time: in mid-stream, before the first token,
    while they wait for an answer that is not streamed (chat and stored for each), and while queued. Counted from the
    client's close to the mock's seeing its connection end (one clock for both processes); `missed` are those whose
    upstream was still open 5 s later, `wasted` the most tokens that the mock made for one of them after it had left.
    Those who leave the queue must never reach the mock."""
    each = options.pick(125, 20)
    tally = Tally([])
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        with gateway(Path(folder) / "open", f"http://127.0.0.1:{upstream.port}") as chat:
            for target in (chat, dataclasses.replace(chat, path=RESPONSES)):
                for kind in KINDS:
                    await _leave_all(upstream, target, kind, each, tally)
        url = f"http://127.0.0.1:{upstream.port}"
        with gateway(Path(folder) / "full", url, GATEWAY_SLOTS=str(_QUEUE_SLOTS), GATEWAY_MAX_WAIT_S="600") as chat:
            for target in (chat, dataclasses.replace(chat, path=RESPONSES)):
                await _leave_queue(upstream, target, each, tally)
    last = statistics.quantiles(tally.lags_s, n=100)[98] if len(tally.lags_s) > 1 else float("inf")
    told = (
        f"p99 {1000 * last:.1f} ms, p50 {1000 * statistics.median(tally.lags_s or [float('inf')]):.1f} ms; "
        f"{tally.missed} of {tally.left} missed, at most {tally.wasted} tokens wasted"
    )
    return [
        Row(
            "client gone → upstream closed (mid-stream, before the first token, not streamed, queued)",
            told,
            "p99 ≤ 10 ms, none of 1,000 missed, ≤ 1 token wasted",
            last <= _LIMIT_S and tally.missed == 0 and tally.wasted <= 1,
        )
    ]


async def _leave_all(upstream: Target, target: Target, kind: Kind, count: int, tally: Tally) -> None:
    left_at: dict[str, float] = {}
    gate = asyncio.Semaphore(_AT_ONCE)
    stem = f"{kind.name[:3].strip()}{target.path[-3:]}"

    async def leave(number: int) -> None:
        async with gate:
            connection = await connect(target)
            name = f"{stem}{number}"
            connection.send(target.request(dataclasses.replace(kind.script, id=name), stream=kind.is_stream))
            await asyncio.sleep(random.uniform(*kind.stays_s))
            left_at[name] = connection.leave()

    await asyncio.gather(*(leave(number) for number in range(count)))
    kept = await _kept(upstream, set(left_at))
    tally.left += count
    for name, at in left_at.items():
        found = kept.get(name)
        if found is None or found["how"] != "left":
            tally.missed += 1
        else:
            tally.lags_s.append(found["ended_at"] - at)
            tally.wasted = max(tally.wasted, sum(made > at for made in found["token_times"]))


async def _kept(upstream: Target, names: set[str]) -> dict[str, dict[str, Any]]:
    """The mock's times of these answers, waited for a while."""
    kept: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + _PATIENCE_S
    while names - kept.keys() and time.monotonic() < deadline:
        reply = await upstream.ask(upstream.raw("GET", "/bench/kept"))
        kept.update({entry["id"]: entry for entry in reply.json()})
        await asyncio.sleep(0.05)
    return kept


async def _leave_queue(upstream: Target, target: Target, count: int, tally: Tally) -> None:
    holding = Script(tokens=1_000_000, first_ms=10, pace_ms=100)
    async with Connections(target, _QUEUE_SLOTS) as holders:
        for holder in holders:
            holder.send(target.request(holding))
        await asyncio.sleep(0.3)
        async with Connections(target, count) as waiting:
            for number, connection in enumerate(waiting):
                connection.send(target.request(Script(tokens=1, id=f"queued{target.path[-3:]}{number}")))
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    seen = (await upstream.ask(upstream.raw("GET", "/bench/kept"))).json()
    tally.left += count
    tally.missed += len(seen)
