"""JavaScript clients against the gateway; the cases are in tests/clients/js, what the engine answers is here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.inference import FakeInference
from tests.running_gateway import eventually

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first one waits for the packages

CASES = {
    "openai": {
        "chat": "plain",
        "chat_streamed": "plain",
        "chat_with_the_stream_helper": "plain",
        "leaving_a_stream": "stalls",
        "tools": "calls",
        "tools_streamed": "calls",
        "an_answer_of_a_given_form": "json",
        "log_probabilities": "plain",
        "completions": "plain",
        "models": "plain",
        "responses": "plain",
        "responses_streamed": "plain",
        "responses_with_tools": "calls",
        "a_background_answer": "slow",
        "cancelling_a_background_answer": "stalls",
        "conversations": "plain",
        "errors": "plain",
        "an_error_in_mid_stream": "error_midway",
    },
    "ai": {"plain": "plain", "streamed": "plain", "tools_streamed": "calls", "an_answer_of_a_given_form": "json"},
    "huggingface": {"text_generation": "plain", "chat": "plain", "chat_streamed": "plain", "tools_streamed": "calls"},
}


@pytest.mark.parametrize(
    ("client", "case", "scenario"),
    [(client, case, scenario) for client, cases in CASES.items() for case, scenario in cases.items()],
)
def test_case(
    client: str,
    case: str,
    scenario: str,
    javascript: Path,
    run_case: Callable[[list[str], str], None],
    fake: FakeInference,
) -> None:
    run_case(["node", str(javascript / "run.js"), client, case], scenario)
    if case == "leaving_a_stream":
        eventually(lambda: fake.chat.left_at)  # the engine is freed


@pytest.mark.parametrize("client", CASES)
def test_every_case_of_a_client_is_run(client: str, javascript: Path) -> None:
    listed = subprocess.run(
        ["node", str(javascript / "run.js"), client, "--list"], capture_output=True, text=True, check=True
    )
    assert json.loads(listed.stdout) == list(CASES[client])
