"""PostgreSQL under load that stands still, stops, crashes, or ends our connections; and gateways that are killed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.auth import Keys
from gateway.database import Database
from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.postgresql_server import PASSWORD, PostgresServer, postgres_server
from tests.running_gateway import (
    GatewayProcess,
    RunningGateway,
    events_of,
    eventually,
    run_gateway,
    run_gateway_process,
)

pytestmark = pytest.mark.database
HALF, ANSWER = "".join(WORDS[: len(WORDS) // 2]), "".join(WORDS)
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
AWAY_S = 8.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of this module's own: it is not treated well."""
    with postgres_server() as running:
        yield running


def items_of(client: httpx2.Client, conversation: str) -> list[tuple[str, str, str]]:
    items = client.get(f"/v1/conversations/{conversation}/items?order=asc&limit=100").json()["data"]
    return [(item["role"], item["status"], "".join(part["text"] for part in item["content"])) for item in items]


class Load:
    """Callers that go on whatever they are told: some chat without history, some each in a conversation of theirs."""

    def __init__(self, gateway: RunningGateway, callers: int = 3) -> None:
        self.seen: Counter[tuple[str, int, str]] = Counter()
        self.slowest_s: dict[str, float] = {"chat": 0.0, "stored": 0.0}
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self._is_over = threading.Event()
        self._client = gateway.client()
        self.conversations = [
            self._client.post("/v1/conversations", json={}).raise_for_status().json()["id"] for _ in range(callers)
        ]
        self._works: list[Callable[[], None]] = [self._chat, self._chat]
        self._works += [lambda c=c: self._store(c) for c in self.conversations]  # type: ignore[misc]

    @contextmanager
    def running(self) -> Iterator[Load]:
        with ThreadPoolExecutor(len(self._works)) as pool:
            futures = [pool.submit(self._repeat, work) for work in self._works]
            try:
                yield self
            finally:
                self._is_over.set()
            for future in futures:
                future.result()

    def close(self) -> None:
        self._client.close()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._is_over.is_set():
            work()
            time.sleep(0.02)

    def _chat(self) -> None:
        self._ask("chat", "/v1/chat/completions", CHAT)

    def _store(self, conversation: str) -> None:
        self._ask("stored", "/v1/responses", {"input": "hi", "conversation": conversation})

    def _ask(self, kind: str, path: str, body: dict[str, Any]) -> None:
        started_at = time.monotonic()
        answer = self._client.post(path, json=body)
        self.slowest_s[kind] = max(self.slowest_s[kind], time.monotonic() - started_at)
        code = "" if answer.is_success else answer.json()["error"]["code"]
        self.seen[kind, answer.status_code, code] += 1
        if kind == "stored" and answer.is_success:
            self.acknowledged[answer.json()["id"]] = answer.json()

    def require_only_what_is_honest(self) -> None:
        allowed = {("chat", 200, ""), ("stored", 200, ""), ("stored", 503, "history_unavailable")}
        assert set(self.seen) <= allowed | {("stored", 409, "conversation_busy")}, self.seen

    def require_nothing_lost(self) -> None:
        for response, acknowledged in self.acknowledged.items():
            assert self._client.get(f"/v1/responses/{response}").json() == acknowledged

    def require_all_go_on(self) -> None:
        """No turn that failed keeps its conversation busy, or left half of itself behind."""
        for conversation in self.conversations:
            body = {"input": "again", "conversation": conversation}
            eventually(lambda b=body: self._client.post("/v1/responses", json=b).is_success, within_s=15)
            items = items_of(self._client, conversation)
            assert [role for role, _, _ in items] == ["user", "assistant"] * (len(items) // 2)
            assert not [item for item in items if item[1] == "in_progress"]


@contextmanager
def a_pause(server: PostgresServer) -> Iterator[None]:
    with server.standing_still():
        yield


@contextmanager
def a_stop(server: PostgresServer) -> Iterator[None]:
    server.stop("fast")
    yield
    server.start()


@contextmanager
def a_crash(server: PostgresServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@pytest.mark.parametrize("fault", [a_pause, a_stop, a_crash])
def test_a_database_that_is_away_for_a_while(
    server: PostgresServer, fake: FakeInference, tmp_path: Path, fault: Callable[[PostgresServer], Any]
) -> None:
    """Stateless chats go on, stored ones are told, nothing acknowledged is lost, and no key is called wrong."""
    with (
        run_gateway(tmp_path, fake, slots=8, database_url=server.new_database()) as gateway,
        contextlib.closing(Load(gateway)) as load,
    ):
        with load.running():
            eventually(lambda: len(load.acknowledged) > 10, within_s=20)
            with fault(server):
                gone_at = time.monotonic()
                eventually(lambda: load.seen["stored", 503, "history_unavailable"], within_s=7)
                chats = load.seen["chat", 200, ""]
                with gateway.client("sk-never-seen") as stranger:  # not to be told from a wrong key: not a 401
                    assert stranger.get("/v1/models").json()["error"]["code"] == "history_unavailable"
                time.sleep(max(0.0, AWAY_S - (time.monotonic() - gone_at)))
                assert load.seen["chat", 200, ""] >= chats + 3
            before = len(load.acknowledged)
            eventually(lambda: len(load.acknowledged) > before + 10, within_s=20)
        load.require_only_what_is_honest()
        load.require_nothing_lost()
        load.require_all_go_on()
        assert load.slowest_s["chat"] < 7
        assert load.slowest_s["stored"] < 12  # the question in 5 s, the answer in 5 s


def test_connections_that_are_ended_under_load(server: PostgresServer, fake: FakeInference, tmp_path: Path) -> None:
    url = server.new_database()
    with (
        run_gateway(tmp_path, fake, slots=8, database_url=url) as gateway,
        contextlib.closing(Load(gateway)) as load,
    ):
        with load.running(), server.connect() as connection:
            for _ in range(10):
                before = len(load.acknowledged)
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (url.rpartition("/")[2],),
                )
                eventually(lambda n=before: len(load.acknowledged) > n + 3, within_s=10)
        load.require_only_what_is_honest()
        load.require_nothing_lost()
        load.require_all_go_on()


def test_an_answer_outlives_an_outage(server: PostgresServer, fake: FakeInference, tmp_path: Path) -> None:
    """It began before, and ended while the database was away: its caller is told, and it is written afterwards."""
    fake.scenario = Scenario("stalls")
    with run_gateway(tmp_path, fake, database_url=server.new_database()) as gateway, gateway.client() as client:
        conversation = client.post("/v1/conversations", json={}).json()["id"]
        with ThreadPoolExecutor() as pool:
            body = {"input": "hi", "conversation": conversation, "stream": True}
            turn = pool.submit(client.post, "/v1/responses", json=body)
            eventually(lambda: items_of(client, conversation))
            with a_stop(server):
                fake.release()
                events = events_of(turn.result().text)
                assert events[-1]["type"] == "response.failed"
                assert events[-1]["response"]["error"]["code"] == "history_unavailable"
        expected = [("user", "completed", "hi"), ("assistant", "completed", ANSWER)]
        eventually(lambda: items_of(client, conversation) == expected, within_s=10)


def test_the_gateway_stops_although_the_database_stands_still(
    server: PostgresServer, fake: FakeInference, tmp_path: Path
) -> None:
    environ = {"DATABASE_URL": server.new_database()}
    with run_gateway_process(tmp_path / "data", fake.url, environ) as running:
        with running.client() as client:
            assert client.post("/v1/responses", json={"input": "hi"}).is_success
        with server.standing_still():
            started_at = time.monotonic()
            running.stop(within_s=25)
            assert time.monotonic() - started_at < 20


# --- gateways


def test_the_start_waits_for_a_database_that_is_starting(
    server: PostgresServer, fake: FakeInference, tmp_path: Path
) -> None:
    environ = {"DATABASE_URL": server.new_database()}
    with a_stop(server):
        gateway = GatewayProcess(tmp_path / "data", fake.url, environ)
        eventually(lambda: "waiting for the database" in gateway.output, within_s=20)
        assert gateway.process.poll() is None
    try:
        gateway.wait_until_up()
        assert gateway.stop() == 0
    finally:
        gateway.process.kill()
        gateway.process.wait()


def test_the_start_ends_with_one_sentence_when_there_is_no_database(
    server: PostgresServer, fake: FakeInference, tmp_path: Path
) -> None:
    environ = {"DATABASE_URL": server.url("nowhere"), "GATEWAY_DATABASE_WAIT_S": "1"}
    gateway = GatewayProcess(tmp_path / "data", fake.url, environ)
    assert gateway.process.wait(20) == 1
    (said,) = [line for line in gateway.output.splitlines() if not line.startswith("{")]
    assert said.startswith("gateway: The database at 127.0.0.1, database nowhere cannot be used: ")
    assert "DATABASE_URL" in said
    assert "p%40ss" not in gateway.output
    assert PASSWORD not in gateway.output


def a_turn_in_progress(client: httpx2.Client, pool: ThreadPoolExecutor) -> tuple[str, Any]:
    conversation = str(client.post("/v1/conversations", json={}).json()["id"])
    body = {"input": "hi", "conversation": conversation, "stream": True}
    turn = pool.submit(client.post, "/v1/responses", json=body)
    eventually(lambda: [item for item in items_of(client, conversation) if item[2] == HALF])  # checkpointed
    return conversation, turn


def test_what_a_killed_gateway_left_open_is_closed_by_another_and_nothing_else_is(
    server: PostgresServer, fake: FakeInference, tmp_path: Path
) -> None:
    url = server.new_database()
    fake.scenario = Scenario("stalls")
    with (
        ThreadPoolExecutor() as pool,
        run_gateway(tmp_path / "data", fake, database_url=url) as lives,
        run_gateway_process(tmp_path / "data", fake.url, {"DATABASE_URL": url}) as dies,
        lives.client(dies.key) as client,
        dies.client() as other,
    ):
        own, own_turn = a_turn_in_progress(client, pool)
        conversation, turn = a_turn_in_progress(other, pool)
        dies.stop(signal.SIGKILL)
        with pytest.raises(httpx2.HTTPError):
            turn.result()
        busy = client.post("/v1/responses", json={"input": "again", "conversation": conversation})
        assert busy.json()["error"]["code"] == "conversation_busy"
        expected = [("user", "completed", "hi"), ("assistant", "incomplete", HALF)]
        eventually(lambda: items_of(client, conversation) == expected, within_s=40)
        assert items_of(client, own)[-1] == ("assistant", "in_progress", HALF)
        fake.release()
        assert events_of(own_turn.result().text)[-1]["type"] == "response.completed"
        fake.scenario = Scenario()
        assert client.post("/v1/responses", json={"input": "again", "conversation": conversation}).is_success


def test_nothing_goes_past_the_server(server: PostgresServer, fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, database_url=server.new_database()) as gateway, gateway.client() as client:
        assert client.post("/v1/responses", json={"input": "hi"}).is_success
        assert not list(tmp_path.glob("*.sqlite3*"))


def test_two_gateways_are_one(server: PostgresServer, fake: FakeInference, tmp_path: Path) -> None:
    """One key, one history, one open turn a conversation; even when both start at once on a new database."""
    url = server.new_database()
    environ = {"DATABASE_URL": url}
    (tmp_path / "one").mkdir()
    (tmp_path / "other").symlink_to("one")  # one folder, but each has a log of its own beside it
    gateways = [GatewayProcess(tmp_path / name, fake.url, environ) for name in ("one", "other")]
    clients = contextlib.ExitStack()
    try:
        for gateway in gateways:
            gateway.wait_until_up()
        assert gateways[0].url != gateways[1].url
        one, other = (clients.enter_context(gateway.client()) for gateway in gateways)
        assert len(keys_of(url)) == 2  # admin and web UI, made once
        conversation = one.post("/v1/conversations", json={"metadata": {"title": "t"}}).json()["id"]
        assert other.get(f"/v1/conversations/{conversation}").json()["metadata"] == {"title": "t"}
        fake.scenario = Scenario("stalls")
        body = {"input": "hi", "conversation": conversation}
        with ThreadPoolExecutor(16) as pool:
            turns = [pool.submit((one, other)[n % 2].post, "/v1/responses", json=body) for n in range(16)]
            eventually(lambda: sum(turn.done() for turn in turns) == 15, within_s=20)
            assert {turn.result().status_code for turn in turns if turn.done()} == {409}
            fake.release()
            assert sorted(turn.result().status_code for turn in turns) == [200] + [409] * 15
        fake.scenario = Scenario()
        first = one.post("/v1/responses", json=body).json()
        again = other.post("/v1/responses", json={"input": "and", "previous_response_id": first["id"]})
        assert again.is_success
        fake.scenario = Scenario("slow", delay_s=1.0)
        running = one.post("/v1/responses", json={"input": "hi", "background": True}).json()["id"]
        assert other.post(f"/v1/responses/{running}/cancel").json()["status"] == "cancelled"
        assert one.get(f"/v1/responses/{running}").json()["status"] == "cancelled"
        assert [gateway.stop() for gateway in gateways] == [0, 0]
    finally:
        clients.close()
        for gateway in gateways:
            gateway.process.kill()
            gateway.process.wait()


def keys_of(url: str) -> list[Any]:
    database = Database(url)
    keys = Keys(database).list()
    database.close()
    return keys
