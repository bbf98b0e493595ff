"""Tokens a minute and a day over HTTP: charged by estimate, settled by usage, given back; in memory and in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.prompt import MESSAGE_TOKENS, TEMPLATE_TOKENS
from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.redis_server import PROGRAM, redis_server
from tests.running_gateway import RunningGateway, eventually, one_slot, run_gateway

pytestmark = pytest.mark.contract
Json = dict[str, Any]
PROMPT = 1 + MESSAGE_TOKENS + TEMPLATE_TOKENS  # how many the word "hi" has at most
TPD = 8_000  # of a day: a whole token drains in 11 s, so none while a test runs


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway(
    request: pytest.FixtureRequest, _fake: FakeInference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    if request.param == "memory":
        with run_gateway(folder / "data", _fake, slots=64) as running:
            yield running
    elif PROGRAM is None:
        pytest.skip("redis-server is not installed")
    else:
        with (
            redis_server(folder) as redis,
            run_gateway(folder / "data", _fake, slots=64, redis_url=redis.url) as running,
        ):
            yield running


def chat(max_tokens: int | None = 20, **fields: Any) -> Json:
    return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens} | fields


def remaining(client: httpx2.Client) -> int:
    """What a request is told to be left, beside its own estimate; its own use is taken off afterwards."""
    answer = client.post("/v1/chat/completions", json=chat(1))
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def used_by(client: httpx2.Client, ask: Any) -> int:
    """How many tokens `ask` took from the day's budget, beyond what a probe takes."""
    probe = remaining(client) - remaining(client)
    before = remaining(client)
    ask()
    return before - probe - remaining(client)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_what_was_used_in_truth_is_taken(gateway: RunningGateway, fake: FakeInference, path: str, stream: bool) -> None:
    with gateway.client(gateway.new_key(tpd=TPD)) as client:
        body = chat(500) if path.endswith("completions") else {"input": "hi", "max_output_tokens": 500}

        def ask() -> None:
            assert client.post(path, json=body | {"stream": stream}).is_success

        # llama.cpp's template and the one word of the question, then the answer
        assert used_by(client, ask) == 3 + 5 + 1 + len(WORDS)


def test_a_failure_of_ours_costs_nothing(gateway: RunningGateway, fake: FakeInference) -> None:
    with gateway.client(gateway.new_key(tpd=TPD, rpm=100)) as client:

        def fail() -> None:
            fake.scenario = Scenario("failing")
            for path, body in (("/v1/chat/completions", chat()), ("/v1/responses", {"input": "hi"})):
                assert client.post(path, json=body).status_code == 502
            fake.scenario = Scenario()

        assert used_by(client, fail) == 0


def test_who_leaves_pays_for_what_came(gateway: RunningGateway, fake: FakeInference) -> None:
    with gateway.client(gateway.new_key(tpd=TPD)) as client:

        def leave() -> None:
            fake.scenario = Scenario("stalls")
            with client.stream("POST", "/v1/chat/completions", json=chat(5000, stream=True)) as answer:
                seen = b""
                for part in answer.iter_bytes():
                    seen += part
                    if seen.count(b'"content"') >= len(WORDS) // 2:
                        break
            eventually(gateway.is_idle)
            fake.release()
            fake.scenario = Scenario()

        used = used_by(client, leave)
        assert len(WORDS) // 2 <= used <= PROMPT + len(WORDS)  # the prompt's estimate and the events, not the 5000


@pytest.fixture(params=["memory", "redis"])
def line(
    request: pytest.FixtureRequest, fake: FakeInference, tmp_path: Path
) -> Iterator[AbstractContextManager[tuple[RunningGateway, httpx2.Client]]]:
    """Opened, a gateway whose only slot is held."""
    if request.param == "memory":
        yield one_slot(fake, tmp_path / "data")
    elif PROGRAM is None:
        pytest.skip("redis-server is not installed")
    else:
        with redis_server(tmp_path) as redis:
            yield one_slot(fake, tmp_path / "data", redis_url=redis.url)


def leave_the_line(gateway: RunningGateway, client: httpx2.Client, path: str) -> None:
    body = chat(500, stream=True) if path.endswith("completions") else {"input": "hi", "stream": True}
    with client.stream("POST", path, json=body) as answer:
        assert b"queued" in next(answer.iter_bytes())
    eventually(lambda: not gateway.parts.admission.waiting)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_who_leaves_the_line_has_used_no_tokens(
    line: AbstractContextManager[tuple[RunningGateway, httpx2.Client]], fake: FakeInference, path: str
) -> None:
    with line as (gateway, _), gateway.client(gateway.new_key(tpd=TPD)) as client:
        leave_the_line(gateway, client, path)
        fake.release()
        eventually(gateway.is_idle)
        with gateway.client(gateway.new_key(tpd=TPD)) as untouched:
            assert remaining(client) == remaining(untouched)
    assert all(asked.path == "/tokenize" or asked.body["max_tokens"] == 1 for asked in fake.asked[1:])


def test_who_leaves_the_line_has_made_a_request(
    line: AbstractContextManager[tuple[RunningGateway, httpx2.Client]], fake: FakeInference
) -> None:
    with line as (gateway, _), gateway.client(gateway.new_key(rpm=2)) as client:
        for _ in range(2):
            leave_the_line(gateway, client, "/v1/responses")  # each has left a question in the history
        assert client.post("/v1/chat/completions", json=chat(1)).status_code == 429


def test_what_the_engine_refuses_has_used_no_tokens(gateway: RunningGateway, fake: FakeInference) -> None:
    with gateway.client(gateway.new_key(tpd=TPD)) as client:

        def ask() -> None:
            long = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a " * 5000}]})
            assert long.json()["error"]["code"] == "context_length_exceeded", long.text

        assert used_by(client, ask) == 0


def test_the_estimate_is_held_while_the_answer_runs(gateway: RunningGateway, fake: FakeInference) -> None:
    with gateway.client(gateway.new_key(tpd=1000)) as client, ThreadPoolExecutor(1) as pool:
        fake.scenario = Scenario("silent_first_token")
        asking = pool.submit(client.post, "/v1/chat/completions", json=chat(900))
        eventually(lambda: fake.chats)
        over = client.post("/v1/chat/completions", json=chat(200))
        assert (over.status_code, over.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "1,000 tokens a day" in over.json()["error"]["message"]
        assert over.headers["x-should-retry"] == "false"
        assert int(over.headers["retry-after"]) > 60
        fake.scenario = Scenario()
        fake.release()
        assert asking.result().is_success
        assert client.post("/v1/chat/completions", json=chat(200)).is_success  # given back at once


def test_what_can_never_pass_is_said_so_and_what_nobody_limited_is_limited(
    gateway: RunningGateway, fake: FakeInference
) -> None:
    with gateway.client(gateway.new_key(tpm=100)) as client:
        never = client.post("/v1/chat/completions", json=chat(101))
        assert never.status_code == 429
        assert "can never pass" in never.json()["error"]["message"]
        assert never.headers["x-should-retry"] == "false"
        assert "retry-after" not in never.headers
        assert not fake.chats
        assert client.post("/v1/chat/completions", json=chat(None)).is_success
        assert 0 < fake.chats[-1].body["max_tokens"] < 100


def longest_that_passes(client: httpx2.Client, path: str, **fields: Any) -> tuple[int, int]:
    """The longest answer that the limit lets pass, and how many tokens were used then."""
    name = "max_tokens" if path.endswith("completions") else "max_output_tokens"
    question = chat() if path.endswith("completions") else {"input": "hi"}
    for longest in range(100, 0, -1):
        answer = client.post(path, json=question | {name: longest} | fields)
        if answer.is_success:
            return longest, answer.json()["usage"]["total_tokens"]
        assert answer.status_code == 429
    pytest.fail("nothing passes")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_no_answer_uses_more_than_the_limit_has(gateway: RunningGateway, fake: FakeInference, path: str) -> None:
    fake.scenario = Scenario(words=["x"] * 200)
    named = {"name": "now", "description": "word " * 25, "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function"} | ({"function": named} if path.endswith("completions") else named)
    with gateway.client(gateway.new_key(tpd=100)) as client:
        without, used = longest_that_passes(client, path)
        assert used <= 100  # the template's tokens are in the estimate
    with gateway.client(gateway.new_key(tpd=100)) as client:
        assert longest_that_passes(client, path, tools=[tool])[0] <= without - 25  # and those of tools


def test_the_wait_is_the_true_one(gateway: RunningGateway, fake: FakeInference) -> None:
    with gateway.client(gateway.new_key(tpm=3000)) as client, ThreadPoolExecutor(1) as pool:
        fake.scenario = Scenario("silent_first_token")
        asking = pool.submit(client.post, "/v1/chat/completions", json=chat(2900))
        eventually(lambda: fake.chats)
        over = client.post("/v1/chat/completions", json=chat(100))
        assert over.status_code == 429
        assert "x-should-retry" not in over.headers
        time.sleep(int(over.headers["retry-after-ms"]) / 1000 + 0.05)
        fake.scenario = Scenario()
        assert client.post("/v1/chat/completions", json=chat(100)).is_success
        fake.release()
        assert asking.result().is_success


def test_many_at_once_never_use_more_than_there_is(gateway: RunningGateway, fake: FakeInference) -> None:
    with gateway.client(gateway.new_key(tpd=2000)) as client, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/chat/completions", json=chat(20)), range(200)))
        last = client.post("/v1/chat/completions", json=chat(20))
        while last.is_success:  # what was held is given back, and can be used up
            answers.append(last)
            last = client.post("/v1/chat/completions", json=chat(20))
    assert {answer.status_code for answer in answers} == {200, 429}
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.is_success)
    assert 2000 - (PROMPT + 20) <= used <= 2000  # what is left is too little for one more
