"""A stack on a Docker Swarm of one node, made and left by the tests; only where the engine is in no swarm already."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.compose_stack import ROOT, TAG, ComposeStack, docker

MADE = (sys.executable, str(ROOT / "deploy" / "make_swarm.py"))
SERVICES = ("gateway", "inference", "nginx", "postgres", "redis", "webui")
JOBS = ("plan", "prepare", "secrets")
CONVERGED_S = 300
# Virtual IPs need IPVS, which not every kernel has; where it is there these lines change nothing that is tested.
WITHOUT_IPVS = {"version": "3.9", "services": {name: {"deploy": {"endpoint_mode": "dnsrr"}} for name in SERVICES}}


@dataclass
class SwarmStack:
    """`front` asks it over its published ports; `name` is the stack's."""

    front: ComposeStack
    name: str = f"internlm-{TAG}"

    def deploy(self, files: Sequence[Path]) -> None:
        ports = {"GATEWAY_PORT": str(self.front.gateway_port), "WEBUI_PORT": str(self.front.webui_port)}
        named = [word for file in files for word in ("-c", str(file))]
        command = ["stack", "deploy", "--detach=true", "--resolve-image", "never", *named, self.name]
        docker(*command, environ={"TAG": TAG, **ports, **self.front.environ})

    def containers(self, service: str, health: str = "healthy") -> list[str]:
        label = f"label=com.docker.swarm.service.name={self.name}_{service}"
        return docker("ps", "-q", "--no-trunc", "--filter", label, "--filter", f"health={health}").split()

    def wait_until_running(self, replicas: dict[str, int], deadline_s: float = CONVERGED_S) -> float:
        """Until each service has so many healthy tasks; returns the seconds that it took."""
        begun = time.monotonic()
        while missing := [name for name, count in replicas.items() if len(self.containers(name)) != count]:
            if time.monotonic() - begun > deadline_s:
                pytest.fail(f"not running after {deadline_s:g} s: {missing}\n{self.state()}")
            time.sleep(0.5)
        return time.monotonic() - begun

    def state(self) -> str:
        """For a failure: all tasks, and the last lines of all services."""
        shown = docker("stack", "ps", "--no-trunc", self.name, check=False)
        for name in (*SERVICES, *JOBS):
            shown += f"\n--- {name}\n" + docker(
                "service", "logs", "--raw", "--tail", "15", f"{self.name}_{name}", check=False
            )
        return shown

    def admin_key(self) -> str:
        return docker("exec", self.containers("gateway")[0], "cat", "/data/admin.key").strip()

    def remove(self) -> None:
        """`stack rm` returns before the containers are gone, and volumes stay."""
        label = f"label=com.docker.stack.namespace={self.name}"
        docker("stack", "rm", self.name, check=False)
        deadline = time.monotonic() + 150
        while docker("ps", "-aq", "--filter", label).split() and time.monotonic() < deadline:
            time.sleep(0.5)
        volumes = docker("volume", "ls", "-q", "--filter", label).split()
        if volumes:
            docker("volume", "rm", *volumes)

    def leftovers(self) -> str:
        label = f"label=com.docker.stack.namespace={self.name}"
        kinds = (["ps", "-a"], ["volume", "ls"], ["network", "ls"])
        return "".join(docker(*kind, "-q", "--filter", label) for kind in kinds)


@contextmanager
def swarm_of_one_node(stack: SwarmStack) -> Iterator[None]:
    """Fails where the engine is in a swarm of somebody's; one that an interrupted run left with our stack is ended."""
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip() != "inactive":
        if docker("stack", "ls", "--format", "{{.Name}}", check=False).split() != [stack.name]:
            pytest.fail(
                "this engine is in a swarm already, which these tests leave alone: `docker swarm leave --force`"
            )
        stack.remove()
        docker("swarm", "leave", "--force")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
    try:
        yield
    finally:
        docker("swarm", "leave", "--force")


@contextmanager
def deployed(stack: SwarmStack, folder: Path) -> Iterator[SwarmStack]:
    """With llama.cpp on the CPU, from images of this checkout; converged."""
    made = subprocess.run([*MADE, "--cpu"], capture_output=True, text=True, check=True).stdout
    # Configs are named by a path beside the stack's file.
    made = made.replace("file: ./nginx.conf", f"file: {ROOT}/deploy/nginx.conf")
    files = folder / "stack.yml", folder / "without-ipvs.yml"
    files[0].write_text(made)
    files[1].write_text(json.dumps(WITHOUT_IPVS))
    stack.front.compose("build", timeout_s=600)
    with swarm_of_one_node(stack):
        try:
            stack.deploy(files)
            stack.wait_until_running({"gateway": 3} | {name: 1 for name in SERVICES if name != "gateway"})
            yield stack
        finally:
            stack.remove()
    assert not stack.leftovers(), "the stack left something behind"
