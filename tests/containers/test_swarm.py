"""The stack of deploy/swarm.yml on a Swarm of one node, with llama.cpp: updates and losses under load."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.containers.compose_stack import ROOT, ComposeStack, require_docker
from tests.containers.swarm_stack import JOBS, MADE, SwarmStack, deployed, docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
MODEL = "smollm2-135m-instruct"
FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
ENVIRON = {"INFERENCE_SLOTS": "2", "GATEWAY_KEY_RPM": "100000"}
CALLERS = 4
log = logging.getLogger("containers")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmStack]:
    require_docker()
    with deployed(SwarmStack(ComposeStack("swarm", FILES, MODEL, ENVIRON)), tmp_path_factory.mktemp("swarm")) as up:
        yield up


@pytest.fixture(scope="module")
def key(stack: SwarmStack) -> str:
    stack.front.wait_until_ready()
    return stack.admin_key()


def status_of(stack: SwarmStack, key: str) -> int | str:
    """Of one stored turn, asked once; "cut" when the connection broke."""
    try:
        stack.front.ask("/v1/responses", key, {"model": MODEL, "input": "Say hello.", "max_output_tokens": 8})
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return "cut"
    return 200


class Load:
    """What callers were told who asked without a pause and never twice, and the fewest healthy gateways meanwhile."""

    def __init__(self, stack: SwarmStack, key: str) -> None:
        self.told: Counter[int | str] = Counter()
        self.fewest = 1000
        self._stack, self._key, self._is_over = stack, key, threading.Event()

    def ask_on(self) -> Counter[int | str]:
        told: Counter[int | str] = Counter()
        while not self._is_over.is_set():
            told[status_of(self._stack, self._key)] += 1
        return told

    def count_gateways(self) -> None:
        while not self._is_over.is_set():
            self.fewest = min(self.fewest, len(self._stack.containers("gateway")))
            time.sleep(0.2)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CALLERS + 1) as pool:
            counting = pool.submit(self.count_gateways)
            asking = [pool.submit(self.ask_on) for _ in range(CALLERS)]
            try:
                yield
            finally:
                self._is_over.set()
            counting.result()
            for one in asking:
                self.told += one.result()


def test_the_committed_stack_is_what_the_compose_files_make() -> None:
    require_docker()
    made = subprocess.run(MADE, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "deploy" / "swarm.yml").read_text(), "run `make swarm-stack`"
    assert "generic_resources" in docker("stack", "config", "-c", "deploy/swarm.yml")


def test_jobs_are_done_and_a_chat_goes_through(stack: SwarmStack, key: str) -> None:
    for job in JOBS:
        told = docker("service", "ps", "--format", "{{.CurrentState}}", f"{stack.name}_{job}")
        assert told.startswith("Complete"), stack.state()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    assert stack.front.ask("/v1/chat/completions", key, body)["choices"][0]["message"]["content"].strip()
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.front.webui_port}/", timeout=20) as page:
        assert b"gradio" in page.read().lower()


def test_a_key_that_is_made_in_one_container_works_at_all_gateways(stack: SwarmStack) -> None:
    container = stack.containers("gateway")[0]
    made = docker("exec", container, "python", "-m", "gateway", "keys", "create", "--name", "by command").split()[-1]
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 2}
    for _ in range(6):
        assert stack.front.ask("/v1/chat/completions", made, body)["choices"]


def test_services_of_ours_have_no_rights_and_only_two_ports_are_open(stack: SwarmStack) -> None:
    for service in ("gateway", "webui", "inference"):
        found = json.loads(docker("inspect", stack.containers(service)[0]))[0]
        host = found["HostConfig"]
        assert (found["Config"]["User"], host["ReadonlyRootfs"], host["CapDrop"]) == ("1000:1000", True, ["ALL"])
        assert host["PidsLimit"] == 512
    services = docker("service", "ls", "-q", "--filter", f"label=com.docker.stack.namespace={stack.name}").split()
    ports = [port for one in json.loads(docker("inspect", *services)) for port in one["Endpoint"].get("Ports", ())]
    assert {port["PublishedPort"] for port in ports} == {stack.front.gateway_port, stack.front.webui_port}


def test_a_rolling_update_under_load_fails_no_request(stack: SwarmStack, key: str) -> None:
    """Nobody asks twice. A new gateway is healthy before an old one stops."""
    before, load = set(stack.containers("gateway")), Load(stack, key)
    with load.running():
        begun = time.monotonic()
        docker("service", "update", "--quiet", "--detach=false", "--force", f"{stack.name}_gateway")
        stack.wait_until_running({"gateway": 3})
        lasted = time.monotonic() - begun
    log.info("three gateways were updated in %.0f s; callers were told %s", lasted, dict(load.told))
    assert not before & set(stack.containers("gateway"))
    assert load.fewest >= 3
    assert set(load.told) == {200}, load.told
    assert load.told[200] > 20


def test_an_update_that_does_not_start_is_rolled_back_and_nobody_notices(stack: SwarmStack, key: str) -> None:
    before, load = set(stack.containers("gateway")), Load(stack, key)
    service = f"{stack.name}_gateway"
    with load.running():
        docker("service", "update", "--quiet", "--detach=true", "--env-add", "GATEWAY_SLOTS=nonsense", service)
        deadline = time.monotonic() + 300
        state = ""
        while state != "rollback_completed" and time.monotonic() < deadline:
            time.sleep(0.5)
            state = docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", service).strip()
        stack.wait_until_running({"gateway": 3})
    assert state == "rollback_completed"
    assert len(before & set(stack.containers("gateway"))) >= 2
    assert load.fewest >= 3
    assert set(load.told) == {200}, load.told


def test_a_killed_gateway_is_replaced_and_costs_its_own_answers_only(stack: SwarmStack, key: str) -> None:
    load, lost = Load(stack, key), stack.containers("gateway")[0]
    with load.running():
        time.sleep(2)
        begun = time.monotonic()
        os.kill(json.loads(docker("inspect", lost))[0]["State"]["Pid"], 9)
        while lost in stack.containers("gateway") or len(stack.containers("gateway")) < 3:
            assert time.monotonic() - begun < 240, stack.state()
            time.sleep(0.2)
        lasted = time.monotonic() - begun
        time.sleep(2)
    log.info("a killed gateway was replaced after %.1f s; callers were told %s", lasted, dict(load.told))
    assert load.fewest == 2
    assert sum(count for status, count in load.told.items() if status != 200) <= CALLERS, load.told
    assert set(load.told) <= {200, 502, "cut"}
    assert load.told[200] > 20


def test_a_killed_engine_is_replaced(stack: SwarmStack, key: str) -> None:
    lost = stack.containers("inference")[0]
    os.kill(json.loads(docker("inspect", lost))[0]["State"]["Pid"], 9)
    assert stack.front.wait_until_it_answers(key, "inference killed")
    stack.wait_until_running({"inference": 1})
    assert stack.containers("inference") != [lost]
