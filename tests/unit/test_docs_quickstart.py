"""What docs/quickstart.md makes for a Space: run as it stands, but for the folder, and looked at as a platform does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks_run_by

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not (shutil.which("git") and (ROOT / ".git").exists()), reason="this is no clone"),
]
# git refuses a clone of another user's, as in a container that mounts it.
WHOEVER_OWNS_IT = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
GRADIO, DOCKER = (block.text for block in blocks_run_by(__file__))


def made_by(commands: str, folder: Path) -> dict[str, str]:
    """Runs the commands; returns the front matter of the README that a platform then reads."""
    here = commands.replace("build/space", str(folder))
    environ = {**os.environ, **WHOEVER_OWNS_IT}
    command = ["bash", "-euo", "pipefail", "-c", here]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^(\w+): (.+)$", (folder / "README.md").read_text().split("---\n")[1], re.MULTILINE))


def test_a_gradio_space_gets_what_is_committed_and_nothing_else(tmp_path: Path) -> None:
    front = made_by(GRADIO, tmp_path)
    assert front["sdk"] == "gradio"
    assert {front["app_file"], "requirements.txt", "packages.txt"} <= {path.name for path in tmp_path.iterdir()}
    assert not {"data", "models", ".venv", ".git", ".env"} & {path.name for path in tmp_path.iterdir()}


def test_a_docker_space_builds_the_image_with_everything_and_finds_its_port(tmp_path: Path) -> None:
    front = made_by(DOCKER, tmp_path)
    dockerfile = (tmp_path / "Dockerfile").read_text()
    assert (front["sdk"], front["app_port"]) == ("docker", "7860")
    assert not {"sdk_version", "app_file"} & set(front)
    last = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[-1]  # what is built where no target is named
    assert last.splitlines()[0] == "with-git AS app"
    assert f"ENV PORT={front['app_port']}" in last
    assert "USER 1000:1000" in last
