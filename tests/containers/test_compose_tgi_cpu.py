"""docker-compose.tgi-cpu.yml: TGI's own image for the CPU, by TGI_IMAGE. What this shows is the wiring.

The image could not be had here; a stand-in has its launcher on the PATH and, as that image, no entry point to call.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.containers.compose_stack import ROOT, TAG, ComposeStack, require_docker, running
from tests.internlm2_models import Form, write_model
from tests.tgi_plan import SERVER

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
IMAGE = f"internlm-stack-tests/tgi-cpu:{TAG}"
MODEL = "internlm2-chat-1_8b"
FILES = ("docker-compose.yml", "docker-compose.tgi-cpu.yml")
OWN_MODELS = """
services:
  inference: {{healthcheck: {{interval: 1s}}}}
volumes:
  models: {{driver_opts: {{type: none, o: bind, device: {models}}}}}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    require_docker()
    folder = tmp_path_factory.mktemp("tgi-cpu")
    image, models = folder / "image", folder / "models"
    image.mkdir()
    shutil.copy(SERVER, image / "server.py")
    (image / "text-generation-launcher").write_text('#!/bin/sh\nexec python -I /server.py "$@"\n')
    (image / "Dockerfile").write_text(
        "FROM python:3.11-slim-bookworm\nCOPY server.py /\nCOPY --chmod=755 text-generation-launcher /usr/local/bin/\n"
        'ENTRYPOINT ["text-generation-launcher"]\nCMD ["--json-output"]\n'
    )
    subprocess.run(["docker", "build", "-q", "-t", IMAGE, str(image)], check=True, capture_output=True, timeout=120)
    write_model(models / MODEL, Form(shards=2, heads=16, kv_heads=4))
    for path in (models, models / MODEL, *(models / MODEL).iterdir()):
        os.chown(path, 1000, 1000)
    override = folder / "models.yml"
    override.write_text(OWN_MODELS.format(models=models))
    with running(ComposeStack("tgi-cpu", (*FILES, str(override)), MODEL, {"TGI_IMAGE": IMAGE})) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"
    subprocess.run(["docker", "rmi", "-f", IMAGE], check=False, capture_output=True)


def test_the_launcher_gets_the_converted_model_in_16_bits(stack: ComposeStack) -> None:
    shown = stack.compose("exec", "-T", "inference", "sh", "-c", "cat /proc/[0-9]*/cmdline").replace("\0", " ")
    assert f"--model-id /models/{MODEL}-llama --num-shard 1 --dtype bfloat16" in shown
    assert "--cuda-graphs 0" in shown
    assert "--quantize" not in shown


def test_a_chat_goes_through_the_gateway_with_the_key_of_the_volume(stack: ComposeStack) -> None:
    stack.wait_until_ready()
    key = stack.admin_key()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    assert stack.ask("/v1/chat/completions", key, body)["choices"][0]["message"]["content"] == "Hi there"
    status = stack.ask("/v1/status", key)
    assert (status["stage"], status["upstreams"][0]["engine"]) == ("ready", "tgi")


def test_nothing_asks_for_a_card_and_the_engine_is_not_published(stack: ComposeStack) -> None:
    assert "nvidia" not in stack.compose("config")
    assert not [one for one in stack.inspect(stack.container("inference"))["NetworkSettings"]["Ports"].values() if one]


def test_without_the_image_it_says_which_to_name() -> None:
    require_docker()
    command = ["docker", "compose", *(word for file in FILES for word in ("-f", file)), "config"]
    environ = {name: value for name, value in os.environ.items() if name != "TGI_IMAGE"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Name the image for the CPU, such as ghcr.io/huggingface/text-generation-inference" in done.stderr
