"""The README's two commands in an empty Debian, as somebody who has nothing but a clone: run, chat, test.

What a person has there before is what the README asks for: python3, python3-venv, git and make. The tests that are run
within know by CLEAN_ROOM that they are, and leave this one out; what else is missing there they name and skip. Since
they are the whole of the tests once more, they run where TEST_CLEAN_ROOM is set.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.containers.compose_stack import ROOT, TAG, require_docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]
PARTS = 4  # of scripts/test.sh
OF_THE_NETWORK = ("PIP_INDEX_URL", "PIP_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""What this machine needs to reach packages, the room needs, too."""
NAME = f"internlm-stack-clean-room-{TAG}"
DOCKERFILE = """
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends python3 python3-venv git make >/dev/null && \\
    useradd --create-home someone
USER someone
WORKDIR /home/someone
"""
CHAT = """
import http.client, json
key = open("data/admin.key").read().strip()
c = http.client.HTTPConnection("127.0.0.1", 7860, timeout=60)
body = json.dumps({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8})
c.request("POST", "/v1/chat/completions", body, {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
print(c.getresponse().read().decode())
"""
log = logging.getLogger("containers")


def docker(*words: str, given: str | None = None, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *words], input=given, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def inside(command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return docker("exec", "-w", "/home/someone/internlm-stack", NAME, "bash", "-c", command, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A container with a clone of the last commit."""
    require_docker()
    if os.environ.get("CLEAN_ROOM"):
        pytest.skip("this is the clean room")
    bundle = tmp_path_factory.mktemp("clone") / "internlm-stack.bundle"
    subprocess.run(["git", "bundle", "create", str(bundle), "HEAD"], cwd=ROOT, check=True, capture_output=True)
    built = docker("build", "-q", "-t", NAME, "-", given=DOCKERFILE)
    assert built.returncode == 0, built.stderr
    docker("rm", "-fv", NAME)
    given = [word for name in OF_THE_NETWORK if name in os.environ for word in ("-e", name)]
    started = docker("run", "-d", "--init", "--name", NAME, "-e", "CLEAN_ROOM=1", *given, NAME, "sleep", "infinity")
    assert started.returncode == 0, started.stderr
    try:
        docker("cp", str(bundle), f"{NAME}:/tmp/internlm-stack.bundle")
        cloned = docker("exec", NAME, "git", "clone", "-q", "/tmp/internlm-stack.bundle", "internlm-stack")
        assert cloned.returncode == 0, cloned.stderr
        yield
    finally:
        docker("rm", "-fv", NAME)
        docker("rmi", NAME)


def commands_of_the_readme() -> list[str]:
    """The blocks below "Two commands", but for what is to be there before."""
    section = (ROOT / "README.md").read_text().split("## Two commands")[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    return [line for line in lines if "apt-get" not in line]


def test_the_readme_has_two_commands() -> None:
    assert commands_of_the_readme() == ["make run", "make test"]


def test_a_fresh_clone_runs_and_chats(room: None) -> None:
    begun = time.monotonic()
    docker("exec", "-d", "-w", "/home/someone/internlm-stack", NAME, "bash", "-c", "exec make run >/tmp/run.log 2>&1")
    ask = "python3 -c 'import urllib.request; urllib.request.urlopen(\"http://127.0.0.1:7860/readyz\", timeout=5)'"
    while inside(ask).returncode:
        assert time.monotonic() - begun < 600, inside("tail -n 30 /tmp/run.log").stdout
        time.sleep(0.5)
    answer = json.loads(inside(f"python3 -c '{CHAT}'").stdout)
    assert answer["choices"][0]["message"]["content"].strip()
    log.info("from a clone to the first answer: %.0f s", time.monotonic() - begun)
    said = inside("cat /tmp/run.log").stdout
    assert "http://127.0.0.1:7860" in said
    assert "Traceback" not in said
    inside("for p in /proc/[0-9]*; do grep -qaz '^app.py$' $p/cmdline && kill -INT ${p#/proc/}; done")
    while not inside("exec 3<>/dev/tcp/127.0.0.1/7860").returncode:
        assert time.monotonic() - begun < 700
        time.sleep(0.2)


def test_the_tests_pass_in_a_fresh_clone(room: None) -> None:
    if not os.environ.get("TEST_CLEAN_ROOM"):
        pytest.skip("the whole of the tests once more, which takes ten minutes: TEST_CLEAN_ROOM=1 runs it")
    begun = time.monotonic()
    done = inside("make test", timeout_s=1500)
    log.info("make test in an empty Debian: %.0f s", time.monotonic() - begun)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "clean-room.log").write_text(done.stdout)
    wrong = [line for line in done.stdout.splitlines() if re.match(r"FAILED |ERROR |E  |test: ", line)]
    assert done.returncode == 0, "\n".join([*wrong[:200], done.stderr[-2000:]])
    closing = [line for line in done.stdout.splitlines() if re.match(r"=+ .*\b(passed|skipped)\b.* in ", line)]
    assert len(closing) == PARTS
    assert all("failed" not in line for line in closing)
    for skipped in ("the browser tests", "the tests of limits in Redis", "no Docker engine answers here"):
        assert skipped in done.stdout, f"it does not say that it left out {skipped}"
