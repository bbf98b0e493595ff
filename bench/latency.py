"""What a proxy adds to the age of a token, and to the time to the first one."""

from __future__ import annotations

import dataclasses
import statistics

from bench.load import Connections, Target, all_at_once
from bench.relay import PACED
from bench.script import Script
from bench.table import Options, Row, not_measured
from bench.targets import targets

_AGE_LIMIT = 2.0
_TTFT_LIMIT_S = 0.001
_STREAMS = 64
_FIRST = Script(tokens=2, first_ms=20)


async def measure(options: Options) -> list[Row]:
    """Each row is a difference to the same load without a proxy."""
    with targets() as found:
        return [*await _ages(found, options), *await _first_tokens(found, options.pick(200, 40))]


async def _ages(found: dict[str, Target], options: Options) -> list[Row]:
    """64 streams, one token each 20 ms, so that the cores have time; the mock writes the time of its making into each
    token. A round asks directly, through nginx and through the gateway; p50 of a pass minus p50 of the direct pass of
    its round is what was added; medians of the rounds."""
    names: list[str] = [name for name in ("direct", "nginx", "chat", "stored") if name in found]
    added = {name: list[float]() for name in names if name != "direct"}
    for _ in range(options.rounds):
        middle = {name: await _middle_age(found[name], options.pick(200, 80)) for name in names}
        for name in added:
            added[name].append(middle[name] - middle["direct"])
    rows = []
    for name in ("chat", "stored"):
        what, must = (
            f"added age of a token p50, 64 streams at one token each 20 ms: {name}",
            f"≤ {_AGE_LIMIT:.0f} × nginx's",
        )
        if "nginx" not in added:
            rows.append(not_measured(what, "nginx is not installed", must))
            continue
        ours, theirs = statistics.median(added[name]), statistics.median(added["nginx"])
        times = statistics.median(mine / other for mine, other in zip(added[name], added["nginx"], strict=True))
        told = f"{times:.2f} × nginx's ({1e6 * ours:.0f} µs against {1e6 * theirs:.0f} µs)"
        rows.append(Row(what, told, must, times <= _AGE_LIMIT))
    return rows


async def _middle_age(target: Target, tokens: int) -> float:
    script = dataclasses.replace(PACED.script, tokens=tokens, stamp=1)
    async with Connections(target, _STREAMS) as connections:
        replies = await all_at_once(connections, target.request(script))
    return statistics.median(age for reply in replies for age in reply.ages_s)


async def _first_tokens(found: dict[str, Target], count: int) -> list[Row]:
    """One request at a time, the upstream's first token 20 ms after it: the targets take turns, one request each, on a
    connection that is kept. p50 of each target minus p50 of the direct requests."""
    names: list[str] = [name for name in ("direct", "nginx", "chat", "stored") if name in found]
    times: dict[str, list[float]] = {name: [] for name in names}
    open_ones = {name: Connections(found[name], 1) for name in names}
    connections = {name: (await opened.__aenter__())[0] for name, opened in open_ones.items()}
    for number in range(count + 5):
        for name in names:
            reply = await connections[name].send(found[name].request(_FIRST))
            if number >= 5:  # the first ones warm up
                times[name].append(reply.ttft_s)
    for opened in open_ones.values():
        await opened.__aexit__()
    middle = {name: statistics.median(times[name]) for name in names}
    theirs = f"; nginx {1000 * (middle['nginx'] - middle['direct']):.2f} ms" if "nginx" in middle else ""
    rows = []
    for name in ("chat", "stored"):
        added = middle[name] - middle["direct"]
        what = f"added time to the first token p50, idle gateway: {name}"
        rows.append(Row(what, f"{1000 * added:.2f} ms{theirs}", "≤ 1 ms", added <= _TTFT_LIMIT_S))
    return rows
