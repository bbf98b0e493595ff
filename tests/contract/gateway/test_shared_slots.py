"""Slots that several gateways share in a real Redis: never too many, none lost, nobody starved, whoever dies."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway import redis_inbox, shared_slots
from gateway.admission import Tell
from gateway.errors import Overloaded
from gateway.redis_inbox import Inbox
from gateway.redis_line import Line
from gateway.shared_slots import SharedAdmission
from tests.fakes.inference import FakeInference, Scenario, fake_inference
from tests.redis_server import RedisServer, needs_redis, redis_server
from tests.running_gateway import GatewayProcess, client_of, eventually, run_gateway_process

pytestmark = [pytest.mark.contract, needs_redis]
HI = {"messages": [{"role": "user", "content": "hi"}]}
SERVERS = {"tgi-1": "http://one:80", "tgi-2": "http://two:80"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.client.flushall()
    return server


class Place:
    """One gateway's side."""

    def __init__(self, line: Line, admission: SharedAdmission) -> None:
        self.line, self.admission = line, admission


@asynccontextmanager
async def place(redis: RedisServer, name: str, **fields: Any) -> AsyncIterator[Place]:
    line = Line(redis.url, redis_inbox.scripts() | shared_slots.scripts(), "each takes its share")
    inbox = Inbox(redis.url, line, name)
    servers = fields.pop("servers", SERVERS)
    wanted = {"server_slots": 2, "takes": lambda: list(servers), "max_waiting": 100, "max_wait_s": 10.0} | fields
    admission = SharedAdmission(line, inbox, servers, **wanted)
    async with line.running(), inbox.running(), admission.renewed():
        yield Place(line, admission)


@asynccontextmanager
async def places(redis: RedisServer, count: int, **fields: Any) -> AsyncIterator[list[Place]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(place(redis, f"gw_{n}", **fields)) for n in range(count)]


async def eventually_true(condition: Callable[[], Any], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.01)


def held(redis: RedisServer) -> int:
    return sum(redis.client.zcard(key) for key in redis.client.scan_iter("gateway:slots:at:*"))


class Visits:
    """Leases at several places, and how many there were at once at each server."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []

    async def visit(self, at: Place, caller: str, hold: Any, tell: Tell | None = None) -> None:
        async with at.admission.lease(caller, tell) as slot:
            assert slot is not None
            server = slot.server or "tgi-1"  # as the gateway does, when it got one while Redis was away
            slot.use(server)
            self.order.append(caller)
            self.running[server] += 1
            self.most[server] = max(self.most[server], self.running[server])
            try:
                await (hold.wait() if isinstance(hold, asyncio.Event) else asyncio.sleep(hold))
            finally:
                self.running[server] -= 1


@pytest.mark.parametrize("seed", range(6))
def test_no_slot_is_lost_or_given_twice_whoever_comes_and_goes_where(redis: RedisServer, seed: int) -> None:
    async def scene() -> None:
        chance, visits = random.Random(seed), Visits()
        async with places(redis, 3) as gateways:
            tasks = []
            for _ in range(300):
                hold = chance.choice([0, 0.001, 0.004, 0.02])
                work = visits.visit(chance.choice(gateways), chance.choice("abcdef"), hold)
                tasks.append(asyncio.create_task(work))
                if chance.random() < 0.3:
                    chance.choice(tasks).cancel()
                if chance.random() < 0.3:
                    await asyncio.sleep(0.001)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {type(None), Overloaded, asyncio.CancelledError}
            assert visits.most == {"tgi-1": 2, "tgi-2": 2}
            await eventually_true(lambda: held(redis) == 0)
            for gateway in gateways:
                admission = gateway.admission
                assert (admission.running, admission.waiting) == (0, 0)
                assert not {**admission._first, **admission._others, **admission._running_of, **admission._held}

    asyncio.run(scene())


def test_a_free_slot_costs_one_round_trip(redis: RedisServer) -> None:
    async def scene() -> None:
        async with place(redis, "gw_0") as gateway:
            before = redis.client.info("commandstats")["cmdstat_evalsha"]["calls"]
            for _ in range(20):
                async with gateway.admission.lease("ann"):
                    pass
            await eventually_true(lambda: held(redis) == 0)
            after = redis.client.info("commandstats")["cmdstat_evalsha"]["calls"]
            assert 40 <= after - before <= 42  # one to ask; one to give back, which nobody waits for; a sign of life

    asyncio.run(scene())


def test_who_waits_at_one_place_is_not_behind_all_who_wait_at_another(redis: RedisServer) -> None:
    """A hundred of one caller here, one of another there, and slots that come free one after another."""

    async def scene() -> None:
        visits = Visits()
        async with places(redis, 2, server_slots=1) as (one, other):
            many = [asyncio.create_task(visits.visit(one, "ann", 0.01)) for _ in range(100)]
            await eventually_true(lambda: len(visits.order) >= 10)
            came_after = len(visits.order)
            for caller in ("bob", "cleo"):
                await visits.visit(other, caller, 0)
            assert visits.order.index("bob") - came_after <= 4, visits.order
            assert visits.order.index("cleo") - came_after <= 8, visits.order
            await asyncio.gather(*many)

    asyncio.run(scene())


def test_gateways_in_which_many_wait_take_turns(redis: RedisServer) -> None:
    async def scene() -> None:
        visits = Visits()
        async with places(redis, 3, server_slots=1, servers={"tgi-1": "http://one:80"}) as gateways:
            tasks = [
                asyncio.create_task(visits.visit(gateway, f"{n}", 0.005))
                for n, gateway in enumerate(gateways)
                for _ in range(40)
            ]
            await asyncio.gather(*tasks)
        middle = Counter(visits.order[10:70])
        assert max(middle.values()) - min(middle.values()) <= 12, middle

    asyncio.run(scene())


def test_the_place_counts_those_who_wait_elsewhere(redis: RedisServer) -> None:
    async def scene() -> None:
        visits, gate = Visits(), asyncio.Event()
        told: dict[str, list[int]] = {}
        async with places(redis, 2, server_slots=1, servers={"tgi-1": "http://one:80"}) as (one, other):
            tasks = [asyncio.create_task(visits.visit(one, "ann", gate))]
            await eventually_true(lambda: visits.order == ["ann"])

            def waits(at: Place, name: str) -> None:
                async def tell(number: int) -> None:
                    told.setdefault(name, []).append(number)

                tasks.append(asyncio.create_task(visits.visit(at, name, 0, tell)))

            for at, name in ((one, "a1"), (other, "b1"), (one, "a2"), (other, "b2")):
                waits(at, name)
                await asyncio.sleep(0.02)
            await asyncio.sleep(2.5)  # what is known of the others is refreshed every second
            assert {name: places[-1] for name, places in told.items()} == {"a1": 1, "b1": 2, "a2": 3, "b2": 4}
            gate.set()
            await asyncio.gather(*tasks)
            assert visits.order[1:] == ["a1", "b1", "a2", "b2"]

    asyncio.run(scene())


def test_a_full_waiting_room_refuses_whoever_is_too_many(redis: RedisServer) -> None:
    async def scene() -> None:
        visits, gate = Visits(), asyncio.Event()
        async with place(redis, "gw_0", max_waiting=5) as gateway:
            tasks = [asyncio.create_task(visits.visit(gateway, f"c{n}", gate)) for n in range(30)]
            await eventually_true(lambda: sum(task.done() for task in tasks) == 30 - 4 - 5)
            with pytest.raises(Overloaded, match="waiting room is full"):
                await visits.visit(gateway, "late", gate)
            gate.set()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert Counter(type(outcome) for outcome in outcomes) == {type(None): 9, Overloaded: 21}
            assert gateway.admission.refused == {"full": 22, "deadline": 0}

    asyncio.run(scene())


def test_nobody_waits_longer_than_the_deadline(redis: RedisServer) -> None:
    async def scene() -> None:
        visits, gate = Visits(), asyncio.Event()
        async with places(redis, 2, server_slots=1, max_wait_s=0.6, servers={"tgi-1": "http://one:80"}) as (one, other):
            first = asyncio.create_task(visits.visit(one, "ann", gate))
            await eventually_true(lambda: visits.order == ["ann"])
            with pytest.raises(Overloaded, match="in time"):
                await visits.visit(other, "bob", gate)
            gate.set()
            await first
            await visits.visit(other, "bob", 0)  # what is left of the earlier wish holds nothing up

    asyncio.run(scene())


def test_a_server_that_takes_nothing_gets_nothing(redis: RedisServer) -> None:
    async def scene() -> None:
        visits, gate, taking = Visits(), asyncio.Event(), ["tgi-2"]
        async with place(redis, "gw_0", takes=lambda: taking) as gateway:
            tasks = [asyncio.create_task(visits.visit(gateway, f"c{n}", gate)) for n in range(4)]
            await eventually_true(lambda: len(visits.order) == 2)
            assert visits.most == {"tgi-2": 2}
            taking.append("tgi-1")
            gateway.admission.resize(4)
            await eventually_true(lambda: len(visits.order) == 4)
            assert visits.most == {"tgi-1": 2, "tgi-2": 2}
            gate.set()
            await asyncio.gather(*tasks)

    asyncio.run(scene())


def test_an_answer_that_another_server_makes_counts_there(redis: RedisServer) -> None:
    async def scene() -> None:
        async with place(redis, "gw_0") as gateway, gateway.admission.lease("ann") as slot:
            assert slot is not None
            other = "tgi-2" if slot.server == "tgi-1" else "tgi-1"
            slot.use(other)
            await eventually_true(lambda: redis.client.zcard(f"gateway:slots:at:{SERVERS[other]}") == 1)
            assert held(redis) == 1

    asyncio.run(scene())


def test_what_runs_long_keeps_its_slot_and_what_nobody_renews_comes_free(redis: RedisServer) -> None:
    async def scene() -> None:
        visits, gate = Visits(), asyncio.Event()
        one = {"server_slots": 1, "servers": {"tgi-1": "http://one:80"}, "lease_s": 1.5}
        async with places(redis, 2, **one) as (here, there):
            long = asyncio.create_task(visits.visit(here, "ann", gate))
            await eventually_true(lambda: visits.order == ["ann"])
            waiting = asyncio.create_task(visits.visit(there, "bob", 0))
            await asyncio.sleep(3)
            assert not waiting.done()
            here.admission._renew = lambda: None  # type: ignore[method-assign]  # as if that gateway had died
            begun = time.monotonic()
            await asyncio.wait_for(waiting, 5)
            assert time.monotonic() - begun < 1.5 + 1.5
            gate.set()
            await long

    asyncio.run(scene())


def test_while_redis_is_away_each_takes_its_share_and_afterwards_they_share_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.redis_line._LOOK_AGAIN_S", 0.2)

    async def scene(redis: RedisServer) -> None:
        visits, gate = Visits(), asyncio.Event()
        async with places(redis, 2, server_slots=4, servers={"tgi-1": "http://one:80"}) as gateways:
            await eventually_true(lambda: all(gateway.admission._gateways == 2 for gateway in gateways))
            redis.kill()
            tasks = [asyncio.create_task(visits.visit(gateways[n % 2], f"c{n}", gate)) for n in range(12)]
            await eventually_true(lambda: len(visits.order) == 4)  # two each
            await asyncio.sleep(1.2)
            assert len(visits.order) == 4
            redis.start()
            await eventually_true(lambda: all(gateway.line.is_up for gateway in gateways))
            await eventually_true(lambda: held(redis) == 4)  # who runs was told to it
            tasks += [asyncio.create_task(visits.visit(gateways[0], f"d{n}", 0.05)) for n in range(8)]
            await asyncio.sleep(3)
            assert len(visits.order) == 4
            gate.set()
            await asyncio.gather(*tasks)
            assert visits.most["tgi-1"] == 4

    with redis_server(tmp_path) as server:
        asyncio.run(scene(server))
    assert any("takes its share" in record.getMessage() for record in caplog.records)


def test_a_redis_that_freezes_holds_nobody_up(redis: RedisServer) -> None:
    async def scene() -> None:
        visits = Visits()
        async with place(redis, "gw_0") as gateway:
            with redis.frozen():
                begun = time.monotonic()
                await visits.visit(gateway, "ann", 0)
                assert time.monotonic() - begun < 2
            await eventually_true(lambda: gateway.line.is_up)
            await visits.visit(gateway, "ann", 0)
            await eventually_true(lambda: held(redis) == 0)

    asyncio.run(scene())


def test_nothing_stays_in_redis(redis: RedisServer) -> None:
    async def scene() -> None:
        visits = Visits()
        async with places(redis, 2, server_slots=1) as gateways:
            await asyncio.gather(*(visits.visit(gateways[n % 2], f"c{n}", 0.002) for n in range(40)))

    asyncio.run(scene())
    for key in redis.client.scan_iter("*"):
        assert 0 < redis.client.pttl(key) <= 62_000, key


# --- whole gateways


@pytest.fixture
def fake(fake: FakeInference) -> Iterator[FakeInference]:
    yield fake
    fake.release()


def several(stack: ExitStack, folder: Path, fake: FakeInference, redis: RedisServer, **environ: str) -> Any:
    common = {"REDIS_URL": redis.url, "GATEWAY_SLOTS": "4", "GATEWAY_ALL_USERS_RPM": "100000", **environ}
    common |= {"GATEWAY_USER_RPM": "100000", "GATEWAY_USER_STREAMS": "1000", "GATEWAY_MAX_WAITING": "1000"}
    return [stack.enter_context(run_gateway_process(folder / f"{n}", fake.url, common)) for n in range(3)]


def ask(gateway: GatewayProcess, user: str) -> httpx2.Response:
    secret = (gateway.data_dir / "webui.key").read_text().strip()
    with client_of(gateway.url, secret, timeout=120) as client:
        return client.post("/v1/chat/completions", json=HI, headers={"x-end-user": user})


def test_three_gateways_with_many_callers_never_run_more_than_the_slots(
    fake: FakeInference, redis: RedisServer, tmp_path: Path
) -> None:
    fake.scenario = Scenario("slow", words=["a", "b", "c"], delay_s=0.01)
    with ExitStack() as stack:
        gateways = several(stack, tmp_path, fake, redis)
        with ThreadPoolExecutor(48) as pool:
            answers = list(pool.map(lambda n: ask(gateways[n % 3], f"user{n % 16}").status_code, range(400)))
        assert set(answers) == {200}
        assert len(fake.chats) == 400
        assert fake.most_chats == 4
        eventually(lambda: held(redis) == 0)


def test_two_servers_get_no_more_than_their_slots_each(fake: FakeInference, redis: RedisServer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(fake_inference())
        for server in (fake, second):
            server.scenario = Scenario("slow", words=["a", "b"], delay_s=0.01)
        both = {"GATEWAY_UPSTREAMS": f"llamacpp={fake.url},llamacpp={second.url}", "GATEWAY_SLOTS": "2"}
        gateways = several(stack, tmp_path, fake, redis, **both)
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda n: ask(gateways[n % 3], f"user{n % 16}").status_code, range(200)))
        assert set(answers) == {200}
        assert (fake.most_chats, second.most_chats) == (2, 2)
        assert len(fake.chats) + len(second.chats) == 200


def test_a_hundred_who_wait_at_one_gateway_do_not_hold_up_another(
    fake: FakeInference, redis: RedisServer, tmp_path: Path
) -> None:
    fake.scenario = Scenario("slow", words=["a", "b", "c"], delay_s=0.1)
    with ExitStack() as stack:
        gateways = several(stack, tmp_path, fake, redis)
        with ThreadPoolExecutor(100) as pool:
            many = [pool.submit(ask, gateways[0], "ann") for _ in range(100)]
            eventually(lambda: len(fake.chats) >= 8, within_s=20)
            before = len(fake.chats)
            assert ask(gateways[1], "bob").status_code == 200
            assert len(fake.chats) - before <= 24  # about two rounds of the four slots; the line is eighty long
            assert {each.result().status_code for each in many} == {200}
        assert fake.most_chats == 4


def test_redis_killed_and_back_the_slots_are_shared_again(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario("slow", words=["a", "b", "c"], delay_s=0.05)
    with redis_server(tmp_path) as redis, ExitStack() as stack:
        gateways = several(stack, tmp_path, fake, redis)
        with ThreadPoolExecutor(24) as pool:
            time.sleep(1.5)  # each has heard of the others
            asked = [pool.submit(ask, gateways[n % 3], f"user{n}") for n in range(60)]
            eventually(lambda: len(fake.chats) >= 12, within_s=20)
            redis.kill()
            asked += [pool.submit(ask, gateways[n % 3], f"user{n}") for n in range(60)]
            time.sleep(1.0)
            redis.start()
            assert {each.result().status_code for each in asked} == {200}
            eventually(lambda: "Redis is back" in gateways[0].output + gateways[1].output)
            fake.most_chats = fake.open_chats
            asked = [pool.submit(ask, gateways[n % 3], f"user{n}") for n in range(60)]
            assert {each.result().status_code for each in asked} == {200}
            assert fake.most_chats == 4


def test_a_killed_gateways_slots_come_back(fake: FakeInference, redis: RedisServer, tmp_path: Path) -> None:
    fake.scenario = Scenario("silent_first_token", words=["a"])
    with ExitStack() as stack:
        gateways = several(stack, tmp_path, fake, redis)
        with ThreadPoolExecutor(8) as pool:
            lost: list[Future[httpx2.Response]] = [pool.submit(ask, gateways[0], f"user{n}") for n in range(4)]
            eventually(lambda: len(fake.chats) == 4)
            waiting = pool.submit(ask, gateways[1], "ann")
            time.sleep(0.5)
            assert len(fake.chats) == 4
            gateways[0].process.kill()
            killed_at = time.monotonic()
            assert all(isinstance(each.exception(), httpx2.TransportError) for each in lost)
            eventually(lambda: len(fake.chats) == 5, within_s=20)
            assert time.monotonic() - killed_at < 13
            fake.release()
            assert waiting.result().status_code == 200


def test_a_gateway_that_starts_without_redis_takes_all_slots(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario("silent_first_token", words=["a"])
    environ = {"REDIS_URL": "redis://127.0.0.1:1/0", "GATEWAY_SLOTS": "3"}
    with run_gateway_process(tmp_path / "a", fake.url, environ) as gateway, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, gateway, f"user{n}") for n in range(6)]
        eventually(lambda: len(fake.chats) == 3)
        time.sleep(1.5)
        assert len(fake.chats) == 3
        fake.release()
        assert {each.result().status_code for each in asked} == {200}
        assert "takes its share of the slots" in gateway.output
