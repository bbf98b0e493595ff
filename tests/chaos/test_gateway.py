"""Faults around the gateway: an engine that breaks off or talks nonsense, killed gateways, full and broken disks."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.database import Database, DatabaseError
from gateway.settings import Timeouts
from tests.fakes.inference import WORDS, FakeInference, Scenario, fake_inference
from tests.running_gateway import RunningGateway, events_of, eventually, run_gateway, run_gateway_process

pytestmark = pytest.mark.chaos
HALF = "".join(WORDS[: len(WORDS) // 2])
ANSWER = "".join(WORDS)
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture
def fake(_fake: FakeInference) -> Iterator[FakeInference]:
    _fake.reset()
    yield _fake
    _fake.reset()


@pytest.fixture(scope="module")
def _gateway(_fake: FakeInference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    quick = Timeouts(first_token_s=0.8, between_tokens_s=0.8, turn_s=4.0, drain_s=0.5)
    with run_gateway(tmp_path_factory.mktemp("gateway"), _fake, timeouts=quick) as running:
        yield running


@pytest.fixture
def gateway(_gateway: RunningGateway, fake: FakeInference) -> Iterator[RunningGateway]:
    yield _gateway
    fake.release()
    eventually(_gateway.is_idle)


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def items_of(client: httpx2.Client, conversation: str) -> list[tuple[str, str, str]]:
    items = client.get(f"/v1/conversations/{conversation}/items?order=asc&limit=100").json()["data"]
    return [(item["role"], item["status"], "".join(part["text"] for part in item["content"])) for item in items]


def new_conversation(client: httpx2.Client) -> str:
    return str(client.post("/v1/conversations", json={}).json()["id"])


# --- the engine


CUTS = {
    "dies_midway": "upstream_failed",
    "garbage": "upstream_failed",
    "error_midway": "upstream_failed",
    "no_done": "upstream_failed",
    "no_finish_reason": "upstream_failed",
    "endless_event": "upstream_failed",
    "stalls": "upstream_timeout",
}


@pytest.mark.parametrize("scenario", CUTS)
def test_a_cut_answer_never_passes_as_whole(client: httpx2.Client, fake: FakeInference, scenario: str) -> None:
    fake.scenario = Scenario(scenario)
    code = CUTS[scenario]
    status = 504 if code == "upstream_timeout" else 502
    seen = ANSWER if scenario in ("no_done", "no_finish_reason") else HALF

    assert error_of(client.post("/v1/chat/completions", json=CHAT)) == (status, code)

    events = events_of(client.post("/v1/chat/completions", json=CHAT | {"stream": True}).text)
    assert events[-1]["error"]["code"] == code
    assert {"done": True} not in events
    assert "".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", ())) == seen

    conversation = new_conversation(client)
    assert error_of(client.post("/v1/responses", json={"input": "one", "conversation": conversation})) == (status, code)
    assert items_of(client, conversation) == [("user", "completed", "one"), ("assistant", "incomplete", seen)]

    body = {"input": "two", "conversation": conversation, "stream": True}
    events = events_of(client.post("/v1/responses", json=body).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == code
    assert not [e for e in events if e["type"] in ("response.completed", "response.output_item.done")]
    stored = client.get(f"/v1/responses/{events[-1]['response']['id']}").json()
    assert (stored["status"], stored["error"]["code"]) == ("failed", code)
    assert items_of(client, conversation)[-1] == ("assistant", "incomplete", seen)

    fake.scenario = Scenario()
    again = client.post("/v1/responses", json={"input": "three", "conversation": conversation})
    assert again.json()["status"] == "completed"


def test_an_engine_that_never_begins(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("silent_first_token")
    conversation = new_conversation(client)
    assert error_of(client.post("/v1/chat/completions", json=CHAT | {"stream": True})) == (504, "upstream_timeout")
    answer = client.post("/v1/responses", json={"input": "x", "conversation": conversation, "stream": True})
    assert error_of(answer) == (504, "upstream_timeout")
    assert items_of(client, conversation) == []
    assert all(chat.left_at for chat in fake.chats)


def test_an_answer_that_takes_too_long_is_cut(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("slow", words=[" x"] * 100, delay_s=0.1)
    events = events_of(client.post("/v1/chat/completions", json=CHAT | {"stream": True}).text)
    assert events[-1]["error"]["code"] == "upstream_timeout"
    eventually(lambda: fake.chat.left_at)


# --- callers


class SlowReader:
    """A caller that asks for a stream and does not read it."""

    def __init__(self, gateway: RunningGateway) -> None:
        body = json.dumps(CHAT | {"stream": True}).encode()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.socket.connect(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])))
        self.socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {gateway.new_key()}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )


def test_a_slow_reader_pauses_the_engine_and_fills_no_memory(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario(words=["x" * 10_000] * 10_000)  # 100 MB
    with run_gateway(tmp_path, fake, context_tokens=1_000_000) as gateway:
        reader = SlowReader(gateway)
        eventually(lambda: fake.chats and fake.chat.words_sent)
        before = -1
        while before != (before := fake.chat.words_sent):  # until it stands still
            time.sleep(0.3)
        assert before * 10_000 < 16 << 20  # what the sockets' own buffers take
        held = [exchange for exchange in gc.get_objects() if type(exchange).__name__ == "Exchange"]
        assert max(exchange._buffered for exchange in held) < 1 << 20
        total = 0
        while total < 10 << 20:  # it goes on when the caller reads
            total += len(reader.socket.recv(1 << 20))
        assert fake.chat.words_sent > before
        reader.socket.close()
        eventually(lambda: fake.chat.left_at, within_s=2)


def test_callers_who_never_read_do_not_hold_their_slots_for_ever(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario(words=["x" * 10_000] * 10_000)
    readers = [SlowReader(gateway) for _ in range(gateway.parts.settings.slots)]
    eventually(lambda: gateway.parts.admission.free == 0)
    eventually(
        lambda: gateway.parts.admission.free == len(readers), within_s=gateway.parts.settings.timeouts.turn_s + 2
    )
    for reader in readers:
        reader.socket.close()


def test_nothing_grows(fake: FakeInference, tmp_path: Path) -> None:
    """After a second identical batch nothing that the gateway keeps is larger."""
    with run_gateway(tmp_path, fake, slots=4) as gateway, gateway.client() as client:
        fake.scenario = Scenario(words=WORDS[:3])

        def one(n: int) -> None:
            if n % 4 == 0:
                assert client.post("/v1/chat/completions", json=CHAT).is_success
            elif n % 4 == 1:
                assert client.post("/v1/responses", json={"input": "hi", "stream": True}).is_success
            elif n % 4 == 2:
                assert client.post("/v1/chat/completions", json={"messages": []}).status_code == 400
            else:
                with client.stream("POST", "/v1/responses", json={"input": "hi", "stream": True}) as answer:
                    next(answer.iter_bytes())

        def batch() -> tuple[int, int]:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(one, range(200)))
            eventually(gateway.is_idle)
            fake.asked.clear()
            gc.collect()
            ours = [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith("gateway")]
            return len(ours), _resident_bytes()

        batch()
        objects, resident = batch()
        objects_after, resident_after = batch()
        assert objects_after <= objects + 5
        assert resident_after < resident + (4 << 20)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the gateway's own end


def _turn_in_progress(running: Any, client: httpx2.Client, pool: ThreadPoolExecutor) -> tuple[str, Any]:
    conversation = new_conversation(client)
    body = {"input": "hi", "conversation": conversation, "stream": True}
    turn = pool.submit(client.post, "/v1/responses", json=body)
    eventually(lambda: [item for item in items_of(client, conversation) if item[2] == HALF], within_s=5)  # checkpointed
    return conversation, turn


def test_a_killed_gateway_keeps_what_was_checkpointed(fake: FakeInference, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ThreadPoolExecutor() as pool:
        with run_gateway_process(data, fake.url) as running, running.client() as client:
            acknowledged = client.post("/v1/responses", json={"input": "first"}).json()
            fake.scenario = Scenario("stalls")
            conversation, turn = _turn_in_progress(running, client, pool)
            running.stop(signal.SIGKILL)
            with pytest.raises(httpx2.HTTPError):
                turn.result()
        eventually(lambda: fake.chat.left_at, within_s=2)
        fake.reset()
        with run_gateway_process(data, fake.url) as running, running.client() as client:
            assert "left open" in running.output
            assert items_of(client, conversation) == [("user", "completed", "hi"), ("assistant", "incomplete", HALF)]
            assert client.get(f"/v1/responses/{acknowledged['id']}").json() == acknowledged
            again = client.post("/v1/responses", json={"input": "again", "conversation": conversation})
            assert again.json()["status"] == "completed"
            assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_mid_answer_ends_in_order(fake: FakeInference, tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    fake.scenario = Scenario("stalls")
    with ThreadPoolExecutor() as pool:
        environ = {"GATEWAY_DRAIN_TIMEOUT_S": "0.5"}
        with run_gateway_process(data, fake.url, environ) as running, running.client() as client:
            conversation, turn = _turn_in_progress(running, client, pool)
            chat = pool.submit(client.post, "/v1/chat/completions", json=CHAT | {"stream": True})
            eventually(lambda: len(fake.chats) == 2)
            stopped_at = time.monotonic()
            assert running.stop(number) == 0
            assert time.monotonic() - stopped_at < 6
            events = events_of(turn.result().text)
            assert events[-1]["type"] == "response.incomplete"
            assert events[-1]["response"]["incomplete_details"] == {"reason": "interrupted"}
            assert events_of(chat.result().text)[-1]["error"]["code"] == "shutting_down"
            assert "Traceback" not in running.output
        fake.reset()
        with run_gateway_process(data, fake.url) as running, running.client() as client:
            assert "left open" not in running.output  # the stop had closed it
            assert items_of(client, conversation) == [("user", "completed", "hi"), ("assistant", "incomplete", HALF)]


def test_answers_may_end_while_the_gateway_stops(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario("stalls")
    with ThreadPoolExecutor() as pool, run_gateway_process(tmp_path / "data", fake.url) as running:
        with running.client() as client:
            _, turn = _turn_in_progress(running, client, pool)
            fake.scenario = Scenario()
            stop = pool.submit(running.stop)
            eventually(lambda: "stopping" in running.output)
            with pytest.raises(httpx2.ConnectError):
                client.post("/v1/responses", json={"input": "x"})
            fake.release()
            assert events_of(turn.result().text)[-1]["type"] == "response.completed"
            assert stop.result() == 0


# --- the database


@contextlib.contextmanager
def small_disk(path: Path, size: str = "1m") -> Iterator[Path]:
    """A tiny file system of its own; only root can mount one."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted only by root, with the right to mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)


def test_a_full_disk(fake: FakeInference, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, run_gateway(disk, fake) as gateway, gateway.client() as client:
        conversation = new_conversation(client)
        client.post("/v1/responses", json={"input": "before", "conversation": conversation})
        fill(disk)
        _goes_on_without_history(client, conversation)
        (disk / "ballast").unlink()
        _has_lost_nothing(client, conversation)


def test_a_database_that_cannot_grow(fake: FakeInference, tmp_path: Path) -> None:
    """The same without mounting anything: SQLite says SQLITE_FULL at its page limit."""
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        conversation = new_conversation(client)
        client.post("/v1/responses", json={"input": "before", "conversation": conversation})
        database = gateway.parts.store._database
        with sqlite3.connect(database.engine.url.database or "") as probe:
            pages = probe.execute("PRAGMA page_count").fetchone()[0]
        probe.close()
        _limit_pages(database, pages)
        _goes_on_without_history(client, conversation, filler="y" * 20_000)
        _limit_pages(database, 1_000_000)
        _has_lost_nothing(client, conversation)


def _limit_pages(database: Database, pages: int) -> None:
    """For every connection of the pool: the setting belongs to the connection."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(database.engine.connect())
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


def _goes_on_without_history(client: httpx2.Client, conversation: str, filler: str = "x") -> None:
    body = {"input": "lost " + filler, "conversation": conversation}
    first = client.post("/v1/responses", json=body)
    while first.is_success:  # the log of the database may have room for some more
        first = client.post("/v1/responses", json=body)
    assert first.is_error
    for answer in (
        first,
        client.post("/v1/responses", json=body | {"stream": True}),
        client.post("/v1/conversations", json={"metadata": {str(n): "x" * 500 for n in range(16)}}),
    ):
        if answer.is_success:
            continue
        assert error_of(answer) == (503, "history_unavailable"), answer.text
        assert "disk is full" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
    with ThreadPoolExecutor(8) as pool:  # several in one group commit
        answers = list(pool.map(lambda _: client.post("/v1/responses", json=body), range(8)))
    assert {error_of(answer) for answer in answers if answer.is_error} <= {
        (503, "history_unavailable"),
        (409, "conversation_busy"),
    }
    assert client.post("/v1/chat/completions", json=CHAT).is_success
    assert client.post("/v1/responses", json={"input": "hi", "store": False}).is_success
    assert items_of(client, conversation)[0] == ("user", "completed", "before")  # reading goes on


def _has_lost_nothing(client: httpx2.Client, conversation: str) -> None:
    body = {"input": "after", "conversation": conversation}
    answer = eventually(lambda: (a := client.post("/v1/responses", json=body)).is_success and a)
    assert answer.json()["status"] == "completed"
    items = items_of(client, conversation)
    assert items[:2] == [("user", "completed", "before"), ("assistant", "completed", ANSWER)]
    assert [item[2] for item in items[-2:]] == ["after", ANSWER]
    assert not [item for item in items if item[1] == "in_progress"]


def test_a_disk_that_fills_up_in_mid_answer(fake: FakeInference, tmp_path: Path) -> None:
    """The caller is told that the answer was not stored; it is kept in memory and written when there is room."""
    fake.scenario = Scenario("stalls", words=["word "] * 4000)
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client, ThreadPoolExecutor() as pool:
        conversation = new_conversation(client)
        turn = pool.submit(
            client.post, "/v1/responses", json={"input": "hi", "conversation": conversation, "stream": True}
        )
        eventually(lambda: items_of(client, conversation))
        database = gateway.parts.store._database
        _limit_pages(database, 1)
        fake.release()
        events = events_of(turn.result().text)
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["code"] == "history_unavailable"
        _limit_pages(database, 1_000_000)
        eventually(lambda: items_of(client, conversation)[-1][1] != "in_progress", within_s=5)
        assert items_of(client, conversation)[-1] == ("assistant", "completed", "word " * 4000)
        fake.scenario = Scenario()
        assert client.post("/v1/responses", json={"input": "x", "conversation": conversation}).is_success


def test_a_locked_database(fake: FakeInference, tmp_path: Path) -> None:
    """Another program holds the write lock: stored turns wait and get through, stateless ones do not even wait."""
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client, ThreadPoolExecutor() as pool:
        conversation = new_conversation(client)
        locker = sqlite3.connect(tmp_path / "gateway.sqlite3", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        turn = pool.submit(client.post, "/v1/responses", json={"input": "hi", "conversation": conversation})
        eventually(lambda: fake.chats)
        assert client.post("/v1/chat/completions", json=CHAT).is_success
        assert client.get("/v1/conversations").is_success
        assert not turn.done()
        locker.execute("ROLLBACK")
        locker.close()
        assert turn.result().json()["status"] == "completed"


def test_a_database_that_is_gone_for_a_while(fake: FakeInference, tmp_path: Path) -> None:
    """Keys seen before go on working for stateless chats; what is stored says that it cannot be reached."""
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        assert client.get("/v1/models").is_success
        database = gateway.parts.store._database
        file = tmp_path / "gateway.sqlite3"
        file.rename(tmp_path / "away")
        file.mkdir()  # a folder in its place: it cannot be opened
        database.engine.dispose()
        (tmp_path / "gateway.sqlite3.api_keys").touch()  # some key was changed: all are looked up again
        assert client.post("/v1/chat/completions", json=CHAT).is_success
        assert error_of(client.post("/v1/responses", json={"input": "hi"})) == (503, "history_unavailable")
        assert error_of(client.get("/v1/conversations")) == (503, "history_unavailable")
        with gateway_stranger(gateway) as stranger:  # who was never seen cannot be told from a wrong key: not a 401
            assert error_of(stranger.get("/v1/models")) == (503, "history_unavailable")
        file.rmdir()
        (tmp_path / "away").rename(file)
        assert client.post("/v1/responses", json={"input": "hi"}).is_success


def gateway_stranger(gateway: RunningGateway) -> httpx2.Client:
    return gateway.client("sk-never-seen")


def start_error(data: Path) -> str:
    """What `python -m gateway serve` says when it does not start: one line, no traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "serve"],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "DATA_DIR": str(data), "GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:9", "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("gateway: ")
    return lines[0]


def test_a_database_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite3").write_bytes(b"This is not a database. " * 500)
    assert "gateway.sqlite3" in start_error(tmp_path)


def test_a_database_file_that_is_damaged(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        client.post("/v1/responses", json={"input": "hi"})
    file = tmp_path / "gateway.sqlite3"
    content = bytearray(file.read_bytes())
    content[100 : len(content)] = b"\xa5" * (len(content) - 100)
    file.write_bytes(content)
    assert "gateway.sqlite3" in start_error(tmp_path)


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    assert "data" in start_error(tmp_path / "data")


def test_a_read_only_data_folder(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "Read-only file system" in start_error(disk)


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        fill(disk)
        assert "full" in start_error(disk)


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    Database(tmp_path / "gateway.sqlite3").close()
    with sqlite3.connect(tmp_path / "gateway.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(DatabaseError, match="newer version"):
        Database(tmp_path / "gateway.sqlite3")
    assert "newer version" in start_error(tmp_path)


@pytest.mark.parametrize("moment", ["before the question is stored", "in mid-stream"])
def test_leaving_while_the_database_is_locked_frees_the_engine_at_once(
    fake: FakeInference, tmp_path: Path, moment: str
) -> None:
    """What must be written waits for the lock; the engine does not."""
    fake.scenario = Scenario("stalls")
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        conversation = new_conversation(client)
        locker = sqlite3.connect(tmp_path / "gateway.sqlite3", isolation_level=None)
        if moment == "before the question is stored":
            locker.execute("BEGIN IMMEDIATE")
        caller = Caller(gateway, client, {"input": "hi", "conversation": conversation, "stream": True})
        eventually(lambda: fake.chats and fake.chat.words_sent >= 4)
        if moment == "in mid-stream":
            caller.read_until(b"How")
            locker.execute("BEGIN IMMEDIATE")
        left_at = caller.leave()
        assert eventually(lambda: fake.chat.left_at, within_s=1) - left_at < 1
        locker.execute("ROLLBACK")
        locker.close()
        eventually(gateway.is_idle)
        items = items_of(client, conversation)
        assert [status for _, status, _ in items] == ["completed", "incomplete"]
        fake.scenario = Scenario()
        assert client.post("/v1/responses", json={"input": "x", "conversation": conversation}).is_success


class Caller:
    """A caller on a bare socket, who can leave at any moment."""

    def __init__(self, gateway: RunningGateway, client: httpx2.Client, body: Json) -> None:
        content = json.dumps(body).encode()
        self._socket = socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])), timeout=10)
        self._socket.sendall(
            f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )

    def read_until(self, mark: bytes) -> None:
        seen = b""
        while mark not in seen:
            seen += self._socket.recv(65536)

    def leave(self) -> float:
        self._socket.close()
        return time.monotonic()
