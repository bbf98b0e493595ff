"""The examples of all pages that are marked `<!-- tested -->`, run as they stand against the running stack.

A page's shell commands are run in their order in one shell, as a reader does; every other example alone. A block of
text marked `<!-- output -->` is what the example before it prints; `…` in it stands for anything. The Chinese pages
have the same code (tests/unit/test_pages.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients import installed
from tests.conftest import ROOT, Stack
from tests.pages import SHELLS, Block, blocks, english_of, user_pages

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]  # the first one waits for packages of clients
PAGES = [page for page in user_pages() if english_of(page) is None]
TESTED = {page: [block for block in blocks(page) if block.mark == "tested"] for page in PAGES}
COMMANDS = {page: [one for one in tested if one.language in SHELLS] for page, tested in TESTED.items()}
PROGRAMS = [one for tested in TESTED.values() for one in tested if one.language not in SHELLS]
README = ROOT / "README.md"
END = "--- the end of a block ---"
# A refusal is a failure here; the pages leave that out.
SHELL_SETUP = 'curl() { command curl --fail-with-body "$@"; }\n'


def run(command: list[str], stack: Stack, cwd: Path = ROOT) -> str:
    """What it prints. It is told the addresses and keys that a reader has set before, and nothing else."""
    folders = {"DATA_DIR": str(stack.data_dir), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    keys = {"BASE_URL": stack.url, "API_KEY": stack.key}
    sdk = {"OPENAI_BASE_URL": f"{stack.url}/v1", "OPENAI_API_KEY": stack.key}
    environ = {**os.environ, **folders, **keys, **sdk}
    done = subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_program(block: Block, stack: Stack) -> str:
    if block.language == "python":
        python = installed.python() if "langchain" in block.text else sys.executable
        return run([str(python), "-W", "error", "-c", block.text], stack)
    assert block.language == "js", f"{block.place}: nothing here runs {block.language!r}"
    return run(["node", "--input-type=module", "-e", block.text], stack, installed.javascript())


def run_commands(tested: list[Block], stack: Stack) -> list[str]:
    """What each of the blocks prints, in one shell."""
    if shutil.which("curl") is None and any("curl " in block.text for block in tested):
        pytest.skip("no curl here")
    script = SHELL_SETUP + "".join(f"{block.text}echo '{END}'\n" for block in tested)
    return run(["bash", "-euo", "pipefail", "-c", script], stack).split(f"{END}\n")[:-1]


def assert_prints(block: Block, printed: str) -> None:
    """What stands below the block, where something does."""
    assert printed.strip(), f"{block.place} prints nothing"
    after = next((one for one in blocks(block.page) if one.line > block.line), None)
    if after is not None and after.mark == "output":
        parts = (re.escape(part) for part in after.text.strip().split("…"))
        assert re.fullmatch(".*?".join(parts), printed.strip(), re.DOTALL), f"{after.place}: it prints\n{printed}"


@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS[page]], ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_they_say(page: Path, stack: Stack) -> None:
    for block, printed in zip(COMMANDS[page], run_commands(COMMANDS[page], stack), strict=True):
        assert_prints(block, printed)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"{block.place}-{block.language}")
def test_a_program_in_a_page_runs(block: Block, stack: Stack) -> None:
    assert_prints(block, run_program(block, stack))


def test_the_readme_has_examples_for_curl_and_both_sdks() -> None:
    assert ["curl" in block.text for block in COMMANDS[README]].count(True) == 1
    assert [block.language for block in PROGRAMS if block.page == README] == ["python", "python"]


def test_the_curl_example_of_the_readme_gets_an_answer(stack: Stack) -> None:
    (curl,) = (block for block in COMMANDS[README] if "curl" in block.text)
    answer = json.loads(run_commands([curl], stack)[0])
    assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
    assert answer["usage"]["completion_tokens"] > 0


def test_the_openai_example_of_the_readme_chats_streams_and_keeps_a_conversation(stack: Stack) -> None:
    example, _ = (block for block in PROGRAMS if block.page == README)
    assert run_program(example, stack).endswith("4 messages are stored\n")
