"""The Docker engine through its Python client; nothing of the client's exceptions leaves this module."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests

from inference.errors import StartFailed
from inference.settings import DOCKER_SOCKET, docker_host

ANSWER_TIMEOUT_S = 10
FAILURES = (docker.errors.DockerException, requests.RequestException)


def docker_info() -> dict[str, Any] | None:
    """What the engine says of itself (`docker info`); None when none answers."""
    try:
        client = _client(ANSWER_TIMEOUT_S)
        try:
            info: dict[str, Any] = client.info()
            return info
        finally:
            client.close()
    except FAILURES:
        return None


def _client(timeout_s: float) -> docker.DockerClient:
    """Docker's client forgets to close a socket that it cannot connect, so that is tried first."""
    host = docker_host() or f"unix://{DOCKER_SOCKET}"
    if host.startswith("unix://"):
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(ANSWER_TIMEOUT_S)
                one.connect(host.removeprefix("unix://"))
        except OSError as error:
            raise docker.errors.DockerException(f"{host}: {error.strerror or error}") from None
    return docker.from_env(timeout=timeout_s)


@contextmanager
def connected(timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[docker.DockerClient]:
    """The engine of DOCKER_HOST or of this machine. Raises StartFailed when none answers, or it refuses."""
    try:
        client = _client(timeout_s)
    except FAILURES as error:
        raise StartFailed(
            f"No Docker engine answers here ({first_line(error)}). Start it (sudo systemctl start docker), let this "
            "user use it (group docker), or take an engine that needs none: INFERENCE_ENGINE=llamacpp."
        ) from None
    try:
        yield client
    finally:
        client.close()


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
