"""Words that nobody reads any more are lost quietly; the program and its end go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
import hosting
hosting.outlast_readers()
print("first", flush=True)
sys.stdin.readline()
for _ in range(3):
    print("more", flush=True)
    print("said", file=sys.stderr, flush=True)
print("kept back until the end", end="")
sys.exit(7)
"""


def run(program: str, *, error: int) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=-1, stdout=-1, stderr=error, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_a_program_goes_on_to_its_end_when_its_reader_has_gone() -> None:
    process, first = run(PROGRAM, error=subprocess.PIPE)
    assert first == "first\n"
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate("go on\n", timeout=60)
    assert process.returncode == 7
    assert said == "said\n" * 3


def test_the_same_when_errors_go_to_that_reader() -> None:
    process, _ = run(PROGRAM, error=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    process.communicate("go on\n", timeout=60)
    assert process.returncode == 7


def test_with_a_reader_all_is_read() -> None:
    process, _ = run(PROGRAM, error=subprocess.DEVNULL)
    said, _ = process.communicate("go on\n", timeout=60)
    assert said == "more\n" * 3 + "kept back until the end"


def test_a_program_without_any_output_runs() -> None:
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -c \"$0\" >&- 2>&-", PROGRAM],
        cwd=ROOT,
        input="go on\n",
        text=True,
        env=os.environ,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7
