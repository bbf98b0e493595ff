"""The real small model: straight at llama.cpp, and through the gateway."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from pathlib import Path

import inference
from bench.load import CHAT, Reply, Target
from bench.processes import ROOT, gateway, peak_mb
from bench.table import Options, Row

TOKENS = 200
_PROMPT = "Tell me a long story about a ship."
_LEAST_RATIO = 0.97


async def measure(options: Options) -> list[Row]:
    """One stream of 200 tokens, temperature 0, once straight from the engine's socket and once through a gateway, in
    changing order: tokens a second after the first, and the time to the first. The engine is started as the product
    does."""
    settings = inference.Settings.from_env(os.environ, ROOT)
    found = inference.find_model("smollm2-135m-instruct", inference.load_catalogue(), ROOT)
    machine = inference.this_machine()
    plan = inference.make_plan(found, settings, machine)
    file = await asyncio.to_thread(inference.prepare, found, settings, inference.ProgressLine())
    with inference.socket_folder(settings.runtime_dirs) as folder, tempfile.TemporaryDirectory() as data:
        engine = inference.make_engine(plan, settings, machine, folder).serving(file)
        supervisor = inference.make_supervisor(engine, settings, lambda news: None)
        running = asyncio.create_task(supervisor.run())
        try:
            await supervisor.wait_ready()
            direct = Target("direct", 0, 0, engine.api_key, unix_path=engine.endpoint.removeprefix("unix:"))
            with gateway(Path(data), engine.endpoint, engine="llamacpp", upstream_key=engine.api_key) as ours:
                pairs = await _pairs(direct, ours, options.rounds)
                peak = peak_mb(ours.pid)
        finally:
            await supervisor.stop()
            await asyncio.wait({running})
    return _rows(pairs, peak)


async def _pairs(direct: Target, ours: Target, rounds: int) -> list[tuple[Reply, Reply]]:
    pairs = []
    for number in range(rounds + 1):
        first, second = (direct, ours) if number % 2 else (ours, direct)
        replies = {id(first): await _stream(first), id(second): await _stream(second)}
        if number:  # the first pair warms up
            pairs.append((replies[id(direct)], replies[id(ours)]))
    return pairs


async def _stream(target: Target) -> Reply:
    body = {
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": TOKENS,
        "temperature": 0.0,
        "top_k": 40,  # said, because the engine's defaults are others than OpenAI's, which the gateway keeps to
        "top_p": 0.95,
        "min_p": 0.05,
        "seed": 1,
        "stream": True,
    }
    reply = await target.ask(target.raw("POST", CHAT, body))
    if not reply.is_complete:
        raise SystemExit(f"bench: {target.name} answered {reply.status}: {reply.body[-500:]!r}")
    return reply


def _rows(pairs: list[tuple[Reply, Reply]], peak: float) -> list[Row]:
    found = statistics.median(_rate(ours) / _rate(direct) for direct, ours in pairs)
    rates = [statistics.median(_rate(pair[n]) for pair in pairs) for n in (0, 1)]
    firsts = [1000 * statistics.median(pair[n].ttft_s for pair in pairs) for n in (0, 1)]
    return [
        Row(
            "real model (SmolLM2-135M), one stream: tokens/s through the gateway",
            f"{found:.3f} × direct ({rates[1]:.1f} against {rates[0]:.1f})",
            f"≥ {_LEAST_RATIO} × direct",
            found >= _LEAST_RATIO,
        ),
        Row("real model: first token", f"{firsts[1]:.0f} ms, direct {firsts[0]:.0f} ms"),
        Row("real model: peak resident memory of the gateway", f"{peak:.0f} MB"),
    ]


def _rate(reply: Reply) -> float:
    """Tokens a second after the first."""
    return (reply.tokens - 1) / (reply.ended_at - reply.begun_at - reply.ttft_s)
