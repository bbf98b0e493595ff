"""Faults of containers, made with Docker's SDK and undone again; and what clients see of an answer meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from tests.containers.compose_stack import Asked, ComposeStack

LONG = "Write a very long story about a ship, an island and a storm."
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
STORED = {"input": "Hi", "max_output_tokens": 4}
SILENCE_S = 8
"""The gateway of the stack that is made to fail waits so long for a token."""
CHECKPOINT_S = 2
"""At most so much text is lost when a gateway is killed (gateway/open_turns.py)."""
MIB = 1 << 20
PLENTY = 8 << 30
TAKE_MEMORY = """
import time
taken = []
for _ in range(256):
    taken.append(bytearray(1 << 20))
    time.sleep(0.002)
"""


class Faults:
    """What can be done to the containers of a stack."""

    def __init__(self, stack: ComposeStack, client: docker.DockerClient) -> None:
        self._stack = stack
        self._client = client

    def container(self, service: str, number: int = 1) -> Container:
        return self._client.containers.get(self._stack.container(service, number))

    @contextmanager
    def cut(self, service: str, network: str, number: int = 1) -> Iterator[None]:
        """Takes a container off a network of the stack; packets of open connections go nowhere."""
        between = self._client.networks.get(f"{self._stack.project}_{network}")
        container = self.container(service, number)
        between.disconnect(container)
        try:
            yield
        finally:
            between.connect(container, aliases=[service, container.name])

    @contextmanager
    def paused(self, service: str) -> Iterator[None]:
        container = self.container(service)
        container.pause()
        try:
            yield
        finally:
            container.unpause()

    @contextmanager
    def stopped(self, service: str) -> Iterator[None]:
        self._stack.compose("stop", service)
        try:
            yield
        finally:
            self._stack.compose("start", service)

    def run_out_of_memory(self, service: str) -> None:
        """Another process in the container takes what is left of its memory: the kernel ends the largest one there."""
        container = self.container(service)
        used = container.stats(stream=False)["memory_stats"]["usage"]
        limit = used + 32 * MIB
        container.update(mem_limit=limit, memswap_limit=limit)
        try:
            container.exec_run(["python", "-c", TAKE_MEMORY])
        finally:
            container.update(mem_limit=PLENTY, memswap_limit=PLENTY)

    @contextmanager
    def started_with_memory(self, service: str, limit_bytes: int) -> Iterator[None]:
        container = self.container(service)
        container.stop()
        container.update(mem_limit=limit_bytes, memswap_limit=limit_bytes)
        container.start()
        try:
            yield
        finally:
            container.update(mem_limit=PLENTY, memswap_limit=PLENTY)

    @contextmanager
    def cores(self, service: str, share: float) -> Iterator[None]:
        """The container gets so much of one core."""
        container = self.container(service)
        container.update(cpu_period=100_000, cpu_quota=int(share * 100_000))
        try:
            yield
        finally:
            container.update(cpu_quota=-1)

    def kill(self, service: str) -> None:
        """SIGKILL as from the kernel: `docker kill` would switch the restart policy off."""
        os.kill(self.container(service).attrs["State"]["Pid"], 9)

    def kill_all(self) -> list[Container]:
        """Everything that runs, at once, as when the power fails; the engine does what it does after a boot."""
        label = f"com.docker.compose.project={self._stack.project}"
        containers: list[Container] = self._client.containers.list(filters={"label": label})
        for pid in [container.attrs["State"]["Pid"] for container in containers]:
            os.kill(pid, 9)
        return containers


def within(upper_s: float) -> float:
    """A deadline for what takes up to `upper_s` in the table of docs/deploy-docker.md: ten times as long."""
    return max(20.0, 10 * upper_s)


def words_in(events: bytes) -> str:
    """The text in a stream, or in a part of one; a last line that is cut off is left out."""
    told = [json.loads(line[6:]) for line in events.split(b"\n")[:-1] if line.startswith(b"data: {")]
    return "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")


@dataclass
class OpenAnswer:
    """A stored answer that has begun to come."""

    stream: http.client.HTTPResponse
    id: str
    begun: str
    """The first words, which the client has."""

    def read_on(self, seconds: float) -> None:
        """So long that a checkpoint has stored what had begun."""
        deadline = time.monotonic() + seconds
        for _ in self.stream:
            if time.monotonic() > deadline:
                return
        pytest.fail(f"the answer ended within {seconds:g} s")

    def rest(self) -> bytes:
        """What still comes; b"cut" is added when the connection breaks off."""
        try:
            return self.stream.read()
        except http.client.IncompleteRead as cut:
            return cut.partial + b"cut"
        except (OSError, http.client.HTTPException):
            return b"cut"


def begin_answer(stack: Asked, key: str, **more: Any) -> OpenAnswer:
    """A long one, of which some text has come."""
    body = {"input": LONG, "stream": True, "max_output_tokens": 2000, "temperature": 0, **more}
    answer = stack.open("/v1/responses", key, body)
    response_id = begun = ""
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            response_id = response_id or event.get("response", {}).get("id", "")
            begun += event["delta"] if event["type"] == "response.output_text.delta" else ""
            if begun:
                return OpenAnswer(answer, response_id, begun)
    pytest.fail("the answer ended before it began")


@dataclass
class Refusal:
    """An error as a client gets it."""

    status: int
    code: str
    message: str
    headers: Any


def refusal_of(stack: Asked, key: str, path: str, body: dict[str, Any] | None = None) -> Refusal:
    """Asks for what must be refused."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        stack.ask(path, key, body)
    with refused.value as error:
        told = json.loads(error.read())["error"]
        return Refusal(error.code, told["code"], told["message"], error.headers)


def kept(stack: Asked, key: str, response_id: str) -> dict[str, Any]:
    """A response as it is stored."""
    return stack.ask(f"/v1/responses/{response_id}", key)


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])
