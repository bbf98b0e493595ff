"""Tokens per second with the real small model: straight at llama.cpp, and through the gateway, in turn."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import inference
from bench.processes import ROOT, gateway, peak_mb
from gateway.sse import DONE, EventSplitter
from gateway.wire import Address, open_exchange

TOKENS = 200
_PROMPT = "Tell me a long story about a ship."
Run = Callable[[], Awaitable[tuple[float, float]]]


async def compare(rounds: int) -> None:
    """Prints medians of `rounds` pairs, and the peak memory of both processes."""
    settings = inference.Settings.from_env(os.environ, ROOT)
    found = inference.find_model("smollm2-135m-instruct", inference.load_catalogue(), ROOT)
    plan = inference.make_plan(found, settings, inference.this_machine())
    file = await asyncio.to_thread(inference.prepare, found, settings, inference.ProgressLine())
    with inference.socket_folder(settings.runtime_dirs) as folder, tempfile.TemporaryDirectory() as data:
        engine = inference.LlamaCpp(plan, folder).serving(file)
        supervisor = inference.make_supervisor(engine, settings, lambda news: None)
        running = asyncio.create_task(supervisor.run())
        try:
            await supervisor.wait_ready()
            with gateway(Path(data), engine.endpoint, engine.api_key) as (pid, port, key):
                await _measure(
                    rounds, _stream(engine.endpoint, engine.api_key), _stream(f"http://127.0.0.1:{port}", key)
                )
                print(f"peak memory: gateway {peak_mb(pid):.0f} MB")
        finally:
            await supervisor.stop()
            await asyncio.wait({running})


async def _measure(rounds: int, direct: Run, through: Run) -> None:
    rows: list[tuple[float, float, float, float]] = []
    for number in range(rounds + 1):
        first, second = (direct, through) if number % 2 else (through, direct)
        results = {first: await first(), second: await second()}
        if number:  # the first pair warms up
            rows.append((*results[direct], *results[through]))
    rate_ratio = statistics.median(row[2] / row[0] for row in rows)
    for name, at in (("direct", 0), ("gateway", 2)):
        rate, first_token = (statistics.median(row[at + n] for row in rows) for n in (0, 1))
        print(f"{name:8} {rate:6.1f} tokens/s   first token after {1000 * first_token:5.0f} ms")
    print(f"tokens/s through the gateway / direct: {rate_ratio:.3f} (median of {rounds} pairs, {TOKENS} tokens each)")


def _stream(url: str, key: str) -> Run:
    """One streamed answer: tokens per second after the first, and the time to the first, in seconds."""
    address = Address.parse(url)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    body = {
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": TOKENS,
        "temperature": 0.0,
        "seed": 1,
        "stream": True,
    }

    async def run() -> tuple[float, float]:
        begun = time.perf_counter()
        stamps: list[float] = []
        splitter = EventSplitter()
        with await open_exchange(
            address,
            "POST",
            "/v1/chat/completions",
            headers=headers,
            body=json.dumps(body).encode(),
            connect_timeout_s=5,
        ) as exchange:
            status = await exchange.read_head(60)
            if status != 200:
                raise SystemExit(f"bench: {url} answered {status}: {(await exchange.read_all(5))!r}")
            while data := await exchange.read(60):
                events = splitter.feed(data)
                stamps += [time.perf_counter()] * sum(b'"content":"' in event for event in events)
                if DONE in events:
                    break
        return (len(stamps) - 1) / (stamps[-1] - stamps[0]), stamps[0] - begun

    return run
