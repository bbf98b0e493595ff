"""The image with everything on one host, as `docker run` and a Space of the docker kind start it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.compose_stack import (
    TAG,
    docker,
    documented_commands,
    free_port,
    require_docker,
    wait_for_container,
)

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
NAME = f"internlm-stack-app-{TAG}"
IMAGE = f"internlm-stack/app:{TAG}"


def clear() -> None:
    docker("rm", "-fv", NAME, check=False)
    docker("network", "rm", NAME, check=False)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Read-only, without rights, on a network of its own; ready."""
    require_docker()
    docker("build", "-f", "Dockerfile.app", "--target", "app", "-t", IMAGE, ".")
    clear()
    docker("network", "create", NAME)
    port = free_port()
    rights = ("--init", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
    docker("run", "-d", "--name", NAME, "--network", NAME, *rights, "-p", f"127.0.0.1:{port}:7860", IMAGE)
    try:
        wait_for_container(NAME, f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        clear()


def test_page_and_api_are_at_one_port(url: str) -> None:
    with urllib.request.urlopen(url, timeout=20) as page:
        assert b"gradio" in page.read().lower()
    key = docker("exec", NAME, "cat", "/data/admin.key").strip()
    head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/chat/completions", body, head), timeout=60) as answer:
        assert json.loads(answer.read())["choices"][0]["message"]["content"]


def test_it_runs_as_nobody_special_and_is_labelled(url: str) -> None:
    found = json.loads(docker("image", "inspect", IMAGE))[0]["Config"]
    assert found["User"] == "1000:1000"
    assert found["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert found["Healthcheck"]["Test"][:2] == ["CMD", "bash"]
    assert docker("exec", NAME, "id", "-u").strip() == "1000"
    assert "compilers" not in docker("exec", NAME, "sh", "-c", "command -v gcc cc make && echo compilers; true")


def test_it_is_saved_and_put_back_as_the_docs_say(url: str, tmp_path: Path) -> None:
    key = docker("exec", NAME, "cat", "/data/admin.key")
    commands = documented_commands("one container", tmp_path).replace("internlm-stack/app", IMAGE)
    commands = re.sub(r"\binternlm\b(?!-)", NAME, commands)
    done = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "restored, as it was at " in done.stdout
    wait_for_container(NAME, f"{url}/readyz")
    assert docker("exec", NAME, "cat", "/data/admin.key") == key


def test_a_stop_is_orderly_and_quick(url: str) -> None:
    begun = time.monotonic()
    docker("stop", "-t", "30", NAME)
    assert time.monotonic() - begun < 15
    assert json.loads(docker("inspect", NAME))[0]["State"]["ExitCode"] == 0
