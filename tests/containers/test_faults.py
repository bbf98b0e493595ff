"""Faults of the stack on the CPU: what the client sees, what is stored, and how long until it answers again.

Each test leaves the stack as it was. The times are logged (`--log-cli-level=INFO`); docs/deploy-docker.md has a table.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.containers.compose_stack import ComposeStack
from tests.containers.faults import (
    CHAT,
    CHECKPOINT_S,
    MIB,
    SILENCE_S,
    STORED,
    Faults,
    begin_answer,
    kept,
    refusal_of,
    text_of,
    within,
    words_in,
)

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]
SERVICES = ("inference", "gateway", "webui")
# Within the web UI's container: its key, its way to the gateway. Tells each event, and what broke.
ASK_AS_WEB_UI = """
import http.client, json, os, sys, urllib.parse
at = urllib.parse.urlsplit(os.environ["WEBUI_GATEWAY_URL"])
key = open(os.environ["WEBUI_API_KEY_FILE"]).read().strip()
head = {"Authorization": "Bearer " + key, "X-End-User": "someone", "Content-Type": "application/json"}
try:
    c = http.client.HTTPConnection(at.hostname, at.port, timeout=6)
    body = {"input": "Write a very long story.", "stream": True, "background": True, "max_output_tokens": 100}
    c.request("POST", "/v1/responses", json.dumps(body), head)
    for line in c.getresponse():
        if line.startswith(b"data: {"):
            print(json.loads(line[6:]).get("response", {}).get("id", "event"), flush=True)
except OSError as error:
    print("broken:", type(error).__name__, flush=True)
"""
READ_AS_WEB_UI = """
import http.client, sys
c = http.client.HTTPConnection("gateway", 8000, timeout=20)
head = {"Authorization": "Bearer " + open("/webui/webui.key").read().strip(), "X-End-User": "someone"}
c.request("GET", "/v1/responses/" + sys.argv[1], headers=head)
print(c.getresponse().read().decode())
"""
log = logging.getLogger("containers")


@pytest.fixture
def stack(faulty_stack: ComposeStack) -> ComposeStack:
    """Ready, whatever became of the test before."""
    faulty_stack.wait_until_ready(120)
    return faulty_stack


@pytest.fixture
def key(faulty_stack_key: str) -> str:
    return faulty_stack_key


def in_web_ui(stack: ComposeStack, program: str, *words: str) -> str:
    return stack.compose("exec", "-T", "webui", "python", "-c", program, *words)


def wait_for_status(stack: ComposeStack, key: str, stage: str, deadline_s: float = 60) -> dict[str, Any]:
    begun = time.monotonic()
    while (status := stack.ask("/v1/status", key))["stage"] != stage:
        assert time.monotonic() - begun < deadline_s, f"not {stage} but {status}"
        time.sleep(0.1)
    return status


def wait_until_not_ready(stack: ComposeStack, key: str) -> None:
    """The gateway asks inference at most twice a second."""
    begun = time.monotonic()
    while stack.ask("/v1/status", key)["ready"]:
        assert time.monotonic() - begun < 30
        time.sleep(0.1)


# --- inference


def test_inference_killed_in_mid_answer_is_told_stored_and_back(stack: ComposeStack, key: str, faults: Faults) -> None:
    answer = begin_answer(stack, key)
    faults.kill("inference")
    rest = answer.rest()
    assert b"response.completed" not in rest
    assert b"response.failed" in rest
    stored = kept(stack, key, answer.id)
    assert stored["status"] == "failed"
    assert text_of(stored) == answer.begun + words_in(rest)
    stack.wait_until_it_answers(key, "inference killed in mid-answer", within(4.0))


def test_inference_out_of_memory_in_mid_answer_says_why_and_starts_again(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    answer = begin_answer(stack, key)
    faults.run_out_of_memory("inference")
    rest = answer.rest()
    assert b"response.failed" in rest
    stack.wait_until_it_answers(key, "inference out of memory in mid-answer", within(4.9))
    stored = kept(stack, key, answer.id)
    assert stored["status"] == "failed"
    assert text_of(stored) == answer.begun + words_in(rest)
    said = faults.container("inference").logs().decode()
    assert "most likely because the memory ran out" in said
    assert "Set INFERENCE_SLOTS or INFERENCE_CONTEXT lower" in said, "it says what to do"
    assert "It starts again in 1 s (restart 1 of 10)" in said, "with growing pauses, and not for ever"


def test_inference_without_the_memory_to_start_says_so_and_comes_when_there_is_enough(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    with faults.started_with_memory("inference", 100 * MIB):
        before = faults.container("inference").attrs["RestartCount"]
        status = wait_for_status(stack, key, "failed")
        assert "memory" in status["message"]
        assert "Set INFERENCE_SLOTS or INFERENCE_CONTEXT lower" in status["message"], "it says what to do"
        refused = refusal_of(stack, key, "/v1/chat/completions", CHAT)
        assert (refused.status, refused.code) == (503, "upstream_start_failed")
        assert "could not be started" in refused.message
        assert float(refused.headers["retry-after"]) >= 30
        assert refused.headers["x-should-retry"] == "false"
        begun = time.monotonic()
        while (times := faults.container("inference").attrs["RestartCount"] - before) < 4:
            assert time.monotonic() - begun < 60, f"Docker has started it only {times} times"
            time.sleep(0.5)
        # Docker doubles its pause from 0.1 s up to a minute: no storm of starts, but no end either.
        assert times <= 4 + (time.monotonic() - begun) / 1.5
        assert stack.ask("/v1/status", key)["ready"] is False
    stack.wait_until_it_answers(key, "inference without enough memory to start, then with enough", within(6.9))


def test_inference_that_starts_slowly_is_waited_for_and_shown(stack: ComposeStack, key: str, faults: Faults) -> None:
    with faults.cores("inference", 0.08):
        begun = time.time()
        faults.kill("inference")
        wait_until_not_ready(stack, key)
        stages = set()
        for _ in range(12):
            status = stack.ask("/v1/status", key)
            stages.add(status["stage"])
            assert status["ready"] is False
            refused = refusal_of(stack, key, "/v1/chat/completions", CHAT)
            assert (refused.status, refused.code) == (503, "upstream_not_ready")
            assert float(refused.headers["retry-after"]) > 0
            time.sleep(0.5)
        assert stages <= {"restarting", "start", "load", "warmup", "verify"}, stages
        assert begun - 60 < status["since"] <= time.time(), "the page counts the seconds from there"
        assert faults.container("inference").attrs["State"]["Running"], "nobody gave up"
    stack.wait_until_it_answers(key, "inference that starts with a twelfth of a core, from when it had all")
    assert stack.ask("/v1/status", key)["stage"] == "ready"


def test_inference_paused_is_a_time_out_for_who_waits_and_then_goes_on(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    answer = begin_answer(stack, key)
    with ThreadPoolExecutor(2) as pool, faults.paused("inference"):
        begun = time.monotonic()
        rest = pool.submit(answer.rest)
        refused = refusal_of(stack, key, "/v1/chat/completions", CHAT)
        assert (refused.status, refused.code) == (504, "upstream_timeout")
        assert b"response.failed" in rest.result()
        assert b"upstream_timeout" in rest.result()
        assert time.monotonic() - begun < 3 * SILENCE_S
        assert stack.ask("/v1/status", key)["ready"] is False
    stored = kept(stack, key, answer.id)
    assert (stored["status"], stored["error"]["code"]) == ("failed", "upstream_timeout")
    assert text_of(stored)
    stack.wait_until_it_answers(key, "inference paused", within(0.1))


# --- the gateway


def test_a_gateway_killed_in_mid_answer_loses_no_stored_turn(stack: ComposeStack, key: str, faults: Faults) -> None:
    before = stack.ask("/v1/responses", key, STORED)
    answer = begin_answer(stack, key)
    answer.read_on(CHECKPOINT_S + 1)
    faults.kill("gateway")
    assert b"response.completed" not in answer.rest()
    stack.wait_until_it_answers(key, "gateway killed in mid-answer", within(1.6))
    assert kept(stack, key, before["id"])["output"] == before["output"]
    stored = kept(stack, key, answer.id)
    assert stored["status"] == "incomplete"
    assert text_of(stored).startswith(answer.begun)


# --- the network


def test_gateway_and_inference_cut_apart_is_an_honest_error(stack: ComposeStack, key: str, faults: Faults) -> None:
    with faults.cut("inference", "engine"):
        refused = refusal_of(stack, key, "/v1/chat/completions", CHAT)
        assert (refused.status, refused.code) == (503, "upstream_not_ready")
        wait_until_not_ready(stack, key)
    stack.wait_until_it_answers(key, "gateway and inference cut apart", within(0.1))


def test_gateway_and_inference_cut_apart_in_mid_answer(stack: ComposeStack, key: str, faults: Faults) -> None:
    answer = begin_answer(stack, key)
    with faults.cut("inference", "engine"):
        rest = answer.rest()
        assert b"response.failed" in rest
        assert b"upstream_timeout" in rest
        stored = kept(stack, key, answer.id)
        assert stored["status"] == "failed"
        assert text_of(stored)
    stack.wait_until_it_answers(key, "gateway and inference cut apart in mid-answer", within(0.1))


def test_web_ui_and_gateway_cut_apart_in_mid_answer_loses_no_answer(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    """The page asks in the background: the answer goes on to its end, and is there when the network is back."""
    asking = subprocess.Popen(
        ["docker", "exec", stack.container("webui"), "python", "-c", ASK_AS_WEB_UI], stdout=subprocess.PIPE, text=True
    )
    assert asking.stdout is not None
    response_id = asking.stdout.readline().strip()
    with asking, faults.cut("gateway", "outside"):
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.webui_port}/", timeout=20) as page:
            assert b"gradio" in page.read().lower(), "the page itself is there"
        assert "broken" in asking.stdout.read()
        at_rest = in_web_ui(stack, ASK_AS_WEB_UI)
        assert at_rest.startswith("broken"), at_rest
    stack.wait_until_it_answers(key, "web UI and gateway cut apart", within(0.5))
    deadline = time.monotonic() + 60
    while (stored := json.loads(in_web_ui(stack, READ_AS_WEB_UI, response_id)))["status"] == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert stored["status"] in ("completed", "incomplete"), stored
    assert stored["incomplete_details"] in (None, {"reason": "max_output_tokens"}), "it was not broken off"
    assert text_of(stored)


# --- all of it


def test_a_stop_of_all_in_mid_answer_is_orderly_and_the_history_stays(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    answer = begin_answer(stack, key)
    begun = time.monotonic()
    stack.compose("stop")  # SIGTERM to all
    log.info("stopped in mid-answer: all are down after %.1f s", time.monotonic() - begun)
    assert time.monotonic() - begun < 25
    rest = answer.rest()
    assert b"response.completed" not in rest
    codes = {service: faults.container(service).attrs["State"]["ExitCode"] for service in SERVICES}
    assert 137 not in codes.values(), f"somebody had to be killed: {codes}"
    stack.compose("start")
    stack.wait_until_it_answers(key, "docker compose stop and start", within(12.8))
    stored = kept(stack, key, answer.id)
    assert stored["status"] in ("incomplete", "failed")
    assert text_of(stored).startswith(answer.begun + words_in(rest))


def test_a_restart_of_all_in_mid_answer(stack: ComposeStack, key: str) -> None:
    answer = begin_answer(stack, key)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(answer.rest)
        stack.compose("restart")
        stack.wait_until_it_answers(key, "docker compose restart", within(6.8))
        received = answer.begun + words_in(rest.result(10))
    stored = kept(stack, key, answer.id)
    assert stored["status"] in ("incomplete", "failed")
    assert text_of(stored).startswith(received)


def test_a_host_that_goes_down_hard_in_mid_answer_comes_back_by_itself(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    before = stack.ask("/v1/responses", key, STORED)
    answer = begin_answer(stack, key)
    answer.read_on(CHECKPOINT_S + 1)
    assert len(faults.kill_all()) == len(SERVICES)
    assert b"response.completed" not in answer.rest()
    stack.wait_until_it_answers(key, "all processes killed at once", within(11))
    for service in SERVICES:
        assert faults.container(service).attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        stack.wait_until_healthy(service)
    assert kept(stack, key, before["id"])["output"] == before["output"]
    stored = kept(stack, key, answer.id)
    assert stored["status"] == "incomplete"
    assert text_of(stored).startswith(answer.begun)
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.webui_port}/", timeout=20) as page:
        assert b"gradio" in page.read().lower()
