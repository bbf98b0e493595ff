"""Python clients against the gateway; the cases are in tests/clients/python, what the engine answers is here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first one waits for the packages
RUN = Path(__file__).resolve().parent / "python" / "run.py"
COMMON = {"stream": "plain", "stream_asynchronously": "plain", "tools": "calls", "tools_streamed": "calls"}
CASES = {
    "langchain_cases": {"invoke": "plain", **COMMON, "structured_output": "json"},
    "llamaindex_cases": {"complete": "plain", "chat": "plain", **COMMON},
}


@pytest.mark.parametrize(
    ("client", "case", "scenario"),
    [(client, case, scenario) for client, cases in CASES.items() for case, scenario in cases.items()],
)
def test_case(client: str, case: str, scenario: str, python: Path, run_case: Callable[[list[str], str], None]) -> None:
    run_case([str(python), str(RUN), client, case], scenario)


@pytest.mark.parametrize("client", CASES)
def test_every_case_of_a_client_is_run(client: str, python: Path) -> None:
    listed = subprocess.run([str(python), str(RUN), client, "--list"], capture_output=True, text=True, check=True)
    assert json.loads(listed.stdout) == list(CASES[client])
