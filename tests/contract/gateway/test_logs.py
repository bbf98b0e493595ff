"""What the gateway logs: one line for each request, its id in every line of it, and never what people said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import ROOT, GatewayProcess, Json, client_of, eventually, run_gateway_process

pytestmark = pytest.mark.contract
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PROMPT, ANSWER, PERSON = "prompt-marker-4711", "answer-marker-4712", "person-marker-4713"
SECRETS = ("engine-key-marker", "redis-password-marker", "collector-key-marker", "metrics-token-marker")
ENVIRON = {
    "GATEWAY_UPSTREAM_KEYS": f"llamacpp={SECRETS[0]}",
    "REDIS_URL": f"redis://:{SECRETS[1]}@127.0.0.1:9/0",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={SECRETS[2]}",
    "GATEWAY_METRICS_TOKEN": SECRETS[3],
}


def lines_of(gateway: GatewayProcess) -> list[Json]:
    """All lines of its log; each must be JSON."""
    return [json.loads(line) for line in gateway.output.splitlines()]


def accesses(gateway: GatewayProcess, request_id: str) -> list[Json]:
    return [
        line
        for line in lines_of(gateway)
        if line["logger"] == "gateway.access" and line.get("request_id") == request_id
    ]


def say(client: httpx2.Client, path: str, **fields: Any) -> httpx2.Response:
    said: Json = {"input": PROMPT} if path == RESPONSES else {"messages": [{"role": "user", "content": PROMPT}]}
    return client.post(path, json=said | fields)


def everything_that_may_leak(client: httpx2.Client, person: httpx2.Client, fake: FakeInference) -> None:
    """Answers of each kind, refusals that have the text at hand, failures of the engine."""
    for name in ("plain", "dies_midway", "garbage", "garbage_first", "error_midway", "failing", "loading", "not_http"):
        fake.scenario = Scenario(name, words=[ANSWER] * 4)
        for stream in (False, True):
            say(client, CHAT, stream=stream)
            say(person, RESPONSES, stream=stream)
    fake.scenario = Scenario(words=[ANSWER] * 4)
    say(client, RESPONSES, background=True)
    say(client, RESPONSES, background=True, stream=True)
    say(client, CHAT, temperature=PROMPT)
    say(client, CHAT, **{PROMPT: 1})
    say(client, CHAT, model=PROMPT)
    client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 4})
    client.post(CHAT, content=f'{{"{PROMPT}"', headers={"content-type": "application/json"})
    client.post(CHAT, content=PROMPT, headers={"content-type": "text/plain"})
    client.get(f"/v1/{PROMPT}")
    client.get(f"/v1/responses/{PROMPT}")
    client.get(f"/v1/conversations?q={PROMPT}")
    metadata = {"title": PROMPT}
    conversation = client.post("/v1/conversations", json={"metadata": metadata}).json()["id"]
    say(client, RESPONSES, conversation=conversation)
    client.get(f"/v1/conversations/{conversation}/export?format=md")
    client.get(f"/v1/conversations/{conversation}/items/{PROMPT}")
    client.get("/v1/models", headers={"authorization": f"Bearer sk-{PROMPT}"})
    client.get("/v1/models", headers={"x-end-user": PERSON})


def test_neither_texts_nor_secrets_nor_people_are_ever_logged(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway_process(tmp_path / "data", fake.url, ENVIRON, ["--log-level", "debug"]) as gateway:
        secrets = [gateway.key, (gateway.data_dir / "webui.key").read_text().strip()]
        with gateway.client() as client, client_of(gateway.url, secrets[1]) as person:
            person.headers["x-end-user"] = PERSON
            everything_that_may_leak(client, person, fake)
        with client_of(gateway.url, SECRETS[3]) as client:
            metrics = client.get("/metrics").text
        assert gateway.stop() == 0
        log = gateway.output
    assert len(log) > 5_000
    for marker in (PROMPT, ANSWER, PERSON, *SECRETS, *secrets, *(secret[3:] for secret in secrets)):
        assert marker not in log, next(line for line in log.splitlines() if marker in line)
        assert marker not in metrics


def test_the_database_password_is_not_logged(tmp_path: Path) -> None:
    environ = {
        "DATA_DIR": str(tmp_path),
        "PORT": "0",
        "GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:9",
        "DATABASE_URL": "postgresql://gateway:password-marker@127.0.0.1:9/history",
        "GATEWAY_DATABASE_WAIT_S": "0.5",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--log-level", "debug"],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "127.0.0.1" in ended.stderr
    assert "password-marker" not in ended.stderr + ended.stdout


def test_a_request_has_one_line_that_says_how_it_went(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway_process(tmp_path / "data", fake.url) as gateway, gateway.client() as client:
        ids = {key["id"] for key in client.get("/v1/keys").json()["data"]}
        for path, stream in ((CHAT, False), (CHAT, True), (RESPONSES, False), (RESPONSES, True)):
            fake.scenario = Scenario("slow", words=["a"] * 5, delay_s=0.02)
            answer = say(client, path, stream=stream)
            (line,) = eventually(lambda request_id=answer.headers["x-request-id"]: accesses(gateway, request_id))
            assert (
                line.items()
                >= {
                    "level": "info",
                    "method": "POST",
                    "route": path,
                    "status": 200,
                    "upstream": "llamacpp-1",
                    "output_tokens": 5,
                }.items()
            )
            assert line["key_id"] in ids
            assert line["input_tokens"] > 1
            assert 15 < line["ttft_ms"] < line["ms"] < 5_000
        refused = client.get(f"{RESPONSES}/resp_none")
        (line,) = eventually(lambda: accesses(gateway, refused.headers["x-request-id"]))
        assert (line["route"], line["status"]) == ("/v1/responses/{response_id}", 404)
        assert "upstream" not in line


def test_probes_leave_a_line_only_when_all_is_not_well(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway_process(tmp_path / "data", fake.url) as gateway, gateway.client() as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).is_success
        fake.scenario = Scenario("loading")
        eventually(lambda: client.get("/readyz").status_code == 503)
        said = eventually(lambda: [line for line in lines_of(gateway) if line["logger"] == "gateway.access"])
        assert {(line["route"], line["status"]) for line in said} == {("/readyz", 503)}


def test_every_line_of_a_request_carries_its_id(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway_process(tmp_path / "data", fake.url) as gateway, gateway.client() as client:
        fake.scenario = Scenario("silent_first_token")
        with pytest.raises(httpx2.ReadTimeout):
            client.post(CHAT, json={"messages": [{"role": "user", "content": "x"}]}, timeout=0.5)
        left = eventually(lambda: [line for line in lines_of(gateway) if line["message"] == "the caller left"])
        (line,) = eventually(lambda: accesses(gateway, left[0]["request_id"]))
        assert line["status"] == 499
        fake.reset()
        started = say(client, RESPONSES, background=True)
        over = eventually(
            lambda: [line for line in lines_of(gateway) if line["message"] == "a background answer ended"]
        )
        assert (
            over[0].items()
            >= {
                "request_id": started.headers["x-request-id"],
                "status": "completed",
                "output_tokens": 9,
            }.items()
        )
