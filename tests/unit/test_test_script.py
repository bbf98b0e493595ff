"""`make test` runs every kind of tests once, and fails when one of them does."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
TOOLS = "bash sh dirname mkdir cat sleep"
PYTHON = """#!/usr/bin/env bash
line=$(printf '%q ' "$@")
echo "$line" >>asked
[ -z "$FAILING" ] || [[ "$*" != *"-m $FAILING"* ]]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script with a Python that writes down what it is told, and a PATH without apt-get."""
    for folder in ("scripts", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "test.sh", tmp_path / "scripts")
    (tmp_path / ".venv" / "bin" / "python").write_text(PYTHON)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    for tool in (*TOOLS.split(), "env", "id"):
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def begin(checkout: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "scripts/test.sh"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin"), "FAILING": "", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def parts(checkout: Path) -> list[str]:
    """The marker expression of each run."""
    told = [shlex.split(line) for line in (checkout / "asked").read_text().splitlines()]
    return [words[words.index("-m", 2) + 1] for words in told]


def test_every_marker_belongs_to_exactly_one_part(checkout: Path) -> None:
    done = begin(checkout)
    done.communicate(timeout=60)
    assert done.returncode == 0
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    markers = [line.partition(":")[0] for line in told["tool"]["pytest"]["ini_options"]["markers"]]
    for marker in markers:
        truth = {name: name == marker for name in markers}
        chosen = [part for part in parts(checkout) if eval(part, {}, truth)]  # the syntax is Python's
        assert len(chosen) == 1, f"{marker} is run by {chosen}"


def test_the_browser_comes_last_when_no_container_moves(checkout: Path) -> None:
    begin(checkout).communicate(timeout=60)
    assert parts(checkout)[-1] == "browser"


@pytest.mark.parametrize("failing", ["containers", "browser"])
def test_a_part_that_fails_is_named_and_the_others_run(checkout: Path, failing: str) -> None:
    done = begin(checkout, FAILING=failing)
    said = done.communicate(timeout=60)
    assert done.returncode == 1
    assert said[1].splitlines()[-1] == f"test: failed: {failing}"
    assert len(parts(checkout)) == 4
