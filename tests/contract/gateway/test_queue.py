"""Waiting for a slot: told after a quarter of a second, with the place; what fails after that comes as an event."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import events_of, eventually, one_slot

pytestmark = pytest.mark.contract
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_a_chat_that_waits_is_told_its_place_in_comments(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path) as (gateway, client):
        begun = time.monotonic()
        with client.stream("POST", "/v1/chat/completions", json=CHAT) as stream:
            assert stream.status_code == 200
            assert 0.2 < time.monotonic() - begun < 2
            lines = stream.iter_lines()
            assert next(lines) == ": queued, place 1"
            with gateway.client() as other, other.stream("POST", "/v1/chat/completions", json=CHAT) as later:
                places = later.iter_lines()
                assert next(places) == ": queued, place 2"
                fake.release()
                assert events_of("\n".join(lines) + "\n")[-1] == {"done": True}
                assert "data: [DONE]" in list(places)


def test_a_response_that_waits_is_on_disk_and_told_its_place(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path) as (_, client):
        with client.stream("POST", "/v1/responses", json={"input": "go", "stream": True}) as stream:
            lines = stream.iter_lines()
            seen: list[dict[str, Any]] = []
            while len(seen) < 2:
                seen += events_of(next(lines))
            assert [event["type"] for event in seen] == ["response.created", "response.queued"]
            assert seen[1]["response"]["queue_position"] == 1
            response_id = seen[0]["response"]["id"]
            assert client.get(f"/v1/responses/{response_id}").json()["status"] == "queued"
            fake.release()
            for line in lines:
                seen += events_of(line)
        assert seen[2]["type"] == "response.in_progress"
        assert seen[-1]["type"] == "response.completed"
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))


def test_a_short_wait_keeps_the_honest_status(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path) as (_, client):
        threading.Timer(0.1, fake.release).start()
        fake.scenario = Scenario("failing")
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 502


def test_what_fails_after_the_wait_comes_as_an_event(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path) as (_, client):
        threading.Timer(0.6, fake.release).start()
        fake.scenario = Scenario("failing")
        answers = {}

        def ask(path: str, body: dict[str, Any]) -> None:
            answers[path] = client.post(path, json=body)

        threads = [
            threading.Thread(target=ask, args=("/v1/chat/completions", CHAT)),
            threading.Thread(target=ask, args=("/v1/responses", {"input": "go", "stream": True})),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        chat = events_of(answers["/v1/chat/completions"].text)
        assert chat[-1]["error"]["code"] == "upstream_failed"
        events = events_of(answers["/v1/responses"].text)
        assert events[-1]["type"] == "response.failed"
        stored = client.get(f"/v1/responses/{events[0]['response']['id']}").json()
        assert (stored["status"], stored["error"]["code"]) == ("failed", "upstream_failed")


def test_leaving_the_line_gives_the_place_up_and_keeps_the_question(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path) as (gateway, client):
        conversation = client.post("/v1/conversations").json()["id"]
        body = {"input": "mine", "stream": True, "conversation": conversation}
        with client.stream("POST", "/v1/responses", json=body) as stream:
            lines = stream.iter_lines()  # kept: what reads it closes the connection when it goes
            next(lines)
            assert gateway.parts.admission.waiting == 1
        eventually(lambda: gateway.parts.admission.waiting == 0)

        def items() -> list[tuple[str, str]]:
            data = client.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
            return [(item["role"], item["status"]) for item in data]

        eventually(lambda: items() == [("user", "completed"), ("assistant", "incomplete")])


def test_a_wait_that_is_too_long_ends(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path, max_wait_s=0.7) as (_, client):
        events = events_of(client.post("/v1/chat/completions", json=CHAT).text)
        assert events[-1]["error"]["code"] == "overloaded"
        plain = client.post("/v1/chat/completions", json=CHAT | {"stream": False})
        assert (plain.status_code, plain.json()["error"]["code"]) == (503, "overloaded")


def test_a_full_waiting_room_says_when_to_come_back(fake: FakeInference, tmp_path: Path) -> None:
    with one_slot(fake, tmp_path, max_waiting=0) as (_, client):
        refused = client.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert float(refused.headers["retry-after-ms"]) > 0
