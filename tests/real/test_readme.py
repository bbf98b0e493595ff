"""The README's examples, run as they stand against the running stack with the real model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Stack

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(
    r"^<!-- tested -->\n```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


def run(language: str, example: str, stack: Stack) -> str:
    """What an example prints; BASE_URL and API_KEY are all that it is told."""
    commands = {"bash": ["bash", "-euo", "pipefail", "-c", example], "python": [sys.executable, "-c", example]}
    environ = {**os.environ, "BASE_URL": stack.url, "API_KEY": stack.key}
    done = subprocess.run(
        commands[language], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_examples_for_curl_and_both_sdks() -> None:
    assert [language for language, _ in EXAMPLES] == ["bash", "python", "python"]


def test_the_curl_example_gets_an_answer(stack: Stack) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    answer = json.loads(run(*EXAMPLES[0], stack))
    assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
    assert answer["usage"]["completion_tokens"] > 0


def test_the_openai_example_chats_streams_and_keeps_a_conversation(stack: Stack) -> None:
    assert run(*EXAMPLES[1], stack).endswith("4 messages are stored\n")


def test_the_huggingface_hub_example_chats_and_streams(stack: Stack) -> None:
    assert run(*EXAMPLES[2], stack).strip()
