"""Volumes that are full or read-only, at the start and later: what is said, what goes on, and that all is well after.

The disk is a real ext4 of 24 MB. The times are logged (`--log-cli-level=INFO`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.compose_stack import TAG, ComposeStack, require_docker
from tests.containers.faults import CHAT, STORED, begin_answer, kept, refusal_of, text_of, within
from tests.containers.one_gateway import OneGateway, one_gateway
from tests.containers.small_disk import SmallDisk, small_disk

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]
CPU_IMAGE = f"internlm-stack/cpu:{TAG}"
PREPARE = ["python", "-m", "inference", "prepare", "--form", "gguf"]
log = logging.getLogger("containers")


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    require_docker()
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture
def disk(client: docker.DockerClient, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(client, f"internlm-stack-disk-{TAG}", tmp_path) as disk:
        yield disk


def wait_until_stored(gateway: OneGateway, key: str, response_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (stored := kept(gateway, key, response_id))["status"] == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return stored


def wait_for_words(gateway: OneGateway, words: str) -> str:
    """In its log, from starts that fail too; returns all of it."""
    deadline = time.monotonic() + 60
    while words not in (said := gateway.said()):
        assert time.monotonic() < deadline, said[-2000:]
        time.sleep(0.2)
    assert "Traceback" not in said
    return said


def run_inference(
    client: docker.DockerClient, words: list[str] | None, volumes: dict[str, dict[str, str]]
) -> tuple[int, str]:
    """The image as the compose file runs it, to its end. Returns exit code and log."""
    container = client.containers.run(
        CPU_IMAGE,
        words,
        init=True,
        detach=True,
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        environment={"MODEL": "smollm2-135m-instruct"},
        volumes=volumes,
    )
    try:
        code = container.wait(timeout=120)["StatusCode"]
        return int(code), container.logs().decode()
    finally:
        container.remove(force=True)


# --- the history's volume


def test_a_disk_that_becomes_full_stops_the_history_and_not_the_chats(
    faulty_stack: ComposeStack, disk: SmallDisk
) -> None:
    with one_gateway(faulty_stack, disk.name) as gateway:
        key = gateway.admin_key()
        before = gateway.ask("/v1/responses", key, STORED)
        assert gateway.ask("/v1/chat/completions", key, CHAT)["choices"]
        answer = begin_answer(gateway, key, max_output_tokens=200)
        disk.fill()
        rest = answer.rest()
        assert rest.count(b"output_text.delta") > 20, "the words come on"
        assert b"response.completed" not in rest, "nothing is acknowledged that is not stored"
        refused = refusal_of(gateway, key, "/v1/responses", STORED)
        assert (refused.status, refused.code) == (503, "history_unavailable")
        assert "disk is full" in refused.message
        assert gateway.ask("/v1/chat/completions", key, CHAT)["choices"], "chats go on"
        assert kept(gateway, key, before["id"])["output"] == before["output"], "what is there can be read"
        assert "database or disk is full" in gateway.said()
        disk.free()
        begun = time.monotonic()
        assert gateway.ask("/v1/responses", key, STORED)["id"], "without anybody doing more"
        stored = wait_until_stored(gateway, key, answer.id)
        log.info("disk full: all of it is stored %.1f s after there was room", time.monotonic() - begun)
        assert stored["status"] in ("completed", "incomplete")
        assert len(text_of(stored)) > 100, "the answer that could not be stored has been"


def test_a_disk_that_fails_and_turns_read_only_stops_the_history_and_not_the_chats(
    faulty_stack: ComposeStack, disk: SmallDisk
) -> None:
    with one_gateway(faulty_stack, disk.name) as gateway:
        key = gateway.admin_key()
        before = gateway.ask("/v1/responses", key, STORED)
        assert gateway.ask("/v1/chat/completions", key, CHAT)["choices"]
        disk.fail()
        refused = refusal_of(gateway, key, "/v1/responses", STORED)
        assert (refused.status, refused.code) == (503, "history_unavailable")
        assert "read-only" in refused.message
        assert gateway.ask("/v1/chat/completions", key, CHAT)["choices"], "chats go on"
        begun = time.monotonic()
        gateway.container.restart()  # the engine mounts the disk anew
        gateway.wait()
        assert kept(gateway, key, before["id"])["output"] == before["output"]
        assert gateway.ask("/v1/responses", key, STORED)["id"]
        assert time.monotonic() - begun < within(12.3)
        log.info("disk read-only: stored again %.1f s after a restart began", time.monotonic() - begun)


def test_a_gateway_that_starts_on_a_full_disk_says_so_and_starts_when_there_is_room(
    client: docker.DockerClient, disk: SmallDisk
) -> None:
    holder = client.containers.create(CPU_IMAGE, ["sleep", "300"], init=True, volumes={disk.name: {"bind": "/data"}})
    holder.start()  # as long as somebody has the volume it is mounted
    try:
        disk.fill()
        with one_gateway(None, disk.name, waits=False) as gateway:
            said = wait_for_words(gateway, "gateway: ")
            assert "full" in said or "No space left" in said
            disk.free()
            log.info("started on a full disk: answers %.1f s after there was room", gateway.wait())
            assert gateway.admin_key().startswith("sk-")
    finally:
        holder.remove(force=True)


def test_a_gateway_that_starts_on_a_read_only_volume_says_so(disk: SmallDisk) -> None:
    with one_gateway(None, disk.name, mode="ro", waits=False) as gateway:
        said = wait_for_words(gateway, "gateway: ")
        assert "Read-only file system. Set DATA_DIR to another." in said


# --- inference and its volumes


def test_inference_says_that_its_data_folder_is_read_only(
    faulty_stack: ComposeStack, client: docker.DockerClient, disk: SmallDisk
) -> None:
    volumes = {disk.name: {"bind": "/data", "mode": "ro"}, f"{faulty_stack.project}_models": {"bind": "/models"}}
    code, said = run_inference(client, None, volumes)
    assert code == 8
    assert "/data/engine.lock cannot be written: Read-only file system. Set DATA_DIR to a folder that can." in said
    assert "Traceback" not in said


def test_a_model_that_is_there_needs_no_right_to_write(faulty_stack: ComposeStack, client: docker.DockerClient) -> None:
    volumes = {f"{faulty_stack.project}_models": {"bind": "/models", "mode": "ro"}}
    code, said = run_inference(client, PREPARE, volumes)
    assert (code, said.split("\n")[-2].endswith(".gguf")) == (0, True), said


def test_prepare_says_that_the_models_volume_is_read_only(client: docker.DockerClient, disk: SmallDisk) -> None:
    code, said = run_inference(client, PREPARE, {disk.name: {"bind": "/models", "mode": "ro"}})
    assert code == 4
    assert "/models/smollm2-135m-instruct.lock" in said
    assert "Set MODELS_DIR" in said or "set MODELS_DIR" in said
    assert "Traceback" not in said


def test_prepare_says_that_the_models_volume_is_too_small_and_everybody_hears_it_until_there_is_room(
    faulty_stack: ComposeStack, client: docker.DockerClient, disk: SmallDisk
) -> None:
    """A gateway beside it tells its callers, and people at the page, that nothing will come by itself."""
    data = f"internlm-stack-data-{TAG}"
    client.volumes.create(data)
    try:
        with one_gateway(None, data) as gateway:
            volumes = {disk.name: {"bind": "/models"}, data: {"bind": "/data"}}
            code, said = run_inference(client, [*PREPARE, "--hand-over"], volumes)
            assert code == 6, said
            assert "Free some space" in said or "free" in said.lower()
            assert "Traceback" not in said
            key = gateway.admin_key()
            status = gateway.ask("/v1/status", key)
            assert (status["stage"], status["ready"]) == ("failed", False)
            assert status["message"] in said
            assert refusal_of(gateway, key, "/v1/chat/completions", CHAT).code == "upstream_start_failed"
            assert refusal_of(gateway, key, "/readyz").code == "upstream_start_failed"
            with_room = {f"{faulty_stack.project}_models": {"bind": "/models"}, data: {"bind": "/data"}}
            code, said = run_inference(client, [*PREPARE, "--hand-over"], with_room)
            assert code == 0, said
            assert gateway.ask("/v1/status", key)["stage"] == "load"
            assert refusal_of(gateway, key, "/v1/chat/completions", CHAT).code == "upstream_not_ready"
    finally:
        client.volumes.get(data).remove(force=True)
