"""Several inference servers of one model: who gets the next answer, and what a failing one costs callers: nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.inference import FakeInference, Scenario, fake_inference
from tests.running_gateway import RunningGateway, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def _second() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture
def second(_second: FakeInference) -> Iterator[FakeInference]:
    _second.reset()
    yield _second
    _second.reset()


@pytest.fixture
def pair(fake: FakeInference, second: FakeInference, tmp_path: Path) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path, f"{fake.url},{second.url}", slots=4) as running:
        yield running


@pytest.fixture
def asking(pair: RunningGateway) -> Iterator[httpx2.Client]:
    with pair.client() as client:
        yield client


def states(pair: RunningGateway) -> dict[str, bool]:
    with pair.client(pair.admin_key) as admin:
        return {entry["id"]: entry["ready"] for entry in admin.get("/v1/upstreams").json()["data"]}


def test_the_least_busy_one_gets_the_next_answer(
    pair: RunningGateway, asking: httpx2.Client, fake: FakeInference, second: FakeInference
) -> None:
    for server in (fake, second):
        server.scenario = Scenario("stalls")
    streams = [asking.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) for _ in range(6)]
    for stream in streams:
        assert stream.__enter__().status_code == 200
    assert (len(fake.chats), len(second.chats)) == (3, 3)
    assert pair.parts.admission.free == 2  # four slots at each
    for stream in streams:
        stream.__exit__(None, None, None)


@pytest.mark.parametrize("scenario", ["failing", "loading", "closes", "garbage_first", "not_http"])
def test_a_failure_before_the_first_event_is_hidden(
    asking: httpx2.Client, fake: FakeInference, second: FakeInference, scenario: str
) -> None:
    fake.scenario = Scenario(scenario)
    for _ in range(6):
        answer = asking.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200, answer.text
    assert len(second.chats) == 6


def test_a_failure_after_the_first_event_is_not_tried_again(
    asking: httpx2.Client, fake: FakeInference, second: FakeInference
) -> None:
    for server in (fake, second):
        server.scenario = Scenario("dies_midway")
    events = events_of(asking.post("/v1/chat/completions", json=CHAT | {"stream": True}).text)
    assert events[-1]["error"]["code"] == "upstream_failed"
    assert len(fake.chats) + len(second.chats) == 1


def test_a_request_that_is_refused_is_not_tried_again(
    asking: httpx2.Client, fake: FakeInference, second: FakeInference
) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 5000}]}
    refused = asking.post("/v1/chat/completions", json=long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert len(fake.chats) + len(second.chats) == 1


def test_when_all_fail_the_error_is_told(asking: httpx2.Client, fake: FakeInference, second: FakeInference) -> None:
    for server in (fake, second):
        server.scenario = Scenario("failing")
    answer = asking.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")


def test_one_that_is_away_is_left_out_and_comes_back(
    pair: RunningGateway, asking: httpx2.Client, fake: FakeInference, second: FakeInference
) -> None:
    fake.scenario = Scenario("loading")
    for _ in range(3):
        assert asking.post("/v1/chat/completions", json=CHAT).is_success
    assert states(pair) == {"llamacpp-1": False, "llamacpp-2": True}
    assert pair.parts.admission.free == 4  # half of the slots went with it
    asked = len(fake.chats)
    for _ in range(4):
        assert asking.post("/v1/chat/completions", json=CHAT).is_success
    assert len(fake.chats) == asked
    fake.scenario = Scenario()
    eventually(lambda: all(states(pair).values()), within_s=10)
    eventually(lambda: pair.parts.admission.free == 8)


def test_one_that_counts_but_does_not_generate_is_left_out(
    pair: RunningGateway, asking: httpx2.Client, fake: FakeInference, second: FakeInference
) -> None:
    fake.scenario = Scenario("failing")
    long = {"input": "word " * 600, "max_output_tokens": 5}  # so long that it is counted before
    for _ in range(12):
        assert asking.post("/v1/responses", json=long).is_success
    assert len(fake.chats) < 12


def test_one_that_drains_finishes_what_it_has(
    pair: RunningGateway, asking: httpx2.Client, fake: FakeInference, second: FakeInference
) -> None:
    fake.scenario = Scenario("stalls")
    with asking.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
        assert len(fake.chats) == 1
        with pair.client(pair.admin_key) as admin:
            drained = admin.post("/v1/upstreams/llamacpp-1", json={"draining": True}).json()
            assert (drained["draining"], drained["running"]) == (True, 1)
            for _ in range(3):
                assert asking.post("/v1/chat/completions", json=CHAT).is_success
            assert (len(fake.chats), len(second.chats)) == (1, 3)
            fake.release()
            assert "[DONE]" in stream.read().decode()
            assert admin.post("/v1/upstreams/llamacpp-1", json={"draining": False}).json()["draining"] is False
            assert admin.post("/v1/upstreams/other", json={"draining": True}).status_code == 404
    for _ in range(4):
        asking.post("/v1/chat/completions", json=CHAT)
    assert len(fake.chats) > 1


def test_stored_turns_too(asking: httpx2.Client, fake: FakeInference, second: FakeInference) -> None:
    fake.scenario = Scenario("failing")
    begun = time.monotonic()
    answer = asking.post("/v1/responses", json={"input": "hi"}).json()
    assert answer["status"] == "completed"
    assert time.monotonic() - begun < 5
