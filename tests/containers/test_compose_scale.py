"""Three gateways behind nginx with PostgreSQL and Redis, as docker-compose.scale.yml starts them."""

from __future__ import annotations

import http.client
import json
import logging
import math
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.containers.compose_stack import ROOT, ComposeStack, require_docker, running

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
MODEL = "smollm2-135m-instruct"
FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.scale.yml")
LIMIT = 12
DYING_S = 0.5
"""From the signal until a process' sockets are closed; until then requests still reach it."""
log = logging.getLogger("containers")


@pytest.fixture(scope="module")
def stack() -> Iterator[ComposeStack]:
    require_docker()
    environ = {"INFERENCE_SLOTS": "2", "GATEWAY_KEY_RPM": "100000"}
    with running(ComposeStack("scale", FILES, MODEL, environ)) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"


@pytest.fixture(scope="module")
def key(stack: ComposeStack) -> str:
    return stack.admin_key()


def status_of(stack: ComposeStack, key: str, body: dict[str, Any]) -> int | str:
    """The status of a request, or "cut" when its connection broke before there was one."""
    try:
        stack.ask("/v1/responses", key, body)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return "cut"
    return 200


def ending_of(stack: ComposeStack, key: str, body: dict[str, Any]) -> str:
    """How a stream ended: `completed`, why it is not complete, or what broke it."""
    try:
        with stack.open("/v1/responses", key, body | {"stream": True}) as answer:
            *_, last = answer.read().decode().strip().split("\n\n")
    except (OSError, http.client.HTTPException) as broken:
        return repr(broken)
    event = json.loads(last.partition("data: ")[2])
    if event["type"] == "response.incomplete":
        return str(event["response"]["incomplete_details"]["reason"])
    return str(event["type"].removeprefix("response."))


def named(stack: ComposeStack, key: str, path: str, body: dict[str, Any], request_id: str) -> Any:
    """The open answer to a request that can be found in the logs."""
    head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "X-Request-Id": request_id}
    request = urllib.request.Request(stack.url + path, json.dumps(body).encode(), head)
    return urllib.request.urlopen(request, timeout=60)


def lines_of(stack: ComposeStack, service: str, request_id: str) -> list[dict[str, Any]]:
    """What a service logged of a request."""
    logged = stack.compose("logs", "--no-log-prefix", service).splitlines()
    return [json.loads(line[line.index("{") :]) for line in logged if f'"{request_id}"' in line]


def addresses_of(stack: ComposeStack, number: int) -> set[str]:
    networks = stack.inspect(stack.container("gateway", number))["NetworkSettings"]["Networks"]
    return {network["IPAddress"] for network in networks.values()}


def test_three_gateways_answer_at_one_address(stack: ComposeStack, key: str) -> None:
    assert stack.ask("/v1/responses", key, {"model": MODEL, "input": "Hi", "max_output_tokens": 4})["output"]
    for number in (1, 2, 3):
        assert stack.inspect(stack.container("gateway", number))["State"]["Health"]["Status"] == "healthy"


def test_the_engine_cannot_find_the_stores_and_the_gateways_can(stack: ComposeStack) -> None:
    ask = """
import socket
for name in ("redis", "postgres"):
    try:
        print(name, bool(socket.getaddrinfo(name, 80)))
    except socket.gaierror:
        print(name, False)
"""
    assert stack.compose("exec", "-T", "gateway", "python", "-c", ask).split() == ["redis", "True", "postgres", "True"]
    from_engine = stack.compose("exec", "-T", "inference", "python", "-c", ask).split()
    assert from_engine == ["redis", "False", "postgres", "False"]


def test_events_pass_the_proxy_one_by_one(stack: ComposeStack, key: str) -> None:
    body = {"model": MODEL, "input": "Tell a story.", "stream": True, "max_output_tokens": 60}
    with stack.open("/v1/responses", key, body) as answer:
        reads = 0
        while answer.read1(65536):
            reads += 1
    assert reads > 10


def test_one_id_leads_from_the_client_through_the_proxy_to_a_gateway(stack: ComposeStack, key: str) -> None:
    """The engine is sent the id as well (tests/contract/gateway), but llama.cpp logs no header."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    with named(stack, key, "/v1/chat/completions", body, "followed-17") as answer:
        assert answer.headers["x-request-id"] == "followed-17"
    (proxy,) = lines_of(stack, "nginx", "followed-17")
    (gateway,) = lines_of(stack, "gateway", "followed-17")
    assert (proxy["logger"], proxy["status"], proxy["answers"]) == ("nginx.access", 200, "200")
    assert (gateway["logger"], gateway["status"], gateway["upstream"]) == ("gateway.access", 200, "llamacpp-1")
    addresses = set().union(*(addresses_of(stack, number) for number in (1, 2, 3)))
    assert proxy["gateways"].removesuffix(":8000") in addresses
    assert '"/healthz"' not in stack.compose("logs", "gateway")  # asked every five seconds


def test_a_limit_is_exact_across_all_gateways(stack: ComposeStack, key: str) -> None:
    created = stack.ask("/v1/keys", key, {"name": "limited", "rpm": LIMIT})
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 1, "store": False}
    begun = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        told = Counter(pool.map(lambda _: status_of(stack, created["value"], body), range(3 * LIMIT)))
    assert set(told) == {200, 429}
    # LIMIT at once, and one more for each 60/LIMIT seconds that the requests took.
    assert LIMIT <= told[200] <= LIMIT + LIMIT * (time.monotonic() - begun) / 60


def test_the_history_is_the_same_at_every_gateway(stack: ComposeStack, key: str) -> None:
    kept = stack.ask("/v1/responses", key, {"model": MODEL, "input": "Hi", "max_output_tokens": 4})
    look = "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000); "
    look += (
        "c.request('GET', sys.argv[1], headers={'Authorization': 'Bearer ' + open('/data/admin.key').read().strip()}); "
    )
    look += "print(c.getresponse().read().decode())"
    for number in ("1", "2", "3"):
        path = f"/v1/responses/{kept['id']}"
        told = stack.compose("exec", "-T", "--index", number, "gateway", "python", "-c", look, path)
        assert json.loads(told)["output"] == kept["output"], number


def test_commands_in_a_container_are_about_the_history_of_all_gateways(stack: ComposeStack, key: str) -> None:
    made = stack.compose("exec", "-T", "gateway", "python", "-m", "gateway", "keys", "create", "--name", "by command")
    assert stack.ask("/v1/responses", made.split()[-1], {"model": MODEL, "input": "Hi", "max_output_tokens": 2})[
        "output"
    ]
    assert "by command" in json.dumps(stack.ask("/v1/keys", key))
    assert "by command" in stack.compose(
        "exec", "-T", "--index", "2", "gateway", "python", "-m", "gateway", "keys", "list"
    )


def test_a_history_in_postgresql_is_not_called_saved(stack: ComposeStack, tmp_path: Path) -> None:
    command = ["docker", "compose", "exec", "-T", "gateway", "python", "-m", "gateway", "backup", "-"]
    done = subprocess.run(command, env=stack.environment(), capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert "backed up with pg_dump" in done.stderr
    command = ["make", "backup", f"TO={tmp_path / 'b.tar.gz'}", "WHERE=containers"]
    done = subprocess.run(command, env=stack.environment(), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert "backed up with pg_dump" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_gateway_killed_under_load_costs_its_own_answers_only_and_no_stored_turn(
    stack: ComposeStack, key: str
) -> None:
    body = {"model": MODEL, "input": "Count to ten.", "max_output_tokens": 16}
    killed = addresses_of(stack, 2)
    acknowledged: dict[str, dict[str, Any]] = {}
    lost: dict[str, tuple[int | str, float]] = {}
    killed_at = math.inf

    def ask(number: int) -> None:
        nonlocal killed_at
        if number == 15:
            stack.kill("gateway", 2)
            killed_at = time.monotonic()
            return
        begun, name = time.monotonic(), f"killed-{number}"
        try:
            with named(stack, key, "/v1/responses", body, name) as answer:
                told = json.loads(answer.read())
                acknowledged[told["id"]] = told
        except urllib.error.HTTPError as refused:
            with refused:
                lost[name] = (refused.code, begun)
        except (OSError, http.client.HTTPException):
            lost[name] = ("cut", begun)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))
    log.info("one of three gateways killed: %d answers lost, %d acknowledged", len(lost), len(acknowledged))
    for name, (status, begun) in lost.items():  # nginx says 502 or cuts them
        assert status in (502, "cut"), lost
        assert begun < killed_at + DYING_S, f"{name} was asked when the gateway was gone"
        (line,) = lines_of(stack, "nginx", name)
        assert killed & set(re.findall(r"[\d.]+(?=:8000)", line["gateways"])), f"{name} was lost elsewhere: {line}"
    assert len(lost) + len(acknowledged) == 59
    for response_id, told in acknowledged.items():
        assert stack.ask(f"/v1/responses/{response_id}", key) == told
    stack.wait_until_it_answers(key, "one of three gateways killed", 20)


def test_a_rolling_restart_under_load_fails_no_request_though_nobody_retries(stack: ComposeStack, key: str) -> None:
    whole = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 8}
    streamed = {"model": MODEL, "input": "Count to twenty.", "max_output_tokens": 40}
    is_over = threading.Event()

    def ask_on(number: int) -> Counter[int | str]:
        told: Counter[int | str] = Counter()
        while not is_over.is_set():
            told[ending_of(stack, key, streamed) if number % 2 else status_of(stack, key, whole)] += 1
        return told

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask_on, number) for number in range(6)]
        try:
            for number in (1, 2, 3):
                subprocess.run(
                    ["docker", "restart", "-t", "90", stack.container("gateway", number)],
                    check=True,
                    capture_output=True,
                    timeout=120,
                )
                stack.wait_until_healthy("gateway", number, deadline_s=180)
        finally:
            is_over.set()
        told = sum((one.result() for one in asking), Counter())
    log.info("rolling restart: %s", dict(told))
    assert set(told) <= {200, "completed", "max_output_tokens"}, told  # each answer is as long as it should be
    assert told[200] > 10
    assert sum(told.values()) - told[200] > 10
    assert "were cut" not in stack.compose("logs", "gateway")
