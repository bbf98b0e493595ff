"""Limits in a real Redis: the same schedules against the same oracle as in memory, several gateways, and Redis away."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings

from gateway.errors import LimitsUnavailable, RateLimited
from gateway.limits import Allowance
from gateway.redis_limits import LUA, RedisLimits, scripts
from gateway.redis_line import Line
from tests.fakes.inference import FakeInference, Scenario
from tests.limits_schedule import Step, allowances, outcome, play, steps
from tests.redis_server import RedisServer, needs_redis, redis_server
from tests.running_gateway import GatewayProcess, client_of, eventually, run_gateway, run_gateway_process

pytestmark = [pytest.mark.contract, needs_redis]
HI = {"messages": [{"role": "user", "content": "hi"}]}
TIME = "redis.call('TIME')"
KEY = Allowance("key", 10, tpm=1000, streams=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.client.flushall()
    return server


@asynccontextmanager
async def running(redis: RedisServer, **fields: Any) -> AsyncIterator[RedisLimits]:
    line = Line(redis.url, scripts(fields.pop("lua", None)), "each gateway counts for itself until it is back")
    limits = RedisLimits(line, **({"is_open": True} | fields))
    async with line.running(), limits.running():
        yield limits


async def eventually_true(condition: Callable[[], Any], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.01)


def held_to_the_definition(redis: RedisServer, given: list[Allowance], schedule: list[Step]) -> None:
    """Plays a schedule with a clock that the test sets, in place of Redis's."""
    lua = LUA.read_text()
    assert lua.count(TIME) == 1
    redis.client.flushdb()
    micros = 1_700_000_000_000_000

    def advance(seconds: float) -> float:
        nonlocal micros
        micros += round(seconds * 1e6)
        redis.client.mset({"s": micros // 1_000_000, "us": micros % 1_000_000})
        return micros / 1e6 - 1_700_000_000

    async def go() -> None:
        lua_with_clock = lua.replace(TIME, "redis.call('MGET', 's', 'us')")
        async with running(redis, lua=lua_with_clock, lease_s=1e9) as limits:
            await play(limits, given, schedule, advance)
            assert limits.line.is_up, "this was played in memory"

    asyncio.run(go())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(given=allowances, schedule=steps)
def test_any_schedule_is_held_to_the_definition(
    redis: RedisServer, given: list[Allowance], schedule: list[Step]
) -> None:
    held_to_the_definition(redis, given, schedule)


@pytest.mark.parametrize("seed", range(10))
def test_schedules_of_one_budget_that_is_always_nearly_spent(redis: RedisServer, seed: int) -> None:
    chance = random.Random(seed)
    actions = ["reserve and charge"] * 4 + ["settle"] * 3 + ["refund", "unknown"]
    size = chance.randint(5, 60)
    schedule = [
        (chance.choice(actions), chance.choice([0, 0, 0, chance.expovariate(0.2)]), chance.randrange(size // 2))
        for _ in range(300)
    ]
    held_to_the_definition(redis, [Allowance("key", None, tpm=size)], schedule)


def test_two_hundred_concurrent_callers_of_one_key(redis: RedisServer) -> None:
    chance = random.Random(1)
    schedule: list[Step] = [("reserve and charge", 0.0, chance.randrange(200)) for _ in range(200)]
    actions = ["reserve and charge"] * 5 + ["settle"] * 4 + ["refund"]
    schedule += [(chance.choice(actions), chance.expovariate(4), chance.randrange(1000)) for _ in range(600)]
    held_to_the_definition(redis, [Allowance("key", 240, tpm=60_000, tpd=1_000_000, streams=200)], schedule)


async def admitted(calls: list[Coroutine[Any, Any, Any]]) -> int:
    return sum(not isinstance(answer, RateLimited) for answer in await asyncio.gather(*map(outcome, calls)))


def test_exactly_n_of_a_thousand_at_once_in_several_places(redis: RedisServer) -> None:
    async def go() -> int:
        async with AsyncExitStack() as stack:
            places = [await stack.enter_async_context(running(redis)) for _ in range(4)]
            # a limit so low that nothing drains while the test runs
            return await admitted([places[n % 4].reserve([Allowance("key", 50)]) for n in range(1000)])

    started = time.monotonic()
    count = asyncio.run(go())
    assert 50 <= count <= 50 + int((time.monotonic() - started) * 50 / 60)


def test_what_one_gives_back_another_has_at_once(redis: RedisServer) -> None:
    async def go() -> None:
        async with running(redis) as one, running(redis) as other:
            key = Allowance("key", 1, tpm=100, tpd=100, streams=1)
            held = await one.reserve([key])
            await held.charge_tokens(100)
            assert held.headers()["x-ratelimit-remaining-tokens"] == "0"
            with pytest.raises(RateLimited):
                await other.reserve([key])
            await held.refund()
            second = await outcome(one.reserve([key]))  # its line keeps the order
            assert not isinstance(second, RateLimited)
            await second.charge_tokens(100)
            await second.settle(30)
            await eventually_true(lambda: not redis.client.exists("gateway:limits:streams:key"))
            third = await other.reserve([Allowance("key", None, tpm=100, tpd=100)])
            with pytest.raises(RateLimited, match="and 70 are left"):
                await third.charge_tokens(90)
            await third.charge_tokens(70)

    asyncio.run(go())


def test_an_answer_at_once_of_a_gateway_that_died_ends_with_its_lease(redis: RedisServer) -> None:
    async def go() -> None:
        key = Allowance("key", None, streams=1)
        async with running(redis) as alive:
            async with running(redis, lease_s=0.5) as dying:
                await dying.reserve([key])
            assert isinstance(await outcome(alive.reserve([key])), RateLimited)
            await asyncio.sleep(0.6)
            assert not isinstance(await outcome(alive.reserve([key])), RateLimited)

    asyncio.run(go())


def test_an_answer_that_runs_keeps_its_lease(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.redis_limits._RENEW_S", 0.1)

    async def go() -> None:
        key = Allowance("key", None, streams=1)
        async with running(redis, lease_s=0.5) as limits:
            held = await limits.reserve([key])
            await asyncio.sleep(1.0)
            assert isinstance(await outcome(limits.reserve([key])), RateLimited)
            await held.settle(None)
            assert not isinstance(await outcome(limits.reserve([key])), RateLimited)

    asyncio.run(go())


def test_nothing_stays_in_redis(redis: RedisServer) -> None:
    async def go() -> None:
        async with running(redis) as limits:
            for n in range(20):
                held = await limits.reserve([Allowance(f"key {n}", 600_000, tpm=10**9, streams=3)])
                await held.charge_tokens(100)
                await held.settle(50)
            await limits.reserve([Allowance("open", 600_000, streams=3)])

    asyncio.run(go())
    for key in redis.client.scan_iter("*"):
        assert 0 < redis.client.pttl(key) <= 17_000, key


def test_redis_goes_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open: each gateway counts for itself meanwhile, nobody waits, and what was held is settled afterwards."""
    monkeypatch.setattr("gateway.redis_line._LOOK_AGAIN_S", 0.1)
    caplog.set_level(logging.INFO, logger="gateway.redis")

    async def go(redis: RedisServer) -> None:
        async with running(redis) as limits:
            held = await limits.reserve([KEY])
            await held.charge_tokens(1000)
            redis.kill()
            assert await admitted([limits.reserve([KEY]) for _ in range(20)]) == 5
            assert not limits.line.is_up
            started = time.monotonic()
            assert await admitted([limits.reserve([Allowance("other", 10)]) for _ in range(20)]) == 10
            assert time.monotonic() - started < 0.2
            redis.start()
            await eventually_true(lambda: limits.line.is_up)
            await held.settle(400)
            fresh = await limits.reserve([KEY])
            await fresh.charge_tokens(1000)  # the Redis that came back is empty
            with pytest.raises(RateLimited):
                await (await limits.reserve([KEY])).charge_tokens(100)

    with redis_server(tmp_path) as server:
        asyncio.run(go(server))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert "each gateway counts for itself" in told[0]
    assert "Redis is back" in told[1]


def test_what_ends_while_redis_is_away_is_told_to_it_afterwards(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that froze remembers: without that, the estimate would stand for up to a day."""
    monkeypatch.setattr("gateway.redis_line._LOOK_AGAIN_S", 0.1)

    async def go() -> None:
        async with running(redis) as limits:
            key = Allowance("key", None, tpd=1000, streams=1)
            held = await limits.reserve([key])
            await held.charge_tokens(1000)
            with redis.frozen():
                started = time.monotonic()
                unlucky = await limits.reserve([key])  # taken in memory, and perhaps in Redis too
                assert 0.2 < time.monotonic() - started < 2
                assert not limits.line.is_up
                await unlucky.settle(None)
                await held.settle(100)
            await eventually_true(lambda: limits.line.is_up)
            with pytest.raises(RateLimited, match="900 are left"):
                await (await limits.reserve([key])).charge_tokens(950)

    asyncio.run(go())


def test_closed_means_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.redis_line._LOOK_AGAIN_S", 0.1)

    async def go(redis: RedisServer) -> None:
        async with running(redis, is_open=False) as limits:
            held = await limits.reserve([KEY])
            redis.kill()
            with pytest.raises(LimitsUnavailable) as refused:
                await held.charge_tokens(5)
            assert refused.value.headers()["retry-after"] == "1"
            with pytest.raises(LimitsUnavailable):
                await limits.reserve([KEY])
            await held.settle(None)
            redis.start()
            await eventually_true(lambda: limits.line.is_up)
            await limits.reserve([KEY])

    with redis_server(tmp_path) as server:
        asyncio.run(go(server))


def test_a_redis_that_takes_no_writes_is_as_good_as_away(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.redis_line._LOOK_AGAIN_S", 0.05)

    async def go() -> None:
        async with running(redis) as limits:
            redis.client.config_set("maxmemory", "1")
            try:
                assert await admitted([limits.reserve([Allowance("key", 5)]) for _ in range(20)]) == 5
                await asyncio.sleep(0.3)
                assert not limits.line.is_up
            finally:
                redis.client.config_set("maxmemory", "0")
            await eventually_true(lambda: limits.line.is_up)

    asyncio.run(go())
    assert len(caplog.records) == 2


def test_scripts_that_redis_has_forgotten_are_loaded_again(redis: RedisServer) -> None:
    async def go() -> None:
        async with running(redis) as limits:
            redis.client.script_flush()
            assert await admitted([limits.reserve([Allowance("key", 3)]) for _ in range(9)]) == 3
            assert limits.line.is_up

    asyncio.run(go())


def test_a_caller_who_leaves_while_redis_is_asked_is_charged_nothing(redis: RedisServer) -> None:
    async def go() -> None:
        async with running(redis) as limits:
            key = Allowance("key", 1, streams=1)
            asking = asyncio.create_task(limits.reserve([key]))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
            assert not isinstance(await outcome(limits.reserve([key])), RateLimited)

    asyncio.run(go())


# --- whole gateways


def ask(gateway: GatewayProcess, secret: str) -> httpx2.Response:
    with client_of(gateway.url, secret) as client:
        return client.post("/v1/chat/completions", json=HI)


@pytest.fixture
def fake(fake: FakeInference) -> FakeInference:
    fake.scenario = Scenario(words=["a"])
    return fake


def test_several_gateways_admit_exactly_n_of_a_thousand(
    fake: FakeInference, redis: RedisServer, tmp_path: Path
) -> None:
    """Three processes, each with a copy of one database, and one Redis: the key has the same id in all."""
    environ = {
        "REDIS_URL": redis.url,
        "GATEWAY_ALL_USERS_RPM": "20",
        "GATEWAY_SLOTS": "64",
        "GATEWAY_MAX_WAITING": "999",
    }
    with ExitStack() as stack:
        first = stack.enter_context(run_gateway_process(tmp_path / "a", fake.url, environ))
        first.stop()
        gateways = []
        for name in "abc":
            if name != "a":
                (tmp_path / name).mkdir()
                for file in (tmp_path / "a").glob("*"):
                    (tmp_path / name / file.name).write_bytes(file.read_bytes())
            gateways.append(stack.enter_context(run_gateway_process(tmp_path / name, fake.url, environ)))
        secret = (tmp_path / "a" / "webui.key").read_text().strip()
        started = time.monotonic()
        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(lambda n: ask(gateways[n % 3], secret).status_code, range(1000)))
        took_s = time.monotonic() - started
        assert set(answers) == {200, 429}
        assert 20 <= answers.count(200) <= 20 + int(took_s * 20 / 60)
        over = ask(gateways[0], secret)
        wait_s = int(over.headers["retry-after-ms"]) / 1000
        time.sleep(wait_s + 0.05)
        assert ask(gateways[1], secret).status_code == 200


def test_a_killed_gateway_frees_its_answers(fake: FakeInference, redis: RedisServer, tmp_path: Path) -> None:
    environ = {"REDIS_URL": redis.url}
    with run_gateway_process(tmp_path / "a", fake.url, environ) as gateway:
        fake.scenario = Scenario("silent_first_token")
        with (
            ThreadPoolExecutor(1) as pool,
            client_of(gateway.url, (tmp_path / "a/webui.key").read_text().strip()) as client,
        ):
            asking = pool.submit(client.post, "/v1/chat/completions", json=HI, headers={"x-end-user": "ann"})
            (key,) = eventually(lambda: list(redis.client.scan_iter("gateway:limits:streams:*")))
            assert redis.client.zcard(key) == 1
            gateway.process.kill()
            assert isinstance(asking.exception(), httpx2.TransportError)
        assert redis.client.pttl(key) <= 17_000  # nobody renews it
    fake.release()


def test_a_gateway_that_starts_without_redis(fake: FakeInference, tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/0"
    with run_gateway(tmp_path / "open", fake, redis_url=url, key_rpm=2) as gateway, gateway.client() as client:
        assert [client.post("/v1/chat/completions", json=HI).status_code for _ in range(3)] == [200, 200, 429]
    closed = {"redis_url": url, "limits_without_redis": "closed"}
    with run_gateway(tmp_path / "closed", fake, **closed) as gateway, gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=HI)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "limits_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert client.get("/v1/models").is_success
