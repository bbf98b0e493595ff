"""From a machine with a card to a ready engine: the command line, and app.py, with a stand-in for TGI's launcher.

The card is a stand-in for `nvidia-smi` on the PATH; the model a small random InternLM2, which is really converted.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference.sockets import free_ports
from tests.internlm2_models import Form, write_model
from tests.tgi_plan import launcher

pytestmark = pytest.mark.contract
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


@pytest.fixture
def machine(tmp_path):
    """The environment of a machine with an A10, the launcher on its PATH and a model folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    launcher(programs)
    tool = programs / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028, 0, 8.6'\n")
    tool.chmod(0o755)
    write_model(tmp_path / "my-model", Form(context=4096))
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MODELS_DIR": str(tmp_path / "models"),
        "DATA_DIR": str(tmp_path / "data"),
        "MODEL": str(tmp_path / "my-model"),
        "PYTHONUNBUFFERED": "1",
        "HOSTNAME": "a-pod",
        "MASTER_PORT": "tcp://10.0.0.1:80",
    }


@contextmanager
def running(argv, environment):
    with subprocess.Popen(
        [sys.executable, *argv], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_stage(process, data_dir, wanted):
    deadline = time.monotonic() + DEADLINE_S
    status = {}
    while status.get("stage") != wanted:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
        try:
            status = json.loads((Path(data_dir) / "status.json").read_text())
        except FileNotFoundError:
            continue


def test_serve_takes_tgi_where_there_is_a_card_and_a_launcher_and_converts_the_model(machine):
    with running(["-m", "inference", "serve"], machine) as process:
        wait_for_stage(process, machine["DATA_DIR"], "ready")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "starting Text Generation Inference: my-model, 4096 tokens, 128 requests at once, on NVIDIA A10" in said
    converted = Path(machine["MODELS_DIR"]) / "my-model-llama"
    assert json.loads((converted / "config.json").read_text())["model_type"] == "llama"
    log = (Path(machine["DATA_DIR"]) / "logs" / "inference.log").read_text()
    assert f"Starting check and download process for {converted}" in log


def test_app_tells_its_gateway_which_engine_it_is_and_how_its_tools_are_written(machine):
    (port,) = free_ports(1)
    with running(["app.py", "--port", str(port)], machine) as process:
        wait_for_stage(process, machine["DATA_DIR"], "ready")
        deadline = time.monotonic() + DEADLINE_S
        while not _is_ready(port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        key = (Path(machine["DATA_DIR"]) / "admin.key").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert [one["id"] for one in json.load(answer)["data"]] == ["my-model"]
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    assert "on tgi, the first that can run it here" in said


def _is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
