"""The gateway alone, as docs/quickstart.md starts and proves it; a stand-in has the place of the inference server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.fakes.inference import fake_inference
from tests.pages import ROOT, blocks_run_by

pytestmark = [pytest.mark.contract, pytest.mark.timeout(180)]
START, PROOF = (block.text for block in blocks_run_by(__file__))
SERVER = "tgi=http://127.0.0.1:8080"


def test_the_gateway_alone_starts_and_proves_itself_as_the_page_says(tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environ = {**os.environ, "DATA_DIR": str(tmp_path), "PORT": str(port)}
    assert SERVER in START
    with fake_inference() as server:
        start = START.replace(SERVER, f"llamacpp={server.url}").replace(
            ".venv/bin/python -m", "exec .venv/bin/python -m"
        )
        with subprocess.Popen(["bash", "-euc", start], cwd=ROOT, env=environ, stderr=subprocess.PIPE) as gateway:
            try:
                proof = PROOF.replace("8000", str(port)).replace("data/admin.key", str(tmp_path / "admin.key"))
                done = _proved(proof, tmp_path / "admin.key", gateway)
            finally:
                gateway.send_signal(signal.SIGTERM)
                gateway.communicate(timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "passed"), done.stdout + done.stderr
    assert "internlm2-chat-7b" in done.stdout


def _proved(proof: str, key: Path, gateway: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
    """As a person would who waits for the gateway to be there."""
    command = f"until [ -s {key} ] || ! kill -0 {gateway.pid}; do sleep 0.1; done; {proof.strip()} --wait 60"
    return subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
