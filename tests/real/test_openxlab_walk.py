"""The walk of docs/openxlab.md as a whole: real git, LFS, conversion, app.py and llama.cpp; a local git host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.real
DOCUMENTS = (ROOT / "docs" / "openxlab.md", ROOT / "docs" / "openxlab.zh-CN.md")


def headings(path: Path) -> list[str]:
    return re.findall(r"^## (\d)\. ", path.read_text(), re.MULTILINE)


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```\w*\n.*?^```$", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(900)
def test_the_whole_walk_goes_well_offline(tmp_path: Path) -> None:
    for program in ("git", "git-lfs"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    command = [sys.executable, "-m", "scripts.rehearse_openxlab", "--keep", str(tmp_path / "walk")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("the whole walk went well")
    assert set(re.findall(r"^(\d)/8 ", done.stdout, re.MULTILINE)) == set(headings(DOCUMENTS[0]))


def test_both_languages_have_the_same_steps_and_commands() -> None:
    english, chinese = DOCUMENTS
    assert headings(english) == headings(chinese) == list("12345678")
    assert blocks(english) == blocks(chinese)
    assert len(blocks(english)) == 6
