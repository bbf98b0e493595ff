"""The stop's edges: a busy loop, no file descriptor left, who reads slowly, and a page that somebody looks at."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

import gateway.listener
from gateway.auth import Keys
from gateway.listener import close_without_loss
from gateway.main import create_app
from gateway.server import Server, secondary
from gateway.settings import Settings, UpstreamAddress
from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import MODEL, events_of, eventually, require_packet_filters, run_gateway_process

pytestmark = pytest.mark.contract
CHAT = "/v1/chat/completions"
PLAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


class ScriptedServer(Server):
    """A gateway that is told to stop at the very moment when its `script`, which runs within its loop, has ended."""

    script: Callable[[tuple[str, int]], Awaitable[None]]

    async def main_loop(self) -> None:
        await self.script(self.servers[0].sockets[0].getsockname())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as one:
        yield one


@pytest.fixture
def app(fake: FakeInference, tmp_path: Path) -> FastAPI:
    settings = Settings(data_dir=tmp_path, model=MODEL, upstreams=(UpstreamAddress("llamacpp", fake.url, "key"),))
    return create_app(settings)


def serve_until(
    runner: asyncio.Runner, app: FastAPI, script: Callable[[tuple[str, int]], Awaitable[None]], drain_s: float
) -> None:
    server = ScriptedServer(app, host="127.0.0.1", port=0, drain_s=drain_s)
    server.script = script
    runner.run(server.serve())


def ask(one: socket.socket, path: str, key: str = "", body: dict[str, Any] | None = None) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    one.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)


def answer_on(one: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(one)
    answer.begin()
    return answer.status, answer.read()


def test_who_connects_while_the_loop_is_busy_and_the_stop_begins_is_answered(
    runner: asyncio.Runner, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.listener, "_HANDSHAKE_S", 0)
    keys: Keys = app.state.keys
    with ExitStack() as stack:
        connections = []

        async def connect(address: tuple[str, int]) -> None:
            key = keys.create("test")[1]
            for _ in range(8):
                connections.append(stack.enter_context(socket.create_connection(address, timeout=20)))
                ask(connections[-1], CHAT, key, PLAIN)

        serve_until(runner, app, connect, drain_s=10)
        assert [answer_on(one)[0] for one in connections] == [200] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_who_connects_while_a_listener_closes_is_kept_waiting_and_then_refused(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_packet_filters()
    monkeypatch.setattr(gateway.listener, "_HANDSHAKE_S", 0.5)

    async def connect_meanwhile() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        closing = asyncio.create_task(close_without_loss([server]))
        await asyncio.sleep(0.1)
        with socket.socket() as late:
            late.setblocking(False)
            assert late.connect_ex(address) != 0
            await closing
            assert not select.select([], [late], [], 0)[1], "it was taken, and then dropped"
            assert select.select([], [late], [], 20)[1]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

    runner.run(connect_meanwhile())


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_listener_that_cannot_accept_closes_within_a_second_and_at_once_when_forced(
    runner: asyncio.Runner, is_forced: bool
) -> None:
    async def close_unaccepted() -> float:
        listener = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=listener, start_serving=False)
        with socket.create_connection(listener.getsockname(), timeout=20):
            begun = time.monotonic()
            await asyncio.wait_for(close_without_loss([server], [listener], is_forced=lambda: is_forced), 15)
            return time.monotonic() - begun

    took_s = runner.run(close_unaccepted())
    assert (took_s < 1.0) if is_forced else (took_s >= 1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="another process's limits and files are seen on Linux only")
def test_a_gateway_with_no_file_descriptor_left_stops_in_order(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway_process(tmp_path / "data", fake.url, {"GATEWAY_DRAIN_TIMEOUT_S": "0.5"}) as gateway:
        with gateway.client() as client, ThreadPoolExecutor(1) as pool:
            fake.scenario = Scenario("stalls")
            stream = pool.submit(client.post, CHAT, json=PLAIN | {"stream": True})
            eventually(lambda: fake.chats and fake.chat.words_sent)
            taken = {int(number) for number in os.listdir(f"/proc/{gateway.process.pid}/fd")}
            first_free = min(set(range(len(taken) + 1)) - taken)
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (first_free, first_free))
            address = ("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
            with socket.create_connection(address, timeout=20):  # the kernel's: nobody can accept it
                assert gateway.stop(signal.SIGTERM) == 0
            events = events_of(stream.result().text)
        assert "Traceback" not in gateway.output
    assert events[-1]["error"]["code"] == "shutting_down"


def test_who_reads_slowly_gets_all_of_an_answer_that_was_sent_before_the_stop(
    runner: asyncio.Runner, app: FastAPI
) -> None:
    size = 32 << 20  # more than the kernel keeps

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    def read_late(one: socket.socket) -> tuple[int, bytes]:
        time.sleep(4)  # longer than a stop waits for connections that nothing is to come on
        return answer_on(one)

    app.mount("/large", large)
    with socket.socket() as slow, ThreadPoolExecutor(1) as pool:
        slow.settimeout(20)

        async def begin(address: tuple[str, int]) -> None:
            slow.connect(address)
            ask(slow, "/large/")
            assert (await asyncio.to_thread(select.select, [slow], [], [], 20))[0]
            reading.append(pool.submit(read_late, slow))

        reading: list[Any] = []
        serve_until(runner, app, begin, drain_s=60)
        status, body = reading[0].result()
    assert (status, len(body)) == (200, size)


def test_a_page_that_somebody_looks_at_holds_no_stop_up(runner: asyncio.Runner, app: FastAPI) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.05)

    app.mount("/page", secondary(endless))
    with socket.socket() as page:
        page.settimeout(20)
        asked_at: list[float] = []

        async def look(address: tuple[str, int]) -> None:
            page.connect(address)
            ask(page, "/page/")
            assert await asyncio.to_thread(page.recv, 12) == b"HTTP/1.1 200"
            asked_at.append(time.monotonic())

        serve_until(runner, app, look, drain_s=60)
        assert time.monotonic() - asked_at[0] < 30
