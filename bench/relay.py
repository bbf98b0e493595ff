"""CPU per streamed chunk: the gateway beside nginx and LiteLLM's proxy, in front of the same mock."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Connections, Target, all_at_once
from bench.processes import cpu_s
from bench.script import Script
from bench.table import Options, Row, not_measured
from bench.targets import targets

TOKENS = 200


@dataclass(frozen=True)
class Load:
    """One way to stream: `streams` at once, each `answers` times in a row."""

    name: str
    what: str
    script: Script
    streams: int
    answers: int
    chat_limit: float
    stored_limit: float
    litellm_limit: float


PACED = Load(
    name="paced",
    what="CPU per streamed chunk, 256 streams at one token each 20 ms",
    script=Script(tokens=TOKENS, first_ms=20, spread_ms=20, pace_ms=20),
    streams=256,
    answers=1,
    chat_limit=1.6,
    stored_limit=1.8,
    litellm_limit=12,
)
BURST = Load(
    name="burst",
    what="the same in a burst: 64 streams, tokens written one by one without a pause",
    script=Script(tokens=TOKENS),
    streams=64,
    answers=10,
    chat_limit=1.2,
    stored_limit=1.5,
    litellm_limit=80,
)


@dataclass(frozen=True)
class Pass:
    """What one target took for one load: CPU seconds per chunk, and how long the load lasted."""

    cost_s: float
    lasted_s: float


async def measure(options: Options) -> list[Row]:
    """CPU of the proxy's process (all threads) from before the first request to after the last answer, divided by the
    chunks that came: 200 a answer, its share of the request's own cost with it. Targets take turns in each round;
    ratios are made within a round, and their median is told. LiteLLM saturates a core, so it gets one round."""
    with targets(with_litellm=True) as found:
        rows = []
        for load in (PACED, BURST):
            if options.is_quick:
                load = dataclasses.replace(load, answers=min(load.answers, 3))
            tokens = options.pick(TOKENS, TOKENS // 4)
            ours = [found[name] for name in ("nginx", "chat", "stored") if name in found]
            passes = await take_turns(ours, load, options.rounds)
            rival = found.get("litellm")
            slow = await take_turns([rival], _lighter(load, tokens), 1) if rival else {}
            rows += _rows(load, passes, slow.get("litellm", []))
    return rows


async def take_turns(targets: Sequence[Target], load: Load, rounds: int) -> dict[str, list[Pass]]:
    """Passes of each target by name: one after the other in each round, after a short warming up of all."""
    passes: dict[str, list[Pass]] = {target.name: [] for target in targets}
    for target in targets:
        await one_pass(target, dataclasses.replace(load, script=dataclasses.replace(load.script, tokens=20), answers=1))
    for number in range(rounds):
        for target in targets if number % 2 else reversed(targets):
            passes[target.name].append(await one_pass(target, load))
    return passes


async def one_pass(target: Target, load: Load) -> Pass:
    """Runs the load once; ends the bench when an answer was not what the script said."""
    request = target.request(load.script)
    async with Connections(target, load.streams) as connections:
        before, begun_at = cpu_s(target.pid), time.monotonic()
        chunks = 0
        for _ in range(load.answers):
            for reply in await all_at_once(connections, request):
                if reply.tokens != load.script.tokens or not reply.is_whole:
                    raise SystemExit(f"bench: {target.name} gave {reply.tokens} tokens: {reply.body[-500:]!r}")
                chunks += reply.tokens
        return Pass((cpu_s(target.pid) - before) / chunks, time.monotonic() - begun_at)


def ratio(ours: Sequence[Pass], theirs: Sequence[Pass]) -> float:
    """The median of the ratios of the rounds."""
    return statistics.median(mine.cost_s / other.cost_s for mine, other in zip(ours, theirs, strict=True))


def _lighter(load: Load, tokens: int) -> Load:
    return dataclasses.replace(load, answers=1, script=dataclasses.replace(load.script, tokens=tokens))


def _rows(load: Load, passes: dict[str, list[Pass]], litellm_passes: list[Pass]) -> list[Row]:
    rows = []
    for name, limit in (("chat", load.chat_limit), ("stored", load.stored_limit)):
        what, target = f"{load.what}: {name}", f"≤ {limit} × nginx"
        if "nginx" not in passes:
            rows.append(not_measured(what, "nginx is not installed (apt-get install nginx-light)", target))
            continue
        found = ratio(passes[name], passes["nginx"])
        told = f"{found:.2f} × nginx ({_us(passes[name])} against {_us(passes['nginx'])})"
        rows.append(Row(what, told, target, found <= limit))
    what, target = f"{load.what}: chat beside LiteLLM", f"≤ 1/{load.litellm_limit} of LiteLLM's"
    if litellm_passes:
        theirs = statistics.median(one.cost_s for one in litellm_passes)
        times = theirs / statistics.median(one.cost_s for one in passes["chat"])
        told = f"1/{times:.0f} of LiteLLM's ({_us(litellm_passes)})"
        rows.append(Row(what, told, target, times >= load.litellm_limit))
    else:
        rows.append(not_measured(what, "LiteLLM could not be installed", target))
    return rows


def _us(passes: Sequence[Pass]) -> str:
    return f"{1e6 * statistics.median(one.cost_s for one in passes):.1f} µs"
