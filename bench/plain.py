"""CPU of a request that is not streamed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.load import Connections, Target, all_at_once
from bench.processes import cpu_s, nginx
from bench.script import Script
from bench.table import Options, Row, not_measured
from bench.targets import targets

_CONNECTIONS = 64
_ANSWERS = 5
_LIMIT = 8.0
_PACED = Script(tokens=20, first_ms=20, spread_ms=20, pace_ms=20)
_AT_ONCE = Script(tokens=20, first_ms=20, batch=20)


async def measure(options: Options) -> list[Row]:
    """CPU of the proxy's process for each chat of 20 tokens that is not streamed; a pass is five times 64 of them.
    nginx hands on one JSON body; the gateway asks the engine to stream and collects the events, one each 20 ms as an
    engine makes them, or (second row) all of them in a read."""
    with targets() as found:
        paced = await _costs(found, _PACED, options.rounds)
        at_once = await _costs(found, _AT_ONCE, options.rounds)
        with nginx(found["direct"].port, is_keeping=True) as keeping:
            kept = await _costs({"nginx": keeping}, _PACED, options.rounds) if keeping else {}
    rows = [
        _row("non-streamed chat of 20 tokens, one each 20 ms: CPU per request", paced),
        _row("the same, the engine's 20 events in one read", at_once),
    ]
    if kept:
        rows.append(
            Row("the same request at an nginx that keeps its upstream connections, for comparison", _us(kept["nginx"]))
        )
    return rows


async def _costs(found: dict[str, Target], script: Script, rounds: int) -> dict[str, list[float]]:
    measured = [found[name] for name in ("nginx", "chat") if name in found]
    costs: dict[str, list[float]] = {target.name: [] for target in measured}
    for number in range(rounds + 1):
        for target in measured if number % 2 else reversed(measured):
            cost = await _cost(target, script)
            if number:  # the first round warms up
                costs[target.name].append(cost)
    return costs


async def _cost(target: Target, script: Script) -> float:
    request = target.request(script, stream=False)
    async with Connections(target, _CONNECTIONS) as connections:
        before = cpu_s(target.pid)
        for _ in range(_ANSWERS):
            for reply in await all_at_once(connections, request):
                if not reply.is_complete:
                    raise SystemExit(f"bench: {target.name} answered {reply.status}: {reply.body[-500:]!r}")
        return (cpu_s(target.pid) - before) / (_CONNECTIONS * _ANSWERS)


def _row(what: str, costs: dict[str, list[float]]) -> Row:
    must = f"≤ {_LIMIT:.0f} × nginx"
    if "nginx" not in costs:
        return not_measured(what, "nginx is not installed (apt-get install nginx-light)", must)
    found = statistics.median(ours / theirs for ours, theirs in zip(costs["chat"], costs["nginx"], strict=True))
    return Row(what, f"{found:.1f} × nginx ({_us(costs['chat'])} against {_us(costs['nginx'])})", must, found <= _LIMIT)


def _us(costs: Sequence[float]) -> str:
    return f"{1e6 * statistics.median(costs):.0f} µs"
