"""deploy/kubernetes/ without a cluster: rendered by `kubectl kustomize`, held against the API's schemas and our code.

The schemas are those of the package kubernetes-validate, in their strict form: a field that the API does not know is an
error. What only a cluster can tell (scheduling, volumes, policies enforced) is not tested.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.dialects import llamacpp, tgi
from gateway.routes import ops

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("gpu", "cpu")
VERSIONS = ("1.30", "1.37")  # the oldest with everything that is used, the newest that the package has
WORKLOADS = ("Deployment", "StatefulSet", "Job")
# Of the deployment itself, and of images that others make.
NOT_OURS = {"CARD", "HF_HUB_OFFLINE", "USAGE_STATS", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE", "PGDATA"}
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with fresh secrets."""
    if shutil.which("kubectl") is None:
        say = pytest.fail if "kubectl" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
        say("no kubectl here, which renders deploy/kubernetes/ (kustomize is within it)")
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([copy / "make-secrets.sh"], check=True, capture_output=True)
    return copy


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest, folder: Path) -> list[Resource]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder / request.param)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # what kustomize calls deprecated
    return list(yaml.safe_load_all(done.stdout))


def of_kind(resources: list[Resource], *kinds: str) -> dict[str, Resource]:
    return {one["metadata"]["name"]: one for one in resources if one["kind"] in kinds}


def pod_of(workload: Resource) -> Resource:
    pod: Resource = workload["spec"]["template"]
    return pod


def pods(resources: list[Resource]) -> dict[str, Resource]:
    return {name: pod_of(one) for name, one in of_kind(resources, *WORKLOADS).items()}


def containers(pod: Resource) -> list[Resource]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", ())
        if one["operator"] == "In"
    )


def policy(resources: list[Resource], name: str) -> Resource:
    found: Resource = of_kind(resources, "NetworkPolicy")[name]["spec"]
    return found


def who_may_enter(resources: list[Resource], name: str) -> set[str]:
    """The pods that any policy lets into the pods called `name`; those of other namespaces by the namespace's name."""
    labels = pods(resources)[name]["metadata"]["labels"]
    allowed = set()
    for one in of_kind(resources, "NetworkPolicy").values():
        if matches(one["spec"]["podSelector"], labels):
            for source in (source for rule in one["spec"].get("ingress", ()) for source in rule["from"]):
                if "namespaceSelector" in source:
                    allowed |= set(source["namespaceSelector"]["matchLabels"].values())
                else:
                    own = {app: pod["metadata"]["labels"] for app, pod in pods(resources).items()}
                    allowed |= {app for app, its in own.items() if matches(source["podSelector"], its)}
    return allowed


def reached_from(resources: list[Resource], name: str) -> set[tuple[str, str]]:
    """What any policy lets the pods called `name` out to: a pod, or a namespace or range of addresses, and a port."""
    own = {app: pod["metadata"]["labels"] for app, pod in pods(resources).items()}
    allowed: set[tuple[str, str]] = set()
    for one in of_kind(resources, "NetworkPolicy").values():
        if not matches(one["spec"]["podSelector"], own[name]):
            continue
        for rule in one["spec"].get("egress", ()):
            ports = [f"{port.get('protocol', 'TCP')} {port['port']}" for port in rule["ports"]]
            for target in rule["to"]:
                if "podSelector" in target:
                    reached = [app for app, its in own.items() if matches(target["podSelector"], its)]
                elif "namespaceSelector" in target:
                    reached = list(target["namespaceSelector"]["matchLabels"].values())
                else:
                    reached = [target["ipBlock"]["cidr"]]
                allowed |= {(app, port) for app in reached for port in ports}
    return allowed


def addressed_by(resources: list[Resource], name: str) -> set[tuple[str, str]]:
    """The pods behind the addresses in a pod's settings and command, each with the port's name."""
    settings = of_kind(resources, "ConfigMap")
    pod = pods(resources)[name]
    text = yaml.safe_dump(pod, width=1000)
    if name == "gateway":  # the one whose settings have addresses; the others read the same ConfigMap for the model
        text += yaml.safe_dump(
            [settings[source["configMapRef"]["name"]] for one in containers(pod) for source in one.get("envFrom", ())]
        )
    addressed: set[tuple[str, str]] = set()
    for host in re.findall(r"(?:://|@)([\w.-]+):\d+", text):
        service = of_kind(resources, "Service")[host.rpartition(".")[2]]["spec"]
        (target,) = (
            app
            for app, one in pods(resources).items()
            if matches({"matchLabels": service["selector"]}, one["metadata"]["labels"])
        )
        addressed |= {(target, f"TCP {port['targetPort']}") for port in service["ports"]}
    return addressed


# --- the API's word


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_what_the_api_of_kubernetes_takes(resources: list[Resource], version: str) -> None:
    assert len(resources) > 20
    for one in resources:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_find_a_field_that_is_misspelt(resources: list[Resource]) -> None:
    gateway = of_kind(resources, "Deployment")["gateway"]
    pod_of(gateway)["spec"]["containers"][0]["readynessProbe"] = {}
    try:
        with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
            kubernetes_validate.validate(gateway, VERSIONS[-1], strict=True)
    finally:
        del pod_of(gateway)["spec"]["containers"][0]["readynessProbe"]


def test_everything_is_in_one_namespace(resources: list[Resource]) -> None:
    assert {one["metadata"].get("namespace", "internlm") for one in resources} == {"internlm"}


def test_no_file_is_forgotten() -> None:
    for kustomization in FOLDER.glob("*/kustomization.yaml"):
        listed = set(yaml.safe_load(kustomization.read_text())["resources"])
        there = {path.name for path in kustomization.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert there == listed - {"../base"}


# --- names that must agree


def test_selectors_and_ports_lead_to_pods(resources: list[Resource]) -> None:
    for name, workload in of_kind(resources, "Deployment", "StatefulSet").items():
        assert matches(workload["spec"]["selector"], pod_of(workload)["metadata"]["labels"]), name
    for name, service in of_kind(resources, "Service").items():
        (pod,) = (one for one in pods(resources).values() if service["spec"]["selector"] == one["metadata"]["labels"])
        names = {port["name"] for one in containers(pod) for port in one.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names, name
    for name, one in of_kind(resources, "StatefulSet").items():
        assert one["spec"]["serviceName"] in of_kind(resources, "Service"), name
    target = of_kind(resources, "HorizontalPodAutoscaler")["gateway"]["spec"]["scaleTargetRef"]
    assert target["name"] in of_kind(resources, target["kind"])
    budget = of_kind(resources, "PodDisruptionBudget")["gateway"]["spec"]
    assert matches(budget["selector"], pods(resources)["gateway"]["metadata"]["labels"])
    assert budget["minAvailable"] < of_kind(resources, "HorizontalPodAutoscaler")["gateway"]["spec"]["minReplicas"]


def test_the_ingress_leads_to_services_and_buffers_nothing(resources: list[Resource]) -> None:
    ingress = of_kind(resources, "Ingress")["internlm"]
    services = of_kind(resources, "Service")
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
    said = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert said["proxy-buffering"] == "off"
    assert int(said["proxy-read-timeout"]) > 1800  # GATEWAY_TURN_TIMEOUT_S


def test_addresses_in_settings_are_services_of_ours(resources: list[Resource]) -> None:
    services = of_kind(resources, "Service")
    text = yaml.safe_dump(resources)
    found = re.findall(r"(?:https?|redis)://([\w.-]+):(\d+)|@(\w+):(\d+)/internlm", text)
    assert len(found) >= 4
    for host, port, database, database_port in found:
        service = services[(host or database).rpartition(".")[2]]
        assert int(port or database_port) in {one["port"] for one in service["spec"]["ports"]}


def test_volumes_secrets_and_settings_that_are_named_exist(resources: list[Resource]) -> None:
    secrets, settings = of_kind(resources, "Secret"), of_kind(resources, "ConfigMap")
    claims = of_kind(resources, "PersistentVolumeClaim")
    for name, workload in of_kind(resources, *WORKLOADS).items():
        pod = pod_of(workload)
        volumes = {one["name"]: one for one in pod["spec"].get("volumes", ())}
        own = {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", ())}
        for volume in volumes.values():
            assert "secret" not in volume or volume["secret"]["secretName"] in secrets, name
            assert "persistentVolumeClaim" not in volume or volume["persistentVolumeClaim"]["claimName"] in claims, name
        for one in containers(pod):
            for mount in one.get("volumeMounts", ()):
                assert mount["name"] in volumes or mount["name"] in own, f"{name}: {mount}"
                if "subPath" in mount:
                    assert mount["subPath"] in secrets[volumes[mount["name"]]["secret"]["secretName"]]["data"]
            for source in one.get("envFrom", ()):
                is_there = source.get("configMapRef", {}).get("name") in settings
                assert is_there or source["secretRef"]["optional"], name
            keys = set(re.findall(r"/keys/([\w.]+)", yaml.safe_dump(one)))
            for volume in (volumes[mount["name"]] for mount in one.get("volumeMounts", ()) if mount["name"] == "keys"):
                assert keys <= set(secrets[volume["secret"]["secretName"]]["data"]), name
                keys = set()
            assert not keys, f"{name}: {keys} are mounted nowhere"


def test_every_variable_is_a_setting(resources: list[Resource]) -> None:
    known = set(re.findall(r"^#([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    given = {name for one in of_kind(resources, "ConfigMap").values() for name in one["data"]}
    for pod in pods(resources).values():
        given |= {variable["name"] for one in containers(pod) for variable in one.get("env", ())}
    assert given - known <= NOT_OURS


def test_images_and_commands_are_those_that_we_build(resources: list[Resource]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile.app").read_text(), re.MULTILINE))
    compose = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker-compose.scale.yml").read_text()
    for pod in pods(resources).values():
        for one in containers(pod):
            target = re.fullmatch(r"internlm-stack/(\w+):latest", one["image"])
            assert (
                target is None or one["imagePullPolicy"] == "IfNotPresent"
            )  # `latest` alone would mean: always fetched
            assert target[1] in targets if target else f":-{one['image']}}}" in compose, one["image"]
            words = " ".join([*one.get("command", ()), *one.get("args", ())])
            for module in re.findall(r"python -m (\w+)", words):
                assert (ROOT / module / "__main__.py").is_file(), words


# --- what may go wrong


def test_our_containers_have_no_rights_and_no_account(resources: list[Resource]) -> None:
    for name, pod in pods(resources).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # else a Service's name may set a setting
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for one in containers(pod):
            own = one["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            if "text-generation-inference" in one["image"]:
                continue  # root, as its maker ships it
            assert spec["securityContext"].get("runAsNonRoot") or own["runAsNonRoot"], name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            if one["image"].startswith("internlm-stack/"):
                assert 1000 in (spec["securityContext"].get("runAsUser"), own.get("runAsUser")), name


def test_only_the_gateway_reaches_the_engine_and_the_databases(resources: list[Resource]) -> None:
    deny = policy(resources, "default-deny")
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("inference", "postgres", "redis"):
        assert who_may_enter(resources, name) == {"gateway"}
        assert "egress" not in policy(resources, name) or policy(resources, name)["egress"] == []
    assert who_may_enter(resources, "gateway") == {"webui", "ingress-nginx", "monitoring"}
    assert who_may_enter(resources, "webui") == {"ingress-nginx"}
    assert who_may_enter(resources, "prepare") == set()


def test_each_pod_gets_out_to_the_addresses_in_its_settings_and_to_no_other(resources: list[Resource]) -> None:
    names = {("kube-system", "UDP 53"), ("kube-system", "TCP 53")}
    gateway = addressed_by(resources, "gateway")
    assert gateway == {("inference", "TCP http"), ("postgres", "TCP postgres"), ("redis", "TCP redis")}
    assert addressed_by(resources, "webui") == {("gateway", "TCP http")}
    assert reached_from(resources, "gateway") == gateway | names
    assert reached_from(resources, "webui") == addressed_by(resources, "webui") | names
    assert reached_from(resources, "prepare") == {("0.0.0.0/0", "TCP 443"), ("::/0", "TCP 443")} | names
    for name in ("inference", "postgres", "redis"):
        assert reached_from(resources, name) == set()


def test_a_policy_selects_pods_that_exist_and_ports_that_they_have(resources: list[Resource]) -> None:
    found = pods(resources)
    for name, one in of_kind(resources, "NetworkPolicy").items():
        spec = one["spec"]
        chosen = [pod for pod in found.values() if matches(spec["podSelector"], pod["metadata"]["labels"])]
        assert chosen, name
        named = {port["name"] for pod in chosen for each in containers(pod) for port in each.get("ports", ())}
        asked = {port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]}
        assert asked <= named, name


def test_a_gateway_that_ends_has_time_to_drain(resources: list[Resource]) -> None:
    (settings,) = of_kind(resources, "ConfigMap").values()
    spec = pods(resources)["gateway"]["spec"]
    (gateway,) = spec["containers"]
    pause_s = int(gateway["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > pause_s + int(settings["data"]["GATEWAY_DRAIN_TIMEOUT_S"]) + 10
    rolling = of_kind(resources, "Deployment")["gateway"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": 0, "maxSurge": 1}


def test_probes_ask_for_paths_that_are_there(resources: list[Resource]) -> None:
    """The web UI's is asked for in tests/contract/webui/test_webui_page.py."""
    gateway = {getattr(route, "path", "") for route in ops.router.routes}
    engine = {(tgi if "text-generation-inference" in str(pods(resources)["inference"]) else llamacpp).HEALTH_PATH}
    served = {"gateway": gateway & {"/healthz"}, "webui": {"/robots.txt"}, "inference": engine}
    for name, paths in served.items():
        (one,) = pods(resources)[name]["spec"]["containers"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = one[kind]["httpGet"]
            assert probe["path"] in paths, f"{name}: {kind}"
            assert probe["port"] in {port["name"] for port in one["ports"]}, f"{name}: {kind}"


def test_gateways_become_more_before_their_core_is_used_up(resources: list[Resource]) -> None:
    scaler = of_kind(resources, "HorizontalPodAutoscaler")["gateway"]["spec"]
    (metric,) = scaler["metrics"]
    (gateway,) = pods(resources)["gateway"]["spec"]["containers"]
    assert gateway["resources"]["requests"]["cpu"] == "500m"  # a share is one of what was requested
    assert (metric["resource"]["name"], metric["resource"]["target"]["type"]) == ("cpu", "Utilization")
    assert 50 <= metric["resource"]["target"]["averageUtilization"] <= 100
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]


def test_prometheus_has_a_token_that_the_gateway_knows(resources: list[Resource]) -> None:
    (gateway,) = pods(resources)["gateway"]["spec"]["containers"]
    given = {one["name"]: one.get("value") for one in gateway["env"]}
    assert given["GATEWAY_METRICS_TOKEN_FILE"] == "/keys/metrics.token"


def test_a_page_is_never_torn_between_two_web_uis(resources: list[Resource]) -> None:
    spec = of_kind(resources, "Deployment")["webui"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_job_is_gone_before_the_next_apply_or_the_documents_say_how(resources: list[Resource]) -> None:
    """A Job's template cannot be changed, and the name of its settings does with each of them."""
    assert of_kind(resources, "Job")["prepare"]["spec"]["ttlSecondsAfterFinished"] <= 300
    said = (ROOT / "docs" / "deploy-kubernetes.md").read_text()
    assert said.count("kubectl -n internlm delete job prepare --ignore-not-found") >= 2


def test_an_engine_has_half_an_hour_to_load(resources: list[Resource]) -> None:
    (engine,) = pods(resources)["inference"]["spec"]["containers"]
    probe = engine["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800
    if "text-generation-inference" in engine["image"]:
        assert engine["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert of_kind(resources, "PersistentVolumeClaim")["models"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_secrets_are_fresh_each_time_and_none_is_in_git(folder: Path) -> None:
    made = {path.name: path.read_text() for path in (folder / "base" / "secrets").iterdir()}
    assert len({value.removeprefix("sk-") for value in made.values()}) == 6
    assert all(len(value) >= 64 for value in made.values())
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "base" / "secrets").iterdir())
    subprocess.run([folder / "make-secrets.sh"], check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in (folder / "base" / "secrets").iterdir()}
    assert "/deploy/kubernetes/base/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
