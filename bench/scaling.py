"""What a request takes of each part when several gateways run: the gateway, Redis, PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.load import CHAT, RESPONSES, Connections, Target, all_at_once
from bench.processes import cpu_s, gateway, mock
from bench.script import Script
from bench.table import Options, Row, not_measured
from tests.postgresql_server import PostgresServer, postgres_server
from tests.redis_server import PROGRAM as REDIS
from tests.redis_server import redis_server

_STREAMS = 64
_ANSWERS = 4
_SCRIPT = Script(tokens=20, first_ms=20, spread_ms=20, pace_ms=20)
_WHAT = "CPU of each part for a streamed answer of 20 tokens"
Clock = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """A load on one or more gateways, which share it, and the clocks of the processes that have to do with it."""

    name: str
    streams: int
    targets: list[Target]
    clocks: dict[str, Clock]


async def measure(options: Options) -> list[Row]:
    """64 answers of 20 tokens at a time, one each 20 ms, four times; chat (stateless) and stored, at a gateway as it
    comes (limits in memory, SQLite), with Redis, with Redis and PostgreSQL, and at two of those, half at each; half at
    one alone tells how much of the difference is smaller batches. CPU seconds of all threads and processes of each
    part, divided by the answers. PostgreSQL runs without fsync: what a disk takes is waiting, not CPU. Cases take
    turns in each round; medians are told."""
    if REDIS is None or not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return [not_measured(_WHAT, "redis-server and PostgreSQL are not both installed", "")]
    with ExitStack() as stack:
        cases = _cases(stack)
        taken: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
        for number in range(options.rounds + 1):
            for case in cases if number % 2 else reversed(cases):
                found = await _one_pass(case)
                if number:  # the first round warms up
                    taken[case.name].append(found)
    return [Row(f"{_WHAT}: {name}", _told(rounds)) for name, rounds in taken.items()]


def _cases(stack: ExitStack) -> list[Case]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    upstream = f"http://127.0.0.1:{stack.enter_context(mock()).port}"
    redis = stack.enter_context(redis_server(folder))
    postgres = stack.enter_context(postgres_server())
    shared = {"REDIS_URL": redis.url, "DATABASE_URL": postgres.new_database()}
    plain = stack.enter_context(gateway(folder / "plain", upstream))
    limited = stack.enter_context(gateway(folder / "limited", upstream, REDIS_URL=f"{redis.url[:-1]}1"))
    first = stack.enter_context(gateway(folder / "shared", upstream, **shared))
    second = stack.enter_context(gateway(folder / "shared", upstream, **shared))
    redis_pid = int(redis.client.info("server")["process_id"])
    servers: dict[str, Clock] = {"Redis": lambda: cpu_s(redis_pid), "PostgreSQL": lambda: _postgres_s(postgres)}
    only_redis = {"Redis": servers["Redis"]}
    return [
        _case("chat, limits in memory", CHAT, [plain], {}),
        _case("chat, Redis", CHAT, [limited], only_redis),
        _case("stored, limits in memory, SQLite", RESPONSES, [plain], {}),
        _case("stored, Redis and PostgreSQL", RESPONSES, [first], servers),
        _case("stored, two gateways with Redis and PostgreSQL", RESPONSES, [first, second], servers),
        _case("stored, one of the two with its half alone", RESPONSES, [first], servers, _STREAMS // 2),
    ]


def _case(name: str, path: str, gateways: list[Target], servers: dict[str, Clock], streams: int = _STREAMS) -> Case:
    targets = [dataclasses.replace(one, path=path) for one in gateways]
    return Case(name, streams, targets, {"gateway": lambda: sum(cpu_s(one.pid) for one in targets), **servers})


def _postgres_s(server: PostgresServer) -> float:
    """Of the postmaster and its children; connections stay open, so none of them ends meanwhile."""
    postmaster = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return sum(cpu_s(pid) for pid in (postmaster, *map(int, children)))


async def _one_pass(case: Case) -> dict[str, float]:
    """CPU seconds of each part for one answer."""
    before = {name: clock() for name, clock in case.clocks.items()}
    share = case.streams // len(case.targets)
    await asyncio.gather(*(_ask(target, share) for target in case.targets))
    answers = case.streams * _ANSWERS
    return {name: (clock() - before[name]) / answers for name, clock in case.clocks.items()}


async def _ask(target: Target, streams: int) -> None:
    async with Connections(target, streams) as connections:
        for _ in range(_ANSWERS):
            for reply in await all_at_once(connections, target.request(_SCRIPT)):
                if not reply.is_complete:
                    raise SystemExit(f"bench: an answer was not complete: {reply.status} {reply.body[-500:]!r}")


def _told(rounds: list[dict[str, float]]) -> str:
    parts = ((name, 1000 * statistics.median(one[name] for one in rounds)) for name in rounds[0])
    return ", ".join(f"{name} {cost:.2f} ms" for name, cost in parts)
