"""The pods of deploy/kubernetes/cpu as Docker containers: users, mounts, keys, settings and commands of the manifests.

A cluster's part (scheduling, probes, Services, policies) is not here, nor is PostgreSQL: the gateway gets SQLite by the
variable that the manifests leave open for a database of one's own.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.compose_stack import ROOT, TAG, ComposeStack, free_port, require_docker
from tests.containers.swarm_stack import docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
PROJECT = f"internlm-kubernetes-{TAG}"
MODEL = "smollm2-135m-instruct"
AS_WEB_UI = """
import os, urllib.request
key = open(os.environ["WEBUI_API_KEY_FILE"]).read().strip()
url = os.environ["WEBUI_GATEWAY_URL"] + "/v1/models"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + key})
print(urllib.request.urlopen(request, timeout=20).status)
"""


@dataclass
class Cluster:
    """What a node would do with a pod: a folder for each volume, then its containers in order."""

    folder: Path
    resources: list[dict[str, Any]]
    admin_key: str
    gateway: ComposeStack
    webui_port: int = field(default_factory=free_port)

    def pod(self, name: str, *options: str, **environ: str) -> str:
        """Runs the init containers to their end, then starts the container, also with `environ`; returns its name."""
        (workload,) = (
            one["spec"]["template"]["spec"]
            for one in self.resources
            if one["metadata"]["name"] == name and "template" in one.get("spec", {})
        )
        volumes = {one["name"]: self._volume(name, one, workload) for one in workload.get("volumes", ())}
        for one in workload.get("initContainers", ()):
            docker("run", "--rm", *self._as_said(one, workload, volumes, f"{PROJECT}-{name}-{one['name']}"))
        (main,) = workload["containers"]
        main["env"] = [*main.get("env", ()), *({"name": key, "value": value} for key, value in environ.items())]
        docker("run", "-d", *options, *self._as_said(main, workload, volumes, f"{PROJECT}-{name}"))
        return f"{PROJECT}-{name}"

    def _volume(self, pod: str, volume: dict[str, Any], spec: dict[str, Any]) -> Path:
        is_shared = "persistentVolumeClaim" in volume
        path = self.folder / ("claims" if is_shared else pod) / volume["name"]
        path.mkdir(parents=True, exist_ok=True)
        group = spec["securityContext"]["fsGroup"]
        os.chown(path, 0, group)
        path.chmod(0o2775 if is_shared else 0o2777)
        if "secret" in volume:
            (secret,) = (one for one in self.resources if one["metadata"]["name"] == volume["secret"]["secretName"])
            for name, value in secret["data"].items():
                (path / name).write_bytes(base64.b64decode(value))
                os.chown(path / name, 0, group)
                (path / name).chmod(volume["secret"]["defaultMode"])
        return path

    def _as_said(self, one: dict[str, Any], spec: dict[str, Any], volumes: dict[str, Path], name: str) -> Iterator[str]:
        own = {**spec["securityContext"], **one["securityContext"]}
        yield from ("--name", name, "--network", PROJECT, "--user", f"{own['runAsUser']}:{own['runAsGroup']}")
        yield from ("--group-add", str(own.get("fsGroup", own["runAsGroup"])), "--read-only", "--cap-drop", "ALL")
        yield from ("--security-opt", "no-new-privileges")
        for source in one.get("envFrom", ()):
            for found in self.resources:
                if found["metadata"]["name"] == source.get("configMapRef", {}).get("name"):
                    yield from (word for item in found["data"].items() for word in ("-e", "=".join(item)))
        yield from (
            word for item in one.get("env", ()) if "value" in item for word in ("-e", f"{item['name']}={item['value']}")
        )
        for mount in one.get("volumeMounts", ()):
            path = volumes[mount["name"]] / mount.get("subPath", "")
            yield from ("-v", f"{path}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
        words = [*one.get("command", ()), *one.get("args", ())]
        image = one["image"].removesuffix(":latest") + f":{TAG}" if "internlm" in one["image"] else one["image"]
        yield from (("--entrypoint", words[0], image, *words[1:]) if words else (image,))


def clear() -> None:
    left = docker("ps", "-aq", "--filter", f"name=^{PROJECT}-").split()
    if left:
        docker("rm", "-fv", *left)
    docker("network", "rm", PROJECT, check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_docker()
    if shutil.which("kubectl") is None or os.geteuid() != 0:
        say = pytest.fail if "kubectl" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
        say("needs kubectl, which renders the manifests, and root, which gives volumes to their groups")
    folder = tmp_path_factory.mktemp("pods")
    copy = folder / "kubernetes"
    shutil.copytree(ROOT / "deploy" / "kubernetes", copy, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([copy / "make-secrets.sh"], check=True, capture_output=True)
    rendered = subprocess.run(["kubectl", "kustomize", str(copy / "cpu")], capture_output=True, text=True, check=True)
    front = ComposeStack("kubernetes", ("docker-compose.yml", "docker-compose.cpu.yml"), MODEL)
    front.compose("build", timeout_s=600)
    key = (copy / "base" / "secrets" / "admin.key").read_text()
    one = Cluster(folder, list(yaml.safe_load_all(rendered.stdout)), key, front)
    clear()
    docker("network", "create", PROJECT)
    try:
        prepare = one.pod("prepare")
        assert docker("wait", prepare).strip() == "0", docker("logs", prepare)
        one.pod("redis", "--network-alias", "redis")
        one.pod("inference", "--network-alias", "inference-0.inference")
        at = ("-p", f"127.0.0.1:{front.gateway_port}:8000", "--network-alias", "gateway")
        one.pod("gateway", *at, DATABASE_URL="sqlite:////data/gateway.sqlite3")
        one.pod("webui", "-p", f"127.0.0.1:{one.webui_port}:7860")
        yield one
    finally:
        clear()


def test_a_chat_goes_through_with_the_key_of_the_secret(cluster: Cluster) -> None:
    cluster.gateway.wait_until_it_answers(cluster.admin_key, "the pods")
    status = cluster.gateway.ask("/v1/status", cluster.admin_key)
    assert (status["ready"], status["model"], status["context_tokens"]) == (True, MODEL, 4096)
    kept = cluster.gateway.ask("/v1/responses", cluster.admin_key, {"input": "Hi", "max_output_tokens": 4})
    assert cluster.gateway.ask(f"/v1/responses/{kept['id']}", cluster.admin_key)["output"] == kept["output"]


def test_prometheus_is_answered_with_the_token_of_the_secret(cluster: Cluster) -> None:
    token = (cluster.folder / "kubernetes" / "base" / "secrets" / "metrics.token").read_text()
    with cluster.gateway.open("/metrics", token) as answer:
        assert b"\ngateway_slots " in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        cluster.gateway.open("/metrics", "guessed")


def test_the_page_answers_and_its_key_is_the_gateways(cluster: Cluster) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{cluster.webui_port}/", timeout=10) as page:
                assert b"gradio" in page.read().lower()
            break
        except OSError:
            assert time.monotonic() < deadline, docker("logs", f"{PROJECT}-webui")
            time.sleep(0.5)
    assert docker("exec", f"{PROJECT}-webui", "python", "-c", AS_WEB_UI).strip() == "200"


def test_a_pod_that_is_told_to_end_ends_in_order(cluster: Cluster) -> None:
    for name in ("gateway", "webui", "inference"):
        docker("exec", f"{PROJECT}-{name}", "sleep", "0.1")  # what preStop runs
        docker("stop", "-t", "60", f"{PROJECT}-{name}")
        code = json.loads(docker("inspect", f"{PROJECT}-{name}"))[0]["State"]["ExitCode"]
        assert code in (0, 143), f"{name}: {code}"
