"""One gateway's container beside a stack, on volumes of its own, which asks that stack's inference."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from docker.models.containers import Container
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.containers.compose_stack import TAG, Asked, ComposeStack

IMAGE = f"internlm-stack/gateway:{TAG}"
SERVE = "test ! -e /launch/gateway.env || . /launch/gateway.env; exec python -m gateway serve"


class OneGateway(Asked):
    """Its container, and where it is asked."""

    def __init__(self, running: DockerContainer) -> None:
        self.container: Container = running.get_wrapped_container()
        self._running = running
        self.find()

    def find(self) -> None:
        """Its port on this machine, which changes with each start."""
        self.url = f"http://127.0.0.1:{self._running.get_exposed_port(8000)}"

    def admin_key(self) -> str:
        return str(self.container.exec_run(["cat", "/data/admin.key"]).output.decode().strip())

    def said(self) -> str:
        return str(self.container.logs().decode())

    def wait(self, deadline_s: float = 60) -> float:
        """Until it answers; returns the seconds."""
        begun = time.monotonic()
        while time.monotonic() - begun < deadline_s:
            try:
                self.find()
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=5):
                    return time.monotonic() - begun
            except (urllib.error.URLError, OSError, ConnectionError):
                time.sleep(0.1)
        pytest.fail(f"the gateway does not answer:\n{self.said()[-2000:]}")


@contextmanager
def one_gateway(
    stack: ComposeStack | None,
    volume: str,
    *,
    mode: str = "rw",
    waits: bool = True,
    network: Network | None = None,
    **environ: str,
) -> Iterator[OneGateway]:
    """Started as in the compose files, with the restart policy too; `stack` has the inference that it asks."""
    upstream = "llamacpp=http://inference:8080" if stack else "llamacpp=http://127.0.0.1:1"
    container = (
        DockerContainer(IMAGE)
        .with_command(["sh", "-c", SERVE])
        .with_exposed_ports(8000)
        .with_volume_mapping(volume, "/data", mode)
        .with_tmpfs_mount("/tmp", "mode=1777")
        .with_kwargs(
            init=True,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            restart_policy={"Name": "always"},
        )
        .with_env("GATEWAY_UPSTREAMS", upstream)
    )
    for name, value in environ.items():
        container = container.with_env(name, value)
    if network is not None:
        container = container.with_network(network)
    if stack:
        container = container.with_volume_mapping(f"{stack.project}_launch", "/launch", "ro")
    with container as running:
        gateway = OneGateway(running)
        if stack:
            running.get_docker_client().client.networks.get(f"{stack.project}_engine").connect(gateway.container)
        if waits:
            gateway.wait()
        yield gateway
