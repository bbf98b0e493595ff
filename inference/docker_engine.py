"""The Docker engine through its Python client; nothing of the client's exceptions leaves this module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests

from inference.errors import StartFailed

ANSWER_TIMEOUT_S = 10
FAILURES = (docker.errors.DockerException, requests.RequestException)


def docker_info() -> dict[str, Any] | None:
    """What the engine says of itself (`docker info`); None when none answers."""
    try:
        client = docker.from_env(timeout=ANSWER_TIMEOUT_S)
        try:
            info: dict[str, Any] = client.info()
            return info
        finally:
            client.close()
    except FAILURES:
        return None


@contextmanager
def connected(timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[docker.DockerClient]:
    """The engine of DOCKER_HOST or of this machine. Raises StartFailed when none answers, or it refuses."""
    try:
        client = docker.from_env(timeout=timeout_s)
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
