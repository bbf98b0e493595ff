"""Faults between several gateways and what they share: the database, Redis, and the proxy in front of them.

Each test leaves the stack as it was. The times are logged (`--log-cli-level=INFO`); docs/deploy-docker.md has a table.
"""

from __future__ import annotations

import logging
import subprocess
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.compose_stack import ComposeStack, require_docker, running
from tests.containers.faults import Faults, begin_answer, refusal_of, within

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]
MODEL = "smollm2-135m-instruct"
FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.scale.yml")
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
STORED = {"model": MODEL, "input": "Hi", "max_output_tokens": 2}
LOOK = """
import http.client
c = http.client.HTTPConnection("127.0.0.1", 8000, timeout=20)
c.request("GET", "/metrics", headers={"Authorization": "Bearer " + open("/data/admin.key").read().strip()})
lines = c.getresponse().read().decode().splitlines()
print(*[line.split()[1] for line in lines if line.startswith("gateway_slots_in_use ")])
"""
log = logging.getLogger("containers")


@pytest.fixture(scope="module")
def stack() -> Iterator[ComposeStack]:
    require_docker()
    environ = {"INFERENCE_SLOTS": "2", "GATEWAY_KEY_RPM": "100000"}
    with running(ComposeStack("scale-faults", FILES, MODEL, environ)) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"


@pytest.fixture(scope="module")
def key(stack: ComposeStack) -> str:
    return stack.admin_key()


@pytest.fixture(scope="module")
def faults(stack: ComposeStack) -> Iterator[Faults]:
    client = docker.from_env(timeout=60)
    yield Faults(stack, client)
    client.close()


def away(how: str, service: str, faults: Faults) -> AbstractContextManager[None]:
    return faults.stopped(service) if how == "stopped" else faults.cut(service, "stores")


def wait_until_stored(stack: ComposeStack, key: str, what: str, deadline_s: float) -> None:
    begun = time.monotonic()
    while (status := status_of(stack, key, STORED)) != 200:
        assert status == 503
        assert time.monotonic() - begun < deadline_s
        time.sleep(0.1)
    log.info("%s: turns are stored again after %.1f s", what, time.monotonic() - begun)


def status_of(stack: ComposeStack, key: str, body: dict[str, Any]) -> int:
    try:
        stack.ask("/v1/responses", key, body)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    return 200


@pytest.mark.parametrize("how", ["stopped", "cut off"])
def test_without_the_database_chats_go_on_and_the_history_says_so(
    stack: ComposeStack, key: str, faults: Faults, how: str
) -> None:
    before = stack.ask("/v1/responses", key, STORED)
    for _ in range(6):  # every gateway knows the key
        assert stack.ask("/v1/chat/completions", key, CHAT)["choices"]
    with away(how, "postgres", faults):
        for _ in range(3):
            assert stack.ask("/v1/chat/completions", key, CHAT)["choices"]
        begun = time.monotonic()
        refused = refusal_of(stack, key, "/v1/responses", STORED)
        log.info("PostgreSQL %s: a stored turn is refused after %.1f s", how, time.monotonic() - begun)
        assert (refused.status, refused.code) == (503, "history_unavailable")
        assert float(refused.headers["retry-after"]) > 0
        assert time.monotonic() - begun < 20
    wait_until_stored(stack, key, f"PostgreSQL {how}", within(4.1))
    assert stack.ask(f"/v1/responses/{before['id']}", key)["output"] == before["output"]


def test_the_database_cut_off_in_mid_answer_costs_no_text(stack: ComposeStack, key: str, faults: Faults) -> None:
    """The text comes on; its end waits for the database, and is written when that is back."""
    answer = begin_answer(stack, key, max_output_tokens=200)
    with faults.cut("postgres", "stores"):
        rest = answer.rest()
        assert rest.count(b"response.output_text.delta") > 20, "the words come on"
        log.info("PostgreSQL cut off in mid-answer: it ends with %s", rest.strip().split(b"\n\n")[-1][:300])
        assert b"response.completed" not in rest, "nothing is acknowledged that is not stored"
    wait_until_stored(stack, key, "PostgreSQL cut off in mid-answer", within(4.1))
    deadline = time.monotonic() + 60
    while (stored := stack.ask(f"/v1/responses/{answer.id}", key))["status"] == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert stored["status"] in ("completed", "incomplete"), stored["status"]
    assert len(stored["output"][0]["content"][0]["text"]) > 100


@pytest.mark.parametrize("how", ["stopped", "cut off"])
def test_without_redis_answers_go_on(stack: ComposeStack, key: str, faults: Faults, how: str) -> None:
    answer = begin_answer(stack, key, max_output_tokens=100)
    with away(how, "redis", faults):
        assert b"response.incomplete" in answer.rest(), "to the limit that was asked for"
        slowest = 0.0
        for _ in range(6):
            begun = time.monotonic()
            assert stack.ask("/v1/responses", key, STORED)["id"]
            slowest = max(slowest, time.monotonic() - begun)
        log.info("Redis %s: the slowest of six answers took %.1f s", how, slowest)
    assert stack.ask(f"/v1/responses/{answer.id}", key)["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stack.ask("/v1/responses", key, STORED)["id"]


def test_a_gateway_cut_off_from_the_proxy_costs_its_own_stream_only_and_its_answer_is_stored(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    answer = begin_answer(stack, key, max_output_tokens=400)
    busy = [n for n in (1, 2, 3) if _slots_in_use(stack, n)]
    assert len(busy) == 1, busy
    with faults.cut("gateway", "outside", busy[0]):
        told = Counter(status_of(stack, key, STORED) for _ in range(12))
        assert set(told) == {200}, told
        begun = time.monotonic()
        assert b"response.completed" not in answer.rest()
        log.info("a gateway cut off from nginx: its stream is cut after %.1f s", time.monotonic() - begun)
        assert time.monotonic() - begun < 90
        stored = stack.ask(f"/v1/responses/{answer.id}", key)
        assert stored["status"] in ("completed", "incomplete"), stored["status"]
        assert stored["incomplete_details"] in (None, {"reason": "max_output_tokens"}), "it ran to its end"
    begun = time.monotonic()
    while not _reaches(stack, busy[0]):
        assert time.monotonic() - begun < within(0.4)
        time.sleep(0.1)
    log.info("a gateway cut off from nginx: nginx reaches it again after %.1f s", time.monotonic() - begun)


def test_a_host_that_goes_down_hard_comes_back_by_itself_with_every_acknowledged_turn(
    stack: ComposeStack, key: str, faults: Faults
) -> None:
    acknowledged = [stack.ask("/v1/responses", key, STORED) for _ in range(5)]
    killed = faults.kill_all()
    assert {one.labels["com.docker.compose.service"] for one in killed} >= {"nginx", "postgres", "redis", "gateway"}
    stack.wait_until_it_answers(key, "all processes of three gateways killed at once", within(18.9))
    for number in (1, 2, 3):
        stack.wait_until_healthy("gateway", number)
    wait_until_stored(stack, key, "all processes of three gateways killed at once", within(4.1))
    for response in acknowledged:
        assert stack.ask(f"/v1/responses/{response['id']}", key)["output"] == response["output"]


def test_a_history_in_postgresql_is_saved_and_put_back(stack: ComposeStack, key: str, tmp_path: Path) -> None:
    before = stack.ask("/v1/responses", key, STORED)
    stack.documented("backup of postgresql", tmp_path)
    later = stack.ask("/v1/responses", key, STORED)["id"]
    stack.documented("restore of postgresql", tmp_path)
    for number in (1, 2, 3):
        stack.wait_until_healthy("gateway", number)
    stack.wait_until_it_answers(key, "PostgreSQL restored")
    assert stack.ask(f"/v1/responses/{before['id']}", key)["output"] == before["output"]
    assert refusal_of(stack, key, f"/v1/responses/{later}").status == 404
    assert stack.admin_key() == key


def _slots_in_use(stack: ComposeStack, number: int) -> float:
    return float(stack.compose("exec", "-T", "--index", str(number), "gateway", "python", "-c", LOOK))


def _reaches(stack: ComposeStack, number: int) -> bool:
    networks = stack.inspect(stack.container("gateway", number))["NetworkSettings"]["Networks"]
    address = networks[f"{stack.project}_outside"]["IPAddress"]
    look = f"exec 3<>/dev/tcp/{address}/8000"
    done = subprocess.run(
        ["docker", "exec", stack.container("nginx"), "bash", "-c", look], capture_output=True, check=False
    )
    return done.returncode == 0
