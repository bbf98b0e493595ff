"""Fixtures that several folders of tests share, above all the running stack with the real small model."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
START_S = 240


def pytest_collection_finish() -> None:
    """Sets aside what the imports made: each gateway's end collects garbage, and would walk all of it each time."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Stack:
    """A running app.py.

    Attributes:
        url: where the web UI and, under /v1, the API are.
        data_dir: its DATA_DIR; `key` reads the admin key in it.
    """

    url: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    def wait_until_ready(self) -> None:
        """Until a completion can be served; fails early, with its log, when app.py has died."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        pytest.fail(f"app.py is not ready (exit code {self.process.poll()}):\n{self.log.read_text()[-4000:]}")


@contextmanager
def run_app(data_dir: Path, models_dir: Path, environ: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Starts `python app.py` on a free port; stops it in order at the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "terminal.log"
    own = {"DATA_DIR": str(data_dir), "MODELS_DIR": str(models_dir), "HOST": "127.0.0.1", "PORT": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")],
            env={**os.environ, **own, **(environ or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=data_dir,
            start_new_session=True,
        )
    try:
        yield Stack(_url(process, log), data_dir, process, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address, from the line that app.py prints when its port is open."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on port \d+ \((http://[^\s,)]+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    pytest.fail(f"app.py did not open its port (exit code {process.poll()}):\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where the real model is, between runs too. It is fetched here, so that no stack under test has to."""
    folder = Path(os.environ.get("INTERNLM_TEST_MODELS_DIR") or ROOT / "build" / "test-models").absolute()
    command = [sys.executable, "-m", "inference", "prepare"]
    environ = {**os.environ, "MODELS_DIR": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        pytest.fail(f"the model could not be prepared (exit code {done.returncode}):\n{done.stdout[-4000:]}")
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Stack]:
    """The whole stack with the real small model, ready."""
    limits = ("GATEWAY_USER_RPM", "GATEWAY_KEY_RPM", "GATEWAY_ALL_USERS_RPM", "GATEWAY_ADDRESS_RPM")
    generous = dict.fromkeys(limits, "100000")
    with run_app(tmp_path_factory.mktemp("stack"), models_dir, generous) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def stack_url(stack: Stack) -> str:
    """The address of the running stack."""
    return stack.url
