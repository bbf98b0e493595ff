"""A project of docker compose, as a user starts it: built, up, asked over its published ports, and down again."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference.docker_engine import docker_info
from tests.pages import blocks, english_of, user_pages

ROOT = Path(__file__).resolve().parents[2]
UP_S = 300
TAG = "test-" + hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
"""Of this checkout's images and projects: two checkouts may be tested at once."""
_ALL = ("--profile", "observability")
"""Without its profile compose leaves a service alone, on the way down too."""
log = logging.getLogger("containers")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Asked:
    """A gateway that is asked over HTTP."""

    url: str

    def ask(self, path: str, key: str, body: dict[str, Any] | None = None, timeout_s: float = 60) -> dict[str, Any]:
        with self.open(path, key, body, timeout_s) as answer:
            told: dict[str, Any] = json.loads(answer.read())
            return told

    def open(self, path: str, key: str, body: dict[str, Any] | None = None, timeout_s: float = 60) -> Any:
        """The open answer. Raises urllib.error.HTTPError, or OSError."""
        head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, head)
        return urllib.request.urlopen(request, timeout=timeout_s)


def run(
    command: Sequence[str], environ: dict[str, str] | None = None, timeout_s: float = 900
) -> subprocess.CompletedProcess[str]:
    """A command as a person types it in the checkout; `environ` is the whole environment, None is that of the tests."""
    return subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def docker(*words: str, check: bool = True, environ: dict[str, str] | None = None, timeout_s: float = 900) -> str:
    """What a docker command prints. Fails the test when the command fails, unless it may."""
    done = run(["docker", *words], {**os.environ, **(environ or {})}, timeout_s)
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(words)} ended with {done.returncode}: {done.stderr[-3000:]}")
    return done.stdout


def wait_for_container(name: str, url: str, deadline_s: float = 120) -> None:
    """Until the container answers at an address; fails with its log."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(logs_of(name)[-3000:])


def logs_of(name: str) -> str:
    """All that a container has said."""
    command = ["docker", "logs", name]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


@dataclass
class ComposeStack(Asked):
    """`files` as after `-f`; `environ` is what a `.env` would hold; `name` tells it from other stacks of the tests."""

    name: str
    files: Sequence[str]
    model: str
    environ: dict[str, str] = field(default_factory=dict)
    gateway_port: int = field(default_factory=free_port)
    webui_port: int = field(default_factory=free_port)

    def compose(self, *words: str, check: bool = True, timeout_s: float = UP_S) -> str:
        done = run(["docker", "compose", *words], self.environment(), timeout_s)
        if check and done.returncode:
            logs = "" if words[0] in ("build", "config") else self.compose("logs", "--tail", "40", check=False)
            pytest.fail(
                f"docker compose {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}\n{logs}"
            )
        return done.stdout

    def environment(self) -> dict[str, str]:
        """In which `docker compose …` and `make …`, as a person types them, are about this stack."""
        own = {
            "TAG": TAG,
            "GATEWAY_PORT": str(self.gateway_port),
            "WEBUI_PORT": str(self.webui_port),
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": os.pathsep.join(self.files),
        }
        return {**os.environ, **own, **self.environ}

    def documented(self, name: str, folder: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the commands of our pages below `<!-- tested: NAME -->`; their files lie in `folder`."""
        commands = documented_commands(name, folder)
        done = run(["bash", "-ec", commands], self.environment(), UP_S)
        if check and done.returncode:
            pytest.fail(f"{commands}ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        return done

    def container(self, service: str, number: int = 1) -> str:
        return f"{self.project}-{service}-{number}"

    def inspect(self, name: str) -> dict[str, Any]:
        done = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def kill(self, service: str, number: int = 1) -> None:
        """SIGKILL as from the kernel: `docker kill` would switch the restart policy off."""
        os.kill(self.inspect(self.container(service, number))["State"]["Pid"], 9)

    @property
    def project(self) -> str:
        return f"internlm-stack-{self.name}-{TAG}"

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.gateway_port}"

    def admin_key(self) -> str:
        return self.compose("exec", "-T", "gateway", "cat", "/data/admin.key").strip()

    def wait_until_ready(self, deadline_s: float = 90) -> float:
        """Until a completion can be served; returns the seconds that it took."""
        begun = time.monotonic()
        while time.monotonic() - begun < deadline_s:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return time.monotonic() - begun
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        pytest.fail(f"not ready after {deadline_s:g} s:\n{self.compose('logs', '--tail', '30', check=False)}")

    def wait_until_healthy(self, service: str, number: int = 1, deadline_s: float = 60) -> None:
        begun = time.monotonic()
        while self.inspect(self.container(service, number))["State"]["Health"]["Status"] != "healthy":
            assert time.monotonic() - begun < deadline_s, f"{service} {number} is not healthy"
            time.sleep(0.2)

    def wait_until_it_answers(self, key: str, what: str, deadline_s: float = 90) -> float:
        """Until a chat gets its answer; returns the seconds that it took, and logs them (`--log-cli-level=INFO`)."""
        begun = time.monotonic()
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        while time.monotonic() - begun < deadline_s:
            try:
                assert self.ask("/v1/chat/completions", key, body, timeout_s=20)["choices"]
                log.info("%s: answers again after %.1f s", what, time.monotonic() - begun)
                return time.monotonic() - begun
            except OSError:  # HTTPError is one
                time.sleep(0.1)
            except http.client.HTTPException:
                time.sleep(0.1)
        pytest.fail(f"no answer after {deadline_s:g} s:\n{self.compose('logs', '--tail', '30', check=False)}")

    def leftovers(self) -> str:
        """Containers, volumes and networks of the project that still are there."""
        label = f"label=com.docker.compose.project={self.project}"
        kinds = (["ps", "-a"], ["volume", "ls"], ["network", "ls"])
        listed = [
            subprocess.run(
                ["docker", *kind, "-q", "--filter", label], capture_output=True, text=True, check=True
            ).stdout
            for kind in kinds
        ]
        return "".join(listed)


def documented_commands(name: str, folder: Path) -> str:
    """Those of our pages below `<!-- tested: NAME -->`, with their files in `folder`."""
    pages = (page for page in user_pages() if english_of(page) is None)
    found = [block.text for page in pages for block in blocks(page) if block.mark == f"tested: {name}"]
    assert len(found) == 1, f"the pages have {len(found)} blocks of commands for {name!r}"
    return re.sub(r"\b([\w-]+\.(?:tar\.gz|dump))", rf"{folder}/\1", found[0])


def require_docker() -> None:
    """Skips where no engine answers; fails instead where the containers must be tested."""
    if docker_info() is None:
        say = pytest.fail if "containers" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
        say("no Docker engine answers here")


@contextmanager
def running(stack: ComposeStack, *services: str) -> Iterator[ComposeStack]:
    """Up with all services, or with those that are named and what they need; down again at the end."""
    stack.compose(*_ALL, "down", "-v", "--remove-orphans", check=False)
    stack.compose("build", timeout_s=600)
    try:
        stack.compose("up", "-d", "--wait", "--no-build", *services)
        yield stack
    finally:
        stack.compose(*_ALL, "down", "-v", "--remove-orphans", "--timeout", "5", check=False)
