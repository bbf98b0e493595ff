"""docker-compose.yml as on a machine with a card, but for the card: a stand-in is started by TGI's entry point.

The model is a small one in InternLM2's layout, put into the models volume as a person would; it is really converted.
What this shows is the wiring: plan, conversion, arguments, key, networks, health, and the stages that people see.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.machine import this_machine
from tests.containers.compose_stack import ROOT, TAG, ComposeStack, require_docker, running
from tests.internlm2_models import Form, write_model
from tests.tgi_plan import SERVER

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]
IMAGE = f"internlm-stack-tests/tgi-entrypoint:{TAG}"
MODEL = "internlm2-chat-7b"
WITHOUT_CARD = """
services:
  plan:
    command: [python, -m, inference, plan, --write, /launch, --engine, tgi-container, --gpu, A10]
    deploy: !reset null
  inference:
    deploy: !reset null
    healthcheck: {{interval: 1s}}
volumes:
  models:
    driver_opts: {{type: none, o: bind, device: {models}}}
"""
ENTRY_POINT = "#!/bin/bash\nexec python -I /server.py $@\n"  # unquoted, as TGI's
WITH_KEY = """
import http.client, sys
key = open("/launch/engine.key").read().strip() if sys.argv[1] == "right" else "wrong"
c = http.client.HTTPConnection("inference", 80, timeout=10)
c.request("POST", "/v1/chat/completions", "{}", {"Authorization": "Bearer " + key})
print(c.getresponse().status)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    require_docker()
    folder = tmp_path_factory.mktemp("card")
    image = folder / "image"
    image.mkdir()
    shutil.copy(SERVER, image / "server.py")
    (image / "tgi-entrypoint.sh").write_text(ENTRY_POINT)
    (image / "tgi-entrypoint.sh").chmod(0o755)
    (image / "Dockerfile").write_text("FROM python:3.11-slim-bookworm\nCOPY server.py tgi-entrypoint.sh /\n")
    subprocess.run(["docker", "build", "-q", "-t", IMAGE, str(image)], check=True, capture_output=True, timeout=120)
    models = folder / "models"
    write_model(models / MODEL, Form(shards=2, heads=16, kv_heads=4))
    for path in (models, models / MODEL, *(models / MODEL).iterdir()):
        os.chown(path, 1000, 1000)
    override = folder / "without-card.yml"
    override.write_text(WITHOUT_CARD.format(models=models))
    files = ("docker-compose.yml", str(override))
    with running(ComposeStack("card", files, MODEL, {"TGI_IMAGE": IMAGE})) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"


def test_the_model_is_converted_and_the_engine_gets_the_catalogues_settings(stack: ComposeStack) -> None:
    arguments = stack.compose("exec", "-T", "gateway", "cat", "/launch/tgi.args").split()
    assert arguments[arguments.index("--model-id") + 1] == f"/models/{MODEL}-llama"
    assert stack.compose("exec", "-T", "inference", "ls", f"/models/{MODEL}-llama").split().count("config.json") == 1
    shown = stack.compose("exec", "-T", "inference", "sh", "-c", "cat /proc/[0-9]*/cmdline")
    running_as = shown.replace("\0", " ")
    assert f"--model-id /models/{MODEL}-llama" in running_as
    assert "--num-shard 1" in running_as


def test_the_gateway_is_ready_with_the_plans_settings(stack: ComposeStack) -> None:
    stack.wait_until_ready()
    status = stack.ask("/v1/status", stack.admin_key())
    assert (status["stage"], status["model"], status["title"]) == ("ready", MODEL, "InternLM2 Chat 7B")
    arguments = stack.compose("exec", "-T", "gateway", "cat", "/launch/tgi.args").split()
    assert status["context_tokens"] == int(arguments[arguments.index("--max-total-tokens") + 1])


@pytest.mark.parametrize(("kind", "code"), [("right", "200"), ("wrong", "401")])
def test_the_engine_wants_the_key_of_the_volume(stack: ComposeStack, kind: str, code: str) -> None:
    assert stack.compose("exec", "-T", "gateway", "python", "-c", WITH_KEY, kind).strip() == code


def stage_seen(stack: ComposeStack, key: str, wanted: str = "restarting", deadline_s: float = 60) -> str:
    """The stage that people see, when it is the wanted one or the time is over."""
    deadline = time.monotonic() + deadline_s
    while (stage := str(stack.ask("/v1/status", key)["stage"])) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return stage


def test_an_engine_that_crashed_is_started_again_by_itself(stack: ComposeStack) -> None:
    key = stack.admin_key()
    stack.kill("inference")
    stack.wait_until_it_answers(key, "an engine that crashed")
    assert stack.inspect(stack.container("inference"))["RestartCount"] >= 1


def test_people_see_that_an_engine_is_away_and_back(stack: ComposeStack) -> None:
    key = stack.admin_key()
    stack.compose("stop", "inference")
    try:
        assert stage_seen(stack, key) == "restarting"
    finally:
        stack.compose("start", "inference")
    assert stage_seen(stack, key, "ready") == "ready"


def test_people_are_told_how_long_loading_takes(stack: ComposeStack) -> None:
    stack.wait_until_ready()
    assert stack.ask("/v1/status", stack.admin_key())["message"] == ""  # it is over
    written = json.loads(stack.compose("exec", "-T", "gateway", "cat", "/data/status.json"))
    assert written["stage"] == "load"  # nobody of ours reads that engine's log
    assert re.fullmatch(r"loading .+ into memory: about \d+ s at 500 MB/s, then it is tried", written["message"])


def test_what_docker_says_without_a_card_is_explained(stack: ComposeStack) -> None:
    if this_machine().docker.has_nvidia:
        pytest.skip("Docker can give containers a card here")
    plain = ComposeStack("no-card", ("docker-compose.yml",), MODEL)
    command = [
        "docker",
        "compose",
        "-p",
        plain.project,
        "-f",
        str(ROOT / "docker-compose.yml"),
        "up",
        "-d",
        "--no-build",
    ]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "TAG": TAG, "TGI_IMAGE": IMAGE, "GATEWAY_PORT": "0", "WEBUI_PORT": "0"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        plain.compose("down", "-v", check=False)
    assert done.returncode != 0
    said = 'could not select device driver "nvidia"'
    assert said in done.stderr
    assert said in (ROOT / "docs" / "deploy-docker.md").read_text()


def test_without_a_card_the_files_are_still_valid(tmp_path: Path) -> None:
    require_docker()
    for files in (("docker-compose.yml",), ("docker-compose.yml", "docker-compose.scale.yml")):
        assert "nvidia" in ComposeStack("config", files, MODEL).compose("config")
