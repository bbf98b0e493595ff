"""Dockerfile.app's target `app` on Text Generation Inference's image, where its launcher becomes the child.

The real image could not be had here. The stand-in has what the Dockerfile in TGI's repository says (3.3.6-dev0): Python
3.11 without pip under /root, in a venv whose programs stand last on the PATH, an entry point, root as user,
HF_HOME=/data, PORT=80. Its launcher is tests/fakes/tgi_server.py, its card an `nvidia-smi` that lists one.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.compose_stack import TAG, docker, free_port, logs_of, require_docker, wait_for_container
from tests.internlm2_models import Form, write_model
from tests.tgi_plan import SERVER

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
MODEL = "internlm2-chat-7b"
BASE = f"internlm-stack-tests/tgi-base:{TAG}"
IMAGE = f"internlm-stack-tests/app-on-tgi:{TAG}"
NAME = f"internlm-stack-app-on-tgi-{TAG}"
TGI_IMAGE = r"""
FROM python:3.11-slim-bookworm
ENV HF_HOME=/data HF_HUB_ENABLE_HF_TRANSFER=1 PORT=80 VIRTUAL_ENV=/usr/src/.venv/
WORKDIR /root/.local/share/uv/python/cpython-3.11/bin
RUN chmod 700 /root && install "$(readlink -f "$(command -v python3)")" python3.11 && \
    ./python3.11 -m venv --without-pip /usr/src/.venv && \
    touch /usr/src/.venv/lib/python3.11/site-packages/of_its_server.py && \
    rm -rf /usr/local/bin/python* /usr/local/bin/pip* /usr/bin/python* /usr/local/lib/python3.11/site-packages/*
ENV PATH="$PATH:/usr/src/.venv/bin/"
WORKDIR /usr/src
COPY --chmod=755 text-generation-launcher nvidia-smi /usr/local/bin/
COPY --chmod=755 text-generation-server /usr/src/.venv/bin/
COPY --chmod=755 tgi-entrypoint.sh /
COPY server.py /
ENTRYPOINT ["/tgi-entrypoint.sh"]
"""
PROGRAMS = {
    "tgi-entrypoint.sh": "#!/bin/bash\necho the entry point of the base was run\nexit 1\n",
    "text-generation-server": "#!/usr/src/.venv/bin/python\n",
    "nvidia-smi": "#!/bin/sh\necho 'NVIDIA A10, 23028, 0, 8.6'\n",
    "text-generation-launcher": """#!/bin/sh
python3 -c 'import of_its_server, sys; print("router has the packages of", sys.prefix)' || exit 1
exec python3 -I /server.py "$@"
""",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Ready, as `docker run --gpus all` starts it, but for the card."""
    require_docker()
    folder = tmp_path_factory.mktemp("tgi")
    (folder / "Dockerfile").write_text(TGI_IMAGE)
    shutil.copy(SERVER, folder / "server.py")
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
    docker("build", "-q", "-t", BASE, str(folder))
    docker("build", "-f", "Dockerfile.app", "--target", "app", "--build-arg", f"BASE={BASE}", "-t", IMAGE, ".")
    models = folder / "models"
    write_model(models / MODEL, Form(shards=2, heads=16, kv_heads=4))
    for path in (models, models / MODEL, *(models / MODEL).iterdir()):
        os.chown(path, 1000, 1000)
    docker("rm", "-fv", NAME, check=False)
    port = free_port()
    rights = ("--init", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
    place = ("-p", f"127.0.0.1:{port}:7860", "-v", f"{models}:/models", "-e", f"MODEL={MODEL}")
    docker("run", "-d", "--name", NAME, *rights, *place, IMAGE)
    try:
        wait_for_container(NAME, f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "-fv", NAME, check=False)
        docker("rmi", "-f", IMAGE, BASE, check=False)


def test_a_chat_is_answered_by_the_launcher(url: str) -> None:
    key = docker("exec", NAME, "cat", "/data/admin.key").strip()
    head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/chat/completions", body, head), timeout=60) as answer:
        assert json.loads(answer.read())["choices"][0]["message"]["content"] == "Hi there"
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/status", headers=head), timeout=20) as answer:
        status = json.loads(answer.read())
    assert (status["stage"], status["model"], status["upstreams"][0]["engine"]) == ("ready", MODEL, "tgi")


def test_the_launcher_gets_the_converted_model_and_the_python_of_its_own_server(url: str) -> None:
    log = docker("exec", NAME, "cat", "/data/logs/inference.log")
    assert "router has the packages of /usr/src/.venv" in log
    assert "the entry point of the base was run" not in logs_of(NAME)
    commands = docker("exec", NAME, "sh", "-c", "cat /proc/[0-9]*/cmdline").replace("\0", " ")
    assert f"--model-id /models/{MODEL}-llama --num-shard 1" in commands


def test_it_runs_as_nobody_special_and_stops_in_order(url: str) -> None:
    assert docker("exec", NAME, "id", "-u").strip() == "1000"
    assert Path(docker("exec", NAME, "readlink", "-f", "/opt/venv/bin/python").strip()).parts[:2] == ("/", "root")
    docker("stop", "-t", "30", NAME)
    assert json.loads(docker("inspect", NAME))[0]["State"]["ExitCode"] == 0
