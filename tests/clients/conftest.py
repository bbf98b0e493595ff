"""A gateway that the clients of this folder speak to, each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import installed
from tests.fakes.inference import WORDS, FakeInference, Scenario, fake_inference
from tests.running_gateway import MODEL, RunningGateway, eventually, run_gateway

RunCase = Callable[[str, str], None]
CALL = (
    "<|action_start|>",
    "<|plugin|>\n",
    '{"name": "get_weather", ',
    '"parameters": {"city": "Paris"}}',
    "<|action_end|>",
)
SCENARIOS = {
    "plain": Scenario(),
    "slow": Scenario("slow", delay_s=0.05),
    "calls": Scenario(words=CALL),
    "json": Scenario(words=('{"city":', ' "Paris"}')),
    "stalls": Scenario("stalls"),
    "error_midway": Scenario("error_midway"),
}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(fake: FakeInference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """InternLM2's way to call tools, so that the stand-in can call them with words."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), fake, slots=8, tool_format="internlm2") as running:
        yield running


@pytest.fixture
def environ(gateway: RunningGateway) -> dict[str, str]:
    """What a case is told."""
    own = {"BASE_URL": gateway.url, "API_KEY": gateway.new_key(), "MODEL": MODEL, "ANSWER": "".join(WORDS)}
    return {**os.environ, **own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@pytest.fixture(scope="session")
def javascript() -> Path:
    return installed.javascript()


@pytest.fixture(scope="session")
def python() -> Path:
    return installed.python()


@pytest.fixture
def run_case(gateway: RunningGateway, fake: FakeInference, environ: dict[str, str]) -> Iterator[Callable[..., None]]:
    """Runs a case with the engine answering as a scenario says, and leaves nothing open."""

    def run(command: list[str], scenario: str) -> None:
        fake.reset()
        fake.scenario = SCENARIOS[scenario]
        done = subprocess.run(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout[-6000:]

    yield run
    eventually(gateway.is_idle)
    fake.reset()
