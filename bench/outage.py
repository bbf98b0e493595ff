"""The database goes away and comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import RESPONSES, Connections, Reply, Target
from bench.processes import gateway, mock
from bench.script import Script
from bench.table import Options, Row, not_measured
from tests.postgresql_server import PostgresServer, postgres_server

_MUST = "stateless chats go on, stored ones get 503 history_unavailable, nothing acknowledged is lost, never a 401"
_BACK_WITHIN_S = 15


@dataclass
class Seen:
    """What clients got: chats by status; stored turns that were refused by status and code, those acknowledged."""

    chats: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stored: list[str] = field(default_factory=list)


async def measure(options: Options) -> list[Row]:
    """A real PostgreSQL is stopped as by a crash (`pg_ctl -m immediate`) for 60 s. Four clients chat without the store,
    four store turns (5 tokens), all without a pause but 50 ms, and two stored answers are under way over the stop and
    over the start. Afterwards every turn whose end was told to its client must be there."""
    away_s = options.pick(60, 8)
    what = f"database away for {away_s} s (PostgreSQL)"
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return [not_measured(what, "no PostgreSQL server is installed", _MUST)]
    with postgres_server() as server, mock() as upstream, tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{upstream.port}"
        with gateway(Path(folder) / "data", url, DATABASE_URL=server.new_database()) as chat:
            return [await _outage(what, server, chat, away_s)]


async def _outage(what: str, server: PostgresServer, chat: Target, away_s: float) -> Row:
    stored = dataclasses.replace(chat, path=RESPONSES)
    before, away, after = Seen(), Seen(), Seen()
    now = [before]
    stop = asyncio.Event()
    clients = [asyncio.create_task(_keep_asking(one, lambda: now[0], stop)) for one in 4 * (chat, stored)]
    await asyncio.sleep(2)
    long = asyncio.create_task(stored.ask(stored.request(Script(tokens=40, first_ms=10, pace_ms=50))))
    await asyncio.sleep(1)
    await asyncio.to_thread(server.stop, "immediate")
    now[0] = away
    await asyncio.sleep(away_s - 2)
    later = asyncio.create_task(chat.ask(chat.request(Script(tokens=80, first_ms=10, pace_ms=50))))
    await asyncio.sleep(2)
    now[0] = Seen()  # while it starts, both answers are right
    await asyncio.to_thread(server.start)
    began = time.monotonic()
    now[0] = after
    while not after.stored and time.monotonic() < began + _BACK_WITHIN_S:
        await asyncio.sleep(0.02)
    back_s = time.monotonic() - began
    await asyncio.sleep(2)
    stop.set()
    await asyncio.gather(*clients)
    reply = await long
    if reply.is_complete and reply.response_id:
        before.stored.append(reply.response_id)
    is_whole = (await later).is_complete
    acknowledged = [*before.stored, *away.stored, *after.stored]
    lost = await _lost(stored, acknowledged)
    chats = before.chats + away.chats + after.chats
    told = (
        f"{chats['complete']} of {chats.total()} chats answered ({away.chats['complete']} meanwhile); "
        f"stored meanwhile: {_in_words(away.refused)}; {lost} of {len(acknowledged)} acknowledged lost; "
        f"back after {back_s:.1f} s"
    )
    is_refused_right = set(away.refused) <= {"503 history_unavailable"} and away.refused.total() > 0
    is_reached = chats["complete"] == chats.total() and is_refused_right and lost == 0 and is_whole
    return Row(what, told, _MUST, is_reached and back_s < _BACK_WITHIN_S)


async def _keep_asking(target: Target, now: Callable[[], Seen], stop: asyncio.Event) -> None:
    async with Connections(target, 1) as (connection,):
        while not stop.is_set():
            begun_in = now()
            reply = await connection.send(target.request(Script(tokens=5), stream=target.path != RESPONSES))
            if begun_in is now():  # those on the border may go either way
                _note(begun_in, target, reply)
            elif target.path == RESPONSES and reply.is_complete:
                begun_in.stored.append(str(reply.response_id))
            await asyncio.sleep(0.05)


def _note(seen: Seen, target: Target, reply: Reply) -> None:
    if target.path != RESPONSES:
        seen.chats["complete" if reply.is_complete else str(reply.status)] += 1
    elif reply.is_complete:
        seen.stored.append(str(reply.response_id))
    else:
        seen.refused[f"{reply.status} {reply.json()['error']['code']}"] += 1


async def _lost(target: Target, names: list[str]) -> int:
    lost = 0
    async with Connections(target, 1) as (connection,):
        for name in names:
            lost += not (await connection.send(target.get(f"{RESPONSES}/{name}"))).is_complete
    return lost


def _in_words(refused: Counter[str]) -> str:
    return ", ".join(f"{count} × {code}" for code, count in refused.most_common()) or "none refused"
