"""Limits under a crowd: exactly what is allowed passes, and the wait that is told is the true one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from bench.load import Connections, Reply, Target, all_at_once
from bench.processes import gateway, mock, new_key
from bench.script import Script
from bench.table import Options, Row, not_measured

_CROWD = 1000
_ADMITTED = 20
_EDGE_S = 0.05
_WAIT_RPM = 120
_TOKENS_A_MINUTE = 6000
_CALLERS = 200
_EDGE_MUST = "right to 50 ms"


async def measure(options: Options) -> list[Row]:
    """Keys with limits of their own, in front of the mock."""
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with gateway(data, f"http://127.0.0.1:{upstream.port}") as ours:
            return [
                await _crowd(data, ours),
                await _waits(data, ours, options.pick(20, 6)),
                await _tokens(data, ours, options.pick(10, 4)),
            ]


def _with_key(data: Path, target: Target, name: str, *options: str) -> Target | None:
    secret = new_key(data, name, *options)
    return None if secret is None else Target(name, target.pid, target.port, secret)


async def _crowd(data: Path, ours: Target) -> Row:
    """1,000 connections send one request each at the same moment with a key of 20 a minute. The next one may pass 3 s
    later; all are answered before."""
    what, must = f"1,000 simultaneous requests against {_ADMITTED} a minute", f"exactly {_ADMITTED} admitted"
    target = _with_key(data, ours, "crowd", "--rpm", str(_ADMITTED))
    if target is None:
        return not_measured(what, "no key with a limit of its own could be made", must)
    async with Connections(target, _CROWD) as connections:
        begun = time.monotonic()
        replies = await all_at_once(connections, target.request(Script(tokens=5)))
        lasted = time.monotonic() - begun
    passed = sum(reply.is_complete for reply in replies)
    refused = sum(reply.status == 429 for reply in replies)
    told = f"{passed} admitted, {refused} refused with 429, in {lasted:.1f} s"
    return Row(what, told, must, passed == _ADMITTED and passed + refused == _CROWD and lasted < 60 / _ADMITTED)


async def _waits(data: Path, ours: Target, samples: int) -> Row:
    """A key of 120 a minute is spent; then, again and again, a refusal tells its wait (`retry-after-ms`), a request 50
    ms before that moment must be refused, and one 50 ms after it must pass."""
    what = "Retry-After of a refused request"
    target = _with_key(data, ours, "waits", "--rpm", str(_WAIT_RPM))
    if target is None:
        return not_measured(what, "no key with a limit of its own could be made", _EDGE_MUST)
    request = target.request(Script(tokens=1))
    early = late = 0
    async with Connections(target, 1) as (connection,):
        while (reply := await connection.send(request)).status == 200:
            pass
        for _ in range(samples):
            due_at = reply.ended_at + _told_s(reply)
            await asyncio.sleep(max(0.0, due_at - _EDGE_S - time.monotonic()))
            early += (await connection.send(request)).status == 429
            await asyncio.sleep(max(0.0, due_at + _EDGE_S - time.monotonic()))
            late += (await connection.send(request)).status == 200
            reply = await connection.send(request)
    told = f"{early} of {samples} refused 50 ms before, {late} of {samples} admitted 50 ms after"
    return Row(what, told, _EDGE_MUST, early == late == samples)


def _told_s(reply: Reply) -> float:
    return float(reply.headers["retry-after-ms"]) / 1000


async def _tokens(data: Path, ours: Target, seconds: int) -> Row:
    """200 callers of one key with 6,000 tokens a minute ask without a pause for answers that may have 64 tokens and
    have 5 to 24. What the answers' usage adds up to at any moment, against 6,000 and a hundred more each second."""
    what, must = "token overshoot: 200 callers of one key with 6,000 tokens a minute", "0"
    target = _with_key(data, ours, "tokens", "--rpm", "1000000", "--tpm", str(_TOKENS_A_MINUTE))
    if target is None:
        return not_measured(what, "this version has no limit of tokens", must)
    used: list[tuple[float, int]] = []
    begun = time.monotonic()

    async def ask(number: int) -> None:
        script = Script(tokens=5 + number % 20, pace_ms=2)
        request = target.request(script, max_tokens=64, stream_options={"include_usage": True})
        async with Connections(target, 1) as (connection,):
            while time.monotonic() < begun + seconds:
                reply = await connection.send(request)
                if reply.is_complete:
                    used.append((reply.ended_at, _usage(reply)))
                else:
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(ask(number) for number in range(_CALLERS)))
    total = overshoot = 0
    for at, tokens in sorted(used):
        total += tokens
        overshoot = max(overshoot, total - int(_TOKENS_A_MINUTE * (1 + (at - begun) / 60)))
    allowed = int(_TOKENS_A_MINUTE * (1 + seconds / 60))
    return Row(
        what, f"{overshoot} ({total} tokens used of {allowed} in {seconds} s)", must, overshoot == 0 and total > 0
    )


def _usage(reply: Reply) -> int:
    _, _, after = reply.body.rpartition(b'"total_tokens":')
    return int(after.split(b"}")[0].split(b",")[0])
