"""A thousand callers at once on one gateway process: streams, cuts, readers who do not read, uploads that break off."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator

import pytest

from bench.load import CHAT, RESPONSES, Connections, Reply, Target, all_at_once, connect
from bench.processes import allow_many_files, gateway, mock, resident_kb
from bench.script import Script

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
COUNT = 1000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway process in front of a fast upstream."""
    allow_many_files()
    with (
        mock() as upstream,
        gateway(tmp_path_factory.mktemp("many") / "data", f"http://127.0.0.1:{upstream.port}") as target,
    ):
        yield target


def of(target: Target, path: str) -> Target:
    return Target(target.name, target.pid, target.port, target.key, path)


async def _alive(target: Target, waits_s: list[float]) -> None:
    """Asks for /healthz over and over, on a connection of its own each time, as a liveness probe does."""
    while True:
        begun = time.monotonic()
        reply = await target.ask(target.get("/healthz"))
        assert reply.status == 200
        waits_s.append(time.monotonic() - begun)
        await asyncio.sleep(0.05)


def test_a_thousand_streams_at_once_and_the_gateway_answers_its_probes(served: Target) -> None:
    script = Script(tokens=20, first_ms=2000, spread_ms=500, pace_ms=250)

    async def run() -> tuple[list[Reply], list[float]]:
        waits_s: list[float] = []
        probing = asyncio.create_task(_alive(served, waits_s))
        async with Connections(served, COUNT) as connections:
            answers = []
            for at in range(0, COUNT, 50):  # they come within a second, and all are open before the first token
                answers += [connection.send(served.request(script)) for connection in connections[at : at + 50]]
                await asyncio.sleep(0.05)
            replies = await asyncio.gather(*answers)
        probing.cancel()
        await asyncio.wait([probing])
        assert probing.cancelled(), probing.exception()
        return replies, waits_s

    replies, waits_s = asyncio.run(run())
    assert [reply.tokens for reply in replies if reply.is_complete] == [20] * COUNT
    assert len(waits_s) > 10
    *_, third, _, worst = sorted(waits_s)  # the callers are on the same two cores, in the same process as the probe
    assert third < 0.5, sorted(waits_s)[-5:]
    assert worst < 2


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_tokens_come_one_by_one_as_they_are_made(served: Target, path: str) -> None:
    """Not in one lump at the end: each within a moment of its making, the first long before the last."""
    target = of(served, path)
    script = Script(tokens=25, pace_ms=40, stamp=1)
    replies = [asyncio.run(target.ask(target.request(script))) for _ in range(3)]
    for reply in replies:
        assert reply.tokens == len(reply.ages_s) == 25
        assert reply.ttft_s < 0.5
        assert reply.ended_at - reply.begun_at > 24 * 0.04
        assert statistics.median(reply.ages_s) < 0.02
        assert max(reply.ages_s) < 0.4  # a lump at the end would be a second old


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_thousand_streams_cut_at_any_place_and_none_looks_whole(served: Target, path: str) -> None:
    target, chance = of(served, path), random.Random(20261122)
    scripts = [
        Script(tokens=20, fault=chance.choice(["ends", "resets", "half"]), after=chance.randrange(20), batch=5)
        for _ in range(COUNT // 2)
    ]

    async def run() -> list[Reply]:
        replies = []
        for at in range(0, len(scripts), 50):
            async with Connections(target, 50) as connections:
                sent = zip(connections, scripts[at : at + 50], strict=True)
                replies += await asyncio.gather(*(one.send(target.request(script)) for one, script in sent))
        return replies

    replies = asyncio.run(run())
    assert len(replies) == len(scripts)
    for reply in replies:
        assert reply.status in (200, 502), reply
        assert b"[DONE]" not in reply.body
        assert b"response.completed" not in reply.body
        assert not reply.is_complete
        assert b'"error":' in reply.body  # it is said, not only left out
    whole = asyncio.run(target.ask(target.request(Script(tokens=5))))
    assert whole.is_complete


def test_a_thousand_callers_who_do_not_read_fill_no_memory(served: Target) -> None:
    """Answers of more than a megabyte each: what does not go out is not fetched from the upstream."""
    script = Script(tokens=4000, batch=50)

    async def run() -> tuple[float, list[Reply]]:
        async with Connections(served, 200) as connections:
            await all_at_once(connections, served.request(Script(tokens=100, batch=50)))
        before_kb = resident_kb(served.pid)
        async with Connections(served, COUNT, is_slow=True) as connections:
            answers = [connection.send(served.request(script)) for connection in connections]
            seen, now = -1, 0
            for _ in range(30):  # until it stands still
                await asyncio.sleep(1)
                seen, now = now, resident_kb(served.pid)
                if abs(now - seen) < 500:
                    break
            for connection in connections[:5]:
                connection.read_on()
            return (now - before_kb) / COUNT, await asyncio.gather(*answers[:5])

    each_kb, read_on = asyncio.run(run())
    assert each_kb < 256
    assert [reply.tokens for reply in read_on if reply.is_complete] == [script.tokens] * 5


def test_uploads_that_break_off_leave_nothing_behind(served: Target) -> None:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.key}\r\ncontent-type: application/json\r\n"
    )
    part = (
        f'{head}content-length: 1000000\r\n\r\n{{"messages": [{{"role": "user", "content": "'.encode() + b"x" * 900_000
    )

    async def batch() -> int:
        for _ in range(20):
            connections = [await connect(served) for _ in range(10)]
            for connection in connections:
                connection.send(part)
            await asyncio.sleep(0.05)
            for connection in connections:
                connection.leave()
        status = await served.ask(served.get("/v1/status"))
        assert (status.json()["running"], status.json()["waiting"]) == (0, 0)
        return resident_kb(served.pid)

    async def run() -> tuple[int, int]:
        await batch()
        return await batch(), await batch()

    before_kb, after_kb = asyncio.run(run())
    assert after_kb - before_kb < 8_000  # 180 MB were sent
    assert asyncio.run(served.ask(served.request(Script(tokens=5)))).is_complete
