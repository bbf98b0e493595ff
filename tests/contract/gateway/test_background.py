"""Background answers: they run on without their callers, and can be watched from any event on, again and again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import openai
import pytest

from gateway.errors import HistoryUnavailable
from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import MODEL, RunningGateway, events_of, eventually, run_gateway, run_gateway_process

pytestmark = pytest.mark.contract
Json = dict[str, Any]
WORDS = [f" w{n}" for n in range(40)]
ASK = {"input": "go", "background": True}


def ended(client: httpx2.Client, response_id: str) -> Json:
    """The response, when it has ended."""

    def look() -> Json | None:
        found: Json = client.get(f"/v1/responses/{response_id}").json()
        return found if found["status"] not in ("queued", "in_progress") else None

    found: Json = eventually(look)
    return found


def watched(client: httpx2.Client, response_id: str, after: int | None = None) -> list[Json]:
    """The events from the server, until they end."""
    query = "stream=true" if after is None else f"stream=true&starting_after={after}"
    answer = client.get(f"/v1/responses/{response_id}?{query}")
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def text_of(events: list[Json]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


@contextmanager
def slow_ends(gateway: RunningGateway) -> Iterator[None]:
    """The ends of answers take a while to be written."""
    store = gateway.parts.store
    finish_turn = store.finish_turn

    async def slowly(*args: Any, **fields: Any) -> None:
        await asyncio.sleep(0.3)
        await finish_turn(*args, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "finish_turn", slowly)
        yield


def test_a_background_answer_is_told_at_once_and_runs_on(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("silent_first_token", words=WORDS)
    told = client.post("/v1/responses", json=ASK).json()
    assert (told["status"], told["background"], told["output"]) == ("queued", True, [])
    assert client.get(f"/v1/responses/{told['id']}").json()["status"] in ("queued", "in_progress")
    fake.release()
    done = ended(client, told["id"])
    assert done["status"] == "completed"
    assert done["output"][0]["content"][0]["text"] == "".join(WORDS)
    assert done["usage"]["output_tokens"] == len(WORDS)


def test_leaving_the_stream_leaves_the_answer_running(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.01)
    with client.stream("POST", "/v1/responses", json=ASK | {"stream": True}) as stream:
        lines = stream.iter_lines()
        first = events_of("\n\n".join(next(lines) for _ in range(12)))
    response_id = first[0]["response"]["id"]
    assert [event["type"] for event in first[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert ended(client, response_id)["status"] == "completed"
    assert fake.chat.left_at is None


@pytest.mark.parametrize("when", ["while it runs", "when it has ended"])
def test_no_event_is_lost_or_repeated_wherever_one_comes_back(
    client: httpx2.Client, fake: FakeInference, when: str
) -> None:
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.005)
    response_id = client.post("/v1/responses", json=ASK).json()["id"]
    if when == "when it has ended":
        ended(client, response_id)
    whole = watched(client, response_id)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert text_of(whole) == "".join(WORDS)
    assert whole[-1]["type"] == "response.completed"
    for after in (0, 1, 4, 5, 20, len(whole) - 5, len(whole) - 2, len(whole) - 1):
        assert watched(client, response_id, after) == whole[after + 1 :]


def test_the_events_after_the_end_are_those_that_were_seen_live(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("slow", words=["a", "你好", '"', "\\", "\n", "😀", " end"], delay_s=0.005)
    live = events_of(client.post("/v1/responses", json=ASK | {"stream": True}).text)
    again = watched(client, live[0]["response"]["id"])
    assert again == live


def test_many_watch_the_same_answer(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.01)
    response_id = client.post("/v1/responses", json=ASK).json()["id"]
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(text_of(watched(client, response_id)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["".join(WORDS)] * 8


def test_cancel_frees_the_engine_and_keeps_the_text(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    conversation = client.post("/v1/conversations").json()["id"]
    response_id = client.post("/v1/responses", json=ASK | {"conversation": conversation}).json()["id"]
    eventually(lambda: fake.chats and fake.chat.words_sent == len(WORDS) // 2)
    begun = time.monotonic()
    cancelled = client.post(f"/v1/responses/{response_id}/cancel").json()
    assert time.monotonic() - begun < 2
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"][0]["content"][0]["text"] == "".join(WORDS[: len(WORDS) // 2])
    eventually(lambda: fake.chat.left_at)
    events = watched(client, response_id)
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
    assert client.post(f"/v1/responses/{response_id}/cancel").json() == cancelled  # again: no harm
    fake.scenario = Scenario()
    assert client.post("/v1/responses", json={"input": "next", "conversation": conversation}).is_success


def test_all_who_cancel_at_once_hear_that_it_was(
    gateway: RunningGateway, client: httpx2.Client, fake: FakeInference
) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    response_id = client.post("/v1/responses", json=ASK).json()["id"]
    eventually(lambda: fake.chats and fake.chat.words_sent == len(WORDS) // 2)
    with slow_ends(gateway), ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: client.post(f"/v1/responses/{response_id}/cancel").json()["status"], range(4)))
    assert told == ["cancelled"] * 4


def test_a_cancel_while_the_end_is_written_waits_for_it(
    gateway: RunningGateway, client: httpx2.Client, fake: FakeInference
) -> None:
    with slow_ends(gateway):
        response_id = client.post("/v1/responses", json=ASK).json()["id"]
        time.sleep(0.1)
        assert client.post(f"/v1/responses/{response_id}/cancel").json()["status"] == "completed"


def test_one_who_comes_back_gets_the_end_that_could_not_be_written_at_first(
    gateway: RunningGateway, client: httpx2.Client
) -> None:
    store = gateway.parts.store

    async def away(*_: Any, **fields: Any) -> NoReturn:
        raise HistoryUnavailable("The store is away.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "finish_turn", away)
        live = events_of(client.post("/v1/responses", json=ASK | {"stream": True}).text)
    assert live[-1]["type"] == "response.failed"
    response_id, last = live[0]["response"]["id"], live[-2]["sequence_number"]
    assert ended(client, response_id)["status"] == "completed"
    assert watched(client, response_id, last)[-1]["type"] == "response.completed"


def test_only_background_answers_can_be_cancelled_or_watched_again_while_they_run(
    client: httpx2.Client, fake: FakeInference
) -> None:
    done = client.post("/v1/responses", json={"input": "go"}).json()
    refused = client.post(f"/v1/responses/{done['id']}/cancel")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_id")
    assert text_of(watched(client, done["id"])) == done["output"][0]["content"][0]["text"]
    fake.scenario = Scenario("stalls", words=WORDS)
    with client.stream("POST", "/v1/responses", json={"input": "go", "stream": True}) as stream:
        lines = stream.iter_lines()  # kept: what reads it closes the connection when it goes
        created = next(line for line in lines if line.startswith("data: "))
        running = events_of(created)[0]["response"]["id"]
        refused = client.get(f"/v1/responses/{running}?stream=true")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")
    assert client.get(f"/v1/responses/{done['id']}?starting_after=3").json()["error"]["param"] == "starting_after"


def test_a_background_answer_belongs_to_its_caller(
    gateway: RunningGateway, client: httpx2.Client, fake: FakeInference
) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    response_id = client.post("/v1/responses", json=ASK).json()["id"]
    with gateway.client() as other:
        for method, path in (("GET", "?stream=true"), ("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            assert other.request(method, f"/v1/responses/{response_id}{path}").status_code == 404
    assert client.post(f"/v1/responses/{response_id}/cancel").json()["status"] == "cancelled"


def test_what_fails_before_the_question_is_stored_has_its_own_status(client: httpx2.Client) -> None:
    for stream in (False, True):
        answer = client.post("/v1/responses", json=ASK | {"conversation": "conv_unknown", "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_background_answer_that_fails_says_so_to_all(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("failing")
    events = events_of(client.post("/v1/responses", json=ASK | {"stream": True}).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "upstream_failed"
    response_id = events[0]["response"]["id"]
    assert client.get(f"/v1/responses/{response_id}").json()["status"] == "failed"
    assert watched(client, response_id) == events


def test_the_official_client_comes_back_to_an_answer(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.01)
    sdk = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.new_key(), max_retries=0)
    text, last, response_id = "", -1, ""
    with sdk.responses.create(model=MODEL, input="go", background=True, stream=True) as stream:
        for event in stream:
            last = event.sequence_number
            if event.type == "response.created":
                response_id = event.response.id
            elif event.type == "response.output_text.delta":
                text += event.delta
                if text.count("w") == 10:
                    break
    for event in sdk.responses.retrieve(response_id, stream=True, starting_after=last):
        assert event.sequence_number == last + 1
        last = event.sequence_number
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == "".join(WORDS)
    assert sdk.responses.retrieve(response_id).output_text == text
    sdk.responses.delete(response_id)
    sdk.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_stop_ends_background_answers_and_keeps_what_they_have(fake: FakeInference, folder: Path) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    half = "".join(WORDS[: len(WORDS) // 2])
    with run_gateway(folder, fake) as gateway:
        key = gateway.new_key()
        with gateway.client(key) as client:
            response_id = client.post("/v1/responses", json=ASK).json()["id"]
            eventually(lambda: fake.chats and fake.chat.words_sent == len(WORDS) // 2)
    with run_gateway(folder, fake) as gateway, gateway.client(key) as client:
        found = client.get(f"/v1/responses/{response_id}").json()
        assert (found["status"], found["output"][0]["content"][0]["text"]) == ("incomplete", half)


def test_who_saw_more_than_a_killed_gateway_had_kept_still_gets_the_end(fake: FakeInference, folder: Path) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    with run_gateway_process(folder, fake.url) as process:
        with process.client() as client, client.stream("POST", "/v1/responses", json=ASK | {"stream": True}) as stream:
            events = []
            for line in stream.iter_lines():
                events += events_of(line)
                if text_of(events).count("w") == len(WORDS) // 2:
                    break
            process.process.kill()
    with run_gateway_process(folder, fake.url) as process, process.client() as client:
        response_id = events[0]["response"]["id"]
        assert client.get(f"/v1/responses/{response_id}").json()["status"] == "incomplete"
        last = events[-1]["sequence_number"]
        rest = watched(client, response_id, last)
        assert rest[0]["sequence_number"] == last + 1
        assert rest[-1]["type"] == "response.incomplete"
        assert text_of(rest) == ""
