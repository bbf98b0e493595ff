"""A caller that leaves, at any moment, frees the engine and its slot at once; what was generated stays."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.running_gateway import RunningGateway, eventually, run_gateway

pytestmark = pytest.mark.contract
HALF = "".join(WORDS[: len(WORDS) // 2])
FREED_WITHIN_S = 1.0


class Visitor:
    """A caller on a bare socket, who can leave at any moment."""

    def __init__(
        self, gateway: RunningGateway, key: str, path: str, body: dict[str, Any], *, pause_s: float = 0, times: int = 1
    ) -> None:
        url = urlsplit(gateway.url)
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        ).encode()
        self._socket = socket.create_connection((url.hostname or "", url.port or 0), timeout=10)
        if pause_s:
            self._socket.sendall(head)
            time.sleep(pause_s)
            self._socket.sendall(content)
        else:
            self._socket.sendall((head + content) * times)
        self.seen = b""

    def read_until(self, mark: bytes) -> None:
        while mark not in self.seen:
            data = self._socket.recv(65536)
            assert data, self.seen
            self.seen += data

    def leave(self) -> float:
        left_at = time.monotonic()
        self._socket.close()
        return left_at


@pytest.fixture
def key(gateway: RunningGateway) -> str:
    return gateway.new_key()


MOMENTS = {
    "before the first token": ("silent_first_token", False, ""),
    "in mid-stream": ("stalls", True, HALF),
    "in mid-stream while words come": ("slow", True, None),
}


def _body(path: str, *, stream: bool, conversation: str | None, text: str = "hi") -> dict[str, Any]:
    if path == "/v1/responses":
        return {"input": text, "stream": stream, "conversation": conversation}
    return {"messages": [{"role": "user", "content": text}], "stream": stream}


@pytest.mark.parametrize("background", [True, False])
def test_leaving_while_the_question_of_a_queued_turn_is_written(
    fake: FakeInference, tmp_path: Path, background: bool
) -> None:
    fake.scenario = Scenario("stalls")
    with run_gateway(tmp_path, fake, slots=1) as gateway, gateway.client() as client:
        conversation = client.post("/v1/conversations").json()["id"]
        key = client.headers["authorization"].removeprefix("Bearer ")
        body = _body("/v1/responses", stream=True, conversation=conversation)
        first = Visitor(
            gateway, gateway.new_key(), "/v1/responses", _body("/v1/responses", stream=True, conversation=None)
        )
        first.read_until(b"in_progress")
        store = gateway.parts.store
        begin_turn, has_begun = store.begin_turn, threading.Event()

        async def slowly(*args: Any, **fields: Any) -> None:
            has_begun.set()
            await asyncio.shield(asyncio.ensure_future(_late(begin_turn(*args, **fields))))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "begin_turn", slowly)
            second = Visitor(gateway, key, "/v1/responses", body | {"background": background})
            assert has_begun.wait(5)
            second.leave()
            eventually(lambda: len(gateway.parts.open_turns) == 1)
            time.sleep(0.3)
        first.leave()
        eventually(gateway.is_idle)
        fake.scenario = Scenario()
        assert client.post("/v1/responses", json={"input": "next", "conversation": conversation}).is_success


def test_leaving_while_a_turn_that_failed_is_taken_back(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario("failing")
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        conversation = client.post("/v1/conversations").json()["id"]
        key = client.headers["authorization"].removeprefix("Bearer ")
        store = gateway.parts.store
        abandon_turn, is_abandoned = store.abandon_turn, threading.Event()

        async def slowly(*args: Any) -> None:
            is_abandoned.set()
            await _late(abandon_turn(*args))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "abandon_turn", slowly)
            body = _body("/v1/responses", stream=True, conversation=conversation)
            visitor = Visitor(gateway, key, "/v1/responses", body)
            assert is_abandoned.wait(5)
            visitor.leave()
            eventually(gateway.is_idle)
        fake.scenario = Scenario()
        assert client.post("/v1/responses", json={"input": "next", "conversation": conversation}).is_success


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_body_that_was_cut_is_not_taken_for_a_whole_one(
    gateway: RunningGateway, fake: FakeInference, path: str
) -> None:
    url, key = urlsplit(gateway.url), gateway.new_key(rpm=1)
    content = json.dumps(_body(path, stream=False, conversation=None)).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=10) as visitor:
        visitor.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % (len(content) + 1) + content)
        time.sleep(0.1)
    time.sleep(0.2)
    assert fake.asked == []
    with gateway.client(key) as client:
        assert client.post(path, json=_body(path, stream=False, conversation=None)).is_success


async def _late(work: Awaitable[None]) -> None:
    await asyncio.sleep(0.2)
    await work


def _freed(gateway: RunningGateway, fake: FakeInference, left_at: float) -> None:
    freed_at = eventually(lambda: fake.chat.left_at, within_s=FREED_WITHIN_S)
    assert freed_at - left_at < FREED_WITHIN_S
    eventually(gateway.is_idle, within_s=FREED_WITHIN_S)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("stream", [True, False])
def test_leaving(gateway: RunningGateway, fake: FakeInference, key: str, path: str, moment: str, stream: bool) -> None:
    scenario, has_begun, kept = MOMENTS[moment]
    fake.scenario = Scenario(scenario, delay_s=0.05)
    with gateway.client(key) as client:
        conversation = client.post("/v1/conversations").json()["id"]
        visitor = Visitor(gateway, key, path, _body(path, stream=stream, conversation=conversation))
        eventually(lambda: fake.chats)
        if has_begun:
            eventually(lambda: fake.chat.words_sent >= 2)
            if stream:
                visitor.read_until(b"Hello")
        if path == "/v1/responses":
            eventually(lambda: len(_items(client, conversation)) == 2)
        _freed(gateway, fake, visitor.leave())
        if path == "/v1/responses":
            question, answer = _items(client, conversation)
            assert (question["status"], question["content"][0]["text"]) == ("completed", "hi")
            assert answer["status"] == "incomplete"
            text = answer["content"][0]["text"]
            assert text == kept if kept is not None else "".join(WORDS).startswith(text)
            response = client.get(f"/v1/responses/{answer['response_id']}").json()
            assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})
            fake.scenario = Scenario()
            again = client.post("/v1/responses", json={"input": "again", "conversation": conversation})
            assert again.status_code == 200, again.text


def _items(client: httpx2.Client, conversation: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    return items


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_behind_a_large_question(
    gateway: RunningGateway, fake: FakeInference, key: str, path: str, stream: bool
) -> None:
    """Head and body sent apart, as most clients do: the server stops reading when much comes at once."""
    fake.scenario = Scenario("silent_first_token")
    for n in range(6):
        body = _body(path, stream=stream, conversation=None, text="x" * (80_000 + 25_000 * n))
        visitor = Visitor(gateway, key, path, body, pause_s=0.02)
        eventually(lambda n=n: len(fake.chats) > n)
        _freed(gateway, fake, visitor.leave())


@pytest.mark.parametrize("scenario", ["silent_first_token", "slow"])
def test_leaving_with_a_second_request_in_line(
    gateway: RunningGateway, fake: FakeInference, key: str, scenario: str
) -> None:
    fake.scenario = Scenario(scenario, words=WORDS * 40, delay_s=0.05)
    body = _body("/v1/chat/completions", stream=True, conversation=None)
    visitor = Visitor(gateway, key, "/v1/chat/completions", body, times=2)
    eventually(lambda: fake.chats)
    if scenario == "slow":
        visitor.read_until(b"Hello")
    _freed(gateway, fake, visitor.leave())
    assert len(fake.chats) == 1  # the engine never heard of the second


def test_requests_in_line_are_answered_one_after_the_other(gateway: RunningGateway, key: str) -> None:
    body = _body("/v1/chat/completions", stream=True, conversation=None)
    visitor = Visitor(gateway, key, "/v1/chat/completions", body, times=20)
    while visitor.seen.count(b"0\r\n\r\n") < 20:
        data = visitor._socket.recv(65536)
        assert data, visitor.seen
        visitor.seen += data
    assert visitor.seen.count(b"HTTP/1.1 200 OK") == visitor.seen.count(b"[DONE]") == 20
    visitor.leave()


def test_leaving_at_any_moment_leaves_nothing_open(gateway: RunningGateway, fake: FakeInference, key: str) -> None:
    """Hits the windows between count, slot, question, engine and first event."""
    fake.scenario = Scenario("slow", words=WORDS[:3], delay_s=0.002)
    with gateway.client(key) as client:
        conversations = []
        for n in range(60):
            conversation = client.post("/v1/conversations").json()["id"]
            conversations.append(conversation)
            body = _body("/v1/responses", stream=n % 2 == 0, conversation=conversation)
            visitor = Visitor(gateway, key, "/v1/responses", body)
            leave_at = time.monotonic() + n * 0.0004
            while time.monotonic() < leave_at:
                pass
            visitor.leave()
        eventually(gateway.is_idle)
        for conversation in conversations:
            items = _items(client, conversation)
            assert len(items) in (0, 2)
            assert all(item["status"] in ("completed", "incomplete") for item in items)
            assert client.post("/v1/responses", json={"input": "x", "conversation": conversation}).status_code == 200


def test_leaving_the_waiting_room(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario("silent_first_token")
    with run_gateway(tmp_path, fake, slots=1) as gateway:
        key = gateway.new_key()
        body = _body("/v1/chat/completions", stream=True, conversation=None)
        first = Visitor(gateway, key, "/v1/chat/completions", body)
        eventually(lambda: fake.chats)
        second = Visitor(gateway, key, "/v1/chat/completions", body)
        eventually(lambda: gateway.parts.admission.waiting == 1)
        second.leave()
        eventually(lambda: gateway.parts.admission.waiting == 0, within_s=FREED_WITHIN_S)
        _freed(gateway, fake, first.leave())
        assert len(fake.chats) == 1  # the engine never heard of the second


def test_leaving_while_the_body_is_sent(gateway: RunningGateway, client: httpx2.Client) -> None:
    url = urlsplit(gateway.url)
    for declared in (b"Content-Length: 1000", b"Transfer-Encoding: chunked", b"Content-Length: 30000000"):
        connection = socket.create_connection((url.hostname or "", url.port or 0), timeout=10)
        head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + declared
        connection.sendall(head + b'\r\n\r\n{"inp')
        connection.close()
    assert client.get("/v1/models").is_success


def test_a_half_closed_caller_is_a_caller_who_left(gateway: RunningGateway, fake: FakeInference, key: str) -> None:
    fake.scenario = Scenario("stalls")
    visitor = Visitor(
        gateway, key, "/v1/chat/completions", _body("/v1/chat/completions", stream=True, conversation=None)
    )
    visitor.read_until(b"Hello")
    left_at = time.monotonic()
    visitor._socket.shutdown(socket.SHUT_WR)
    _freed(gateway, fake, left_at)
    visitor.leave()
