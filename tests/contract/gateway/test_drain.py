"""SIGTERM: whoever has reached the gateway gets an answer, nobody new gets in, and what cannot end in time is kept."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from gateway.listener import close_without_loss
from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import GatewayProcess, events_of, eventually, require_packet_filters, run_gateway_process

pytestmark = pytest.mark.contract
CHAT = "/v1/chat/completions"
PLAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = PLAIN | {"stream": True}


class Connection:
    """A connection of a client that says what it has to say in parts."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._key = gateway.key
        self.socket = socket.create_connection(("127.0.0.1", port_of(gateway)), timeout=20)

    def say(self, method: str, path: str, body: dict[str, Any] | None = None, *, part: slice = slice(None)) -> None:
        """`part` of the request's bytes."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self.socket.sendall((head.encode() + content)[part])

    def answer(self) -> tuple[int, str | None, dict[str, Any]]:
        """Status, `Connection` and body."""
        answer = http.client.HTTPResponse(self.socket)
        answer.begin()
        return answer.status, answer.headers["connection"], json.loads(answer.read())

    def close(self) -> None:
        self.socket.close()

    def has_ended(self) -> bool:
        return self.socket.recv(1) == b""


Connect = Callable[[GatewayProcess], Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:
        yield lambda gateway: stack.enter_context(closing(Connection(gateway)))


def port_of(gateway: GatewayProcess) -> int:
    return int(gateway.url.rsplit(":", 1)[1])


def refuses(gateway: GatewayProcess) -> bool:
    """Whether nobody listens there any more."""
    try:
        socket.create_connection(("127.0.0.1", port_of(gateway)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_streams_and_whoever_is_connected_get_their_answers_and_background_answers_keep_their_text(
    fake: FakeInference, connect: Connect, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with run_gateway_process(data, fake.url, {"GATEWAY_DRAIN_TIMEOUT_S": "4"}) as gateway, gateway.client() as client:
        fake.scenario = Scenario("stalls", words=["kept"] * 6)
        started = client.post("/v1/responses", json={"input": "x", "background": True}).json()["id"]
        eventually(lambda: fake.chats and fake.chat.words_sent == 3)
        fake.scenario = Scenario("slow", words=["a"] * 50, delay_s=0.04)
        with ThreadPoolExecutor(2) as pool:
            streams = [
                pool.submit(client.post, path, json=body)
                for path, body in ((CHAT, STREAM), ("/v1/responses", {"input": "x", "stream": True}))
            ]
            eventually(lambda: len(fake.chats) == 3 and all(chat.words_sent for chat in fake.chats[1:]))
            fake.scenario = Scenario()
            kept, in_head, in_body, asks, unread = (connect(gateway) for _ in range(5))
            kept.say("GET", "/readyz")
            assert kept.answer() == (200, None, {"status": "ready"})
            in_head.say("POST", CHAT, PLAIN, part=slice(30))
            in_body.say("POST", "/v1/responses", {"input": "x"}, part=slice(-3))
            asks.say("GET", "/readyz", part=slice(10))
            gateway.process.send_signal(signal.SIGTERM)
            asked_at = time.monotonic()
            eventually(lambda: "stopping" in gateway.output)
            assert refuses(gateway)
            assert kept.has_ended()
            unread.say("POST", CHAT, PLAIN)  # it was connected before
            in_head.say("POST", CHAT, PLAIN, part=slice(30, None))
            in_body.say("POST", "/v1/responses", {"input": "x"}, part=slice(-3, None))
            asks.say("GET", "/readyz", part=slice(10, None))
            for one in (unread, in_head, in_body):
                status, connection, _ = one.answer()
                assert (status, connection) == (200, "close")
                assert one.has_ended()
            status, _, body = asks.answer()
            assert (status, body["error"]["code"]) == (503, "shutting_down")
            chat, response = (events_of(stream.result().text) for stream in streams)
        assert chat[-1] == {"done": True}
        assert sum(event.get("choices", [{}])[0].get("delta", {}).get("content") == "a" for event in chat[:-2]) == 50
        assert response[-1]["type"] == "response.completed"
        assert gateway.process.wait(15) == 0
        assert 3.5 < time.monotonic() - asked_at < 8  # the background answer took all of the time there was
        assert "Traceback" not in gateway.output
    fake.reset()
    with run_gateway_process(data, fake.url) as gateway, gateway.client() as client:
        kept_text = client.get(f"/v1/responses/{started}").json()
    assert (kept_text["status"], kept_text["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})
    assert kept_text["output"][0]["content"][0]["text"] == "kept" * 3


def test_no_connection_is_lost_when_the_gateway_stops_under_load(fake: FakeInference, tmp_path: Path) -> None:
    """Each request on a connection of its own, one after the other: all are answered until a connection is refused."""
    require_packet_filters()
    with run_gateway_process(tmp_path / "data", fake.url) as gateway, ThreadPoolExecutor(16) as pool:
        has_begun = threading.Barrier(17)

        def ask_on(_: int) -> Counter[str]:
            told: Counter[str] = Counter()
            has_begun.wait(20)
            while True:
                try:
                    connection = Connection(gateway)
                except ConnectionRefusedError:
                    return told
                with connection.socket:
                    connection.say("POST", CHAT, PLAIN)
                    told[str(connection.answer()[0])] += 1

        asking = [pool.submit(ask_on, number) for number in range(16)]
        has_begun.wait(20)
        time.sleep(0.5)
        assert gateway.stop() == 0
        told = sum((one.result() for one in asking), Counter())
    assert set(told) == {"200"}
    assert told["200"] > 16


@pytest.mark.parametrize("runner", [asyncio.Runner(), asyncio.Runner(loop_factory=uvloop.new_event_loop)])
def test_a_listener_closes_when_all_that_have_connected_are_accepted(runner: asyncio.Runner) -> None:
    """The kernel connects them while the loop is busy with something else."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self._transport.write(data)
            self._transport.close()

    async def close_under(count: int) -> list[socket.socket]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        address = listener.getsockname()
        server = await asyncio.get_running_loop().create_server(Echo, sock=listener)
        waiting = [socket.create_connection(address, timeout=20) for _ in range(count)]
        for one in waiting:
            one.sendall(b"hello")
        await close_without_loss([server], [listener])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=20)
        await asyncio.sleep(0.1)
        return waiting

    with runner, ExitStack() as stack:
        for one in runner.run(close_under(64)):
            assert stack.enter_context(one).recv(10) == b"hello"


def test_who_waits_in_the_queue_is_served_or_told_to_come_back(
    fake: FakeInference, connect: Connect, tmp_path: Path
) -> None:
    environ = {"GATEWAY_DRAIN_TIMEOUT_S": "3", "GATEWAY_SLOTS": "1"}
    with run_gateway_process(tmp_path / "data", fake.url, environ) as gateway:
        fake.scenario = Scenario("slow", words=["a"] * 10, delay_s=0.1)
        first, second, third = (connect(gateway) for _ in range(3))
        first.say("POST", CHAT, PLAIN)
        eventually(lambda: fake.chats and fake.chat.words_sent)
        fake.scenario = Scenario("stalls")
        second.say("POST", CHAT, PLAIN)
        with gateway.client() as client:
            eventually(lambda: client.get("/v1/status").json()["waiting"] == 1)
            third.say("POST", CHAT, PLAIN)
            eventually(lambda: client.get("/v1/status").json()["waiting"] == 2)
        gateway.process.send_signal(signal.SIGTERM)
        assert first.answer()[0] == 200
        eventually(lambda: len(fake.chats) == 2)  # the second has got the slot
        for waiting in (second, third):
            answer = http.client.HTTPResponse(waiting.socket)
            answer.begin()
            assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "shutting_down")
            assert int(answer.headers["retry-after"]) > 0
        assert gateway.process.wait(15) == 0


def test_a_stream_that_takes_longer_than_the_drain_is_told_so(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway_process(tmp_path / "data", fake.url, {"GATEWAY_DRAIN_TIMEOUT_S": "0.5"}) as gateway:
        with gateway.client() as client, ThreadPoolExecutor(1) as pool:
            fake.scenario = Scenario("stalls")
            stream = pool.submit(client.post, CHAT, json=STREAM)
            eventually(lambda: fake.chats and fake.chat.words_sent)
            assert gateway.stop() == 0
            events = events_of(stream.result().text)
    assert events[-1]["error"]["code"] == "shutting_down"
    assert {"done": True} not in events


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_and_the_same_one_twice_does_not(
    fake: FakeInference, tmp_path: Path, number: signal.Signals
) -> None:
    with run_gateway_process(tmp_path / "data", fake.url, {"GATEWAY_DRAIN_TIMEOUT_S": "60"}) as gateway:
        with gateway.client() as client, ThreadPoolExecutor(1) as pool:
            fake.scenario = Scenario("stalls")
            stream = pool.submit(client.post, CHAT, json=STREAM)
            eventually(lambda: fake.chats and fake.chat.words_sent)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.send_signal(number)  # as make passes on what the terminal has told us, too
            time.sleep(1)
            assert gateway.process.poll() is None
            gateway.process.send_signal(number)
            gateway.process.wait(15)
            assert events_of(stream.result().text)[-1]["error"]["code"] == "shutting_down"


def test_a_silent_connection_holds_a_stop_up_for_a_moment_only(
    fake: FakeInference, connect: Connect, tmp_path: Path
) -> None:
    with run_gateway_process(tmp_path / "data", fake.url, {"GATEWAY_DRAIN_TIMEOUT_S": "60"}) as gateway:
        silent = connect(gateway)
        begun = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - begun < 10
        assert silent.has_ended()
