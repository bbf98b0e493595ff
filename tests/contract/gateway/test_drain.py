"""SIGTERM: who is being answered gets the rest, nobody new gets in, and what cannot end in time is kept."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import client_of, events_of, eventually, run_gateway_process

pytestmark = pytest.mark.contract
CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


def refusal(answer: httpx2.Response) -> tuple[int, str, bool]:
    return answer.status_code, answer.json()["error"]["code"], int(answer.headers["retry-after"]) > 0


def test_streams_finish_nobody_new_gets_in_and_background_answers_keep_their_text(
    fake: FakeInference, tmp_path: Path
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
            with client_of(gateway.url, gateway.key) as other:
                assert other.get("/readyz").status_code == 200
                gateway.process.send_signal(signal.SIGTERM)
                asked_at = time.monotonic()
                eventually(lambda: other.get("/readyz").status_code == 503, within_s=1)
                stopping = (503, "shutting_down", True)
                assert refusal(other.get("/readyz")) == stopping
                assert refusal(other.post(CHAT, json=STREAM)) == stopping
                assert refusal(other.post("/v1/responses", json={"input": "x"})) == stopping
                assert refusal(other.post("/v1/responses", json={"input": "x", "background": True})) == stopping
                assert other.get("/healthz").status_code == 200
            chat, response = (events_of(stream.result().text) for stream in streams)
        assert chat[-1] == {"done": True}
        assert sum(event.get("choices", [{}])[0].get("delta", {}).get("content") == "a" for event in chat[:-2]) == 50
        assert response[-1]["type"] == "response.completed"
        assert gateway.process.wait(15) == 0
        assert 3.5 < time.monotonic() - asked_at < 8  # the background answer took all of the time there was
        assert "Traceback" not in gateway.output
    fake.reset()
    with run_gateway_process(data, fake.url) as gateway, gateway.client() as client:
        kept = client.get(f"/v1/responses/{started}").json()
    assert (kept["status"], kept["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})
    assert kept["output"][0]["content"][0]["text"] == "kept" * 3


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
