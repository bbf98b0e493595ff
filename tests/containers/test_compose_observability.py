"""Prometheus beside the CPU stack, as `--profile observability` starts it: each query of ours finds what happened.

Grafana's image could not be had where this was built, so it is not started here; its dashboard's queries are asked.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.compose_stack import ROOT, ComposeStack, free_port, require_docker, running
from tests.monitoring import alert_queries, dashboard_queries

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
MODEL = "smollm2-135m-instruct"
FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
IMAGE = "prom/prometheus:v2.42.0"
MAY_BE_ZERO = ("waiting", "background", "answers", "retries", "database failures", "full", "deadline")
FAILURES = "Failures of inference servers"
KILL_EVERY_S = 15
"""Two scrapes see the counter before and after; and after 10 s Docker forgets the pauses that it doubles."""
HI = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
log = logging.getLogger("containers")


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **fields: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(fields)}", timeout=20) as answer:
            told = json.loads(answer.read())
        assert told["status"] == "success", told
        return told["data"]

    def values(self, query: str) -> list[float]:
        return [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    return {"PROMETHEUS_PORT": str(free_port()), "GRAFANA_PORT": str(free_port())}


@pytest.fixture(scope="module")
def stack(ports: dict[str, str]) -> Iterator[ComposeStack]:
    require_docker()
    with running(
        ComposeStack("watch", FILES, MODEL, {"GATEWAY_KEY_RPM": "100000", **ports}),
        "gateway",
        "inference",
        "prometheus",
    ) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"


@pytest.fixture(scope="module")
def prometheus(stack: ComposeStack, ports: dict[str, str]) -> Prometheus:
    return Prometheus(int(ports["PROMETHEUS_PORT"]))


def promtool(*words: str, mounts: dict[Path, str]) -> str:
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "promtool"]
    for path, place in mounts.items():
        command += ["-v", f"{path}:{place}:ro"]
    done = subprocess.run([*command, IMAGE, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_takes_the_configuration_and_the_alerts_fire_when_they_should() -> None:
    require_docker()
    deploy = ROOT / "deploy"
    places = {deploy / name: f"/etc/prometheus/{name}" for name in ("prometheus.yml", "alerts.yml")}
    for engines in ("engines-tgi.yml", "engines-none.yml"):
        mounts = {**places, deploy / engines: "/etc/prometheus/engines.yml"}
        assert "SUCCESS" in promtool(
            "check", "config", "--syntax-only", "/etc/prometheus/prometheus.yml", mounts=mounts
        )
    tests = {Path(__file__).with_name("alerts_test.yml"): "/rules/test.yml", deploy / "alerts.yml": "/rules/alerts.yml"}
    assert "SUCCESS" in promtool("test", "rules", "/rules/test.yml", mounts=tests)


def test_the_gateway_is_scraped_with_the_token_that_it_made(stack: ComposeStack, prometheus: Prometheus) -> None:
    deadline = time.monotonic() + 60
    while not (found := prometheus.values('up{job="gateway"} == 1')):
        assert time.monotonic() < deadline, prometheus.ask("targets")
        time.sleep(1)
    assert found == [1.0]
    token = stack.compose("exec", "-T", "gateway", "cat", "/metrics/token").strip()
    assert len(token) > 30
    with stack.open("/metrics", token) as answer:
        assert b"\ngateway_slots " in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.open("/metrics", "guessed")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.open("/v1/models", token)


def test_the_containers_may_do_little(stack: ComposeStack) -> None:
    host = stack.inspect(stack.container("prometheus"))["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["PortBindings"]["9090/tcp"][0]["HostIp"] == "127.0.0.1"
    config = json.loads(stack.compose("--profile", "observability", "config", "--format", "json"))
    grafana = config["services"]["grafana"]
    assert grafana["read_only"]
    assert grafana["cap_drop"] == ["ALL"]
    assert [port["host_ip"] for port in grafana["ports"]] == ["127.0.0.1"]
    assert "GF_SECURITY_ADMIN_PASSWORD" not in grafana["environment"]


def test_each_query_of_dashboard_and_alerts_finds_what_happened(stack: ComposeStack, prometheus: Prometheus) -> None:
    key = stack.admin_key()
    limited = stack.ask("/v1/keys", key, {"name": "limited", "rpm": 1})["value"]
    deadline = time.monotonic() + 400
    killed_at = -math.inf
    missing: dict[str, Any] = {FAILURES: None}
    while missing:
        assert time.monotonic() < deadline, missing
        make_traffic(stack, key, limited)
        if any(what.startswith((FAILURES, "RequestsFail")) for what in missing):
            if time.monotonic() - killed_at > KILL_EVERY_S:
                kill_engine(stack, key)
                killed_at = time.monotonic()
        time.sleep(1)
        missing = {
            what: values
            for what, query in dashboard_queries().items()
            if "tgi_" not in query and not is_told(what, values := prometheus.values(query))
        }
        if (fails := prometheus.values(alert_queries()["RequestsFail"])) != [1.0]:
            missing["RequestsFail"] = fails
    one_for_each = {
        what: prometheus.values(query) for what, query in dashboard_queries().items() if "tgi_" not in query
    }
    log.info("dashboard: %s", one_for_each)
    assert one_for_each["Database: up"] == one_for_each["Gateways: up"] == [1.0]
    assert 0 < one_for_each["Time to first token: half of them"][0] < 30
    for rules in prometheus.ask("rules")["groups"]:
        assert {rule["health"] for rule in rules["rules"]} == {"ok"}
    alerts = {what: prometheus.values(query) for what, query in alert_queries().items()}
    assert all(values and set(values) <= {0.0, 1.0} for values in alerts.values()), alerts
    assert alerts["GatewayAway"] == alerts["HistoryUnavailable"] == alerts["UpstreamEjected"] == [0.0]


def test_a_model_that_is_away_is_seen(stack: ComposeStack, prometheus: Prometheus) -> None:
    stack.compose("stop", "inference")
    try:
        deadline = time.monotonic() + 60
        while prometheus.values(alert_queries()["ModelAway"]) != [1.0]:
            assert time.monotonic() < deadline
            time.sleep(1)
    finally:
        subprocess.run(["docker", "start", stack.container("inference")], check=True, capture_output=True)


def test_an_only_gateway_that_is_stopped_is_seen_though_docker_no_longer_names_it(
    stack: ComposeStack, prometheus: Prometheus
) -> None:
    stack.compose("stop", "gateway")
    try:
        deadline = time.monotonic() + 120
        while prometheus.values('up{job="gateway"}'):
            assert time.monotonic() < deadline, "Prometheus still has a gateway to ask"
            time.sleep(1)
        gone = alert_queries()
        for alert in ("GatewayAway", "ModelAway", "HistoryUnavailable"):
            assert prometheus.values(gone[alert]) == [1.0], alert
        while "GatewayAway" not in {one["labels"]["alertname"] for one in prometheus.ask("alerts")["alerts"]}:
            assert time.monotonic() < deadline, "the rule did not see it"
            time.sleep(1)
    finally:
        subprocess.run(["docker", "start", stack.container("gateway")], check=True, capture_output=True)
    deadline = time.monotonic() + 120
    while prometheus.values(alert_queries()["GatewayAway"]) != [0.0]:
        assert time.monotonic() < deadline, "a gateway that is back is still called away"
        time.sleep(1)


def is_told(what: str, values: list[float]) -> bool:
    """Whether a query gave something, that can be, and more than zeros where something has happened."""
    is_sane = bool(values) and all(math.isfinite(value) and value >= 0 for value in values)
    return is_sane and (any(values) or what.rpartition(": ")[2] in MAY_BE_ZERO or "queue" in what)


def make_traffic(stack: ComposeStack, key: str, limited: str) -> None:
    """Of each kind: answered, refused by a limit, left in mid-answer."""
    for _ in range(3):
        stack.ask("/v1/responses", key, {"model": MODEL, "input": "Hi", "max_output_tokens": 8})
        with contextlib.suppress(urllib.error.HTTPError):
            stack.ask("/v1/chat/completions", limited, HI)
    with stack.open("/v1/chat/completions", key, HI | {"stream": True, "max_tokens": 400}) as leaving:
        leaving.read1(100)


def kill_engine(stack: ComposeStack, key: str) -> None:
    """Docker starts it again; who asks meanwhile is refused."""
    stack.kill("inference")
    for _ in range(20):
        with contextlib.suppress(urllib.error.HTTPError):
            stack.ask("/v1/chat/completions", key, HI)
    stack.wait_until_it_answers(key, "inference killed")
