"""Makes a stack for Docker Swarm of the compose files: `python deploy/make_swarm.py [--cpu] > deploy/swarm.yml`.

`docker compose config --no-interpolate` merges the files, so variables stay variables. What Swarm does not take is
replaced here:

| compose                        | Swarm                                                                               |
|--------------------------------|-------------------------------------------------------------------------------------|
| depends_on                     | the service itself waits for the files that a job writes, and says so               |
| a service that ends            | a job (`mode: replicated-job`)                                                      |
| restart, pids_limit            | deploy.restart_policy, deploy.resources.limits.pids                                 |
| reservations.devices           | generic_resources; `plan` sees the cards without keeping one                        |
| tmpfs, shm_size                | mounts of the kind tmpfs, at /dev/shm for the second                                |
| ports on an address            | ports of the node: Swarm cannot bind one address, and its mesh hides the caller's   |
| a file that is mounted         | a config, named after its contents, since Swarm's configs never change              |
| build, security_opt            | nothing: images are there before, no-new-privileges is not to be had in a stack     |
| services of a profile          | nothing                                                                             |
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = ("docker-compose.yml", "docker-compose.scale.yml")
CPU_FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.scale.yml")
HEAD = """\
# Made by `make swarm-stack` of docker-compose.yml and docker-compose.scale.yml: change those, or deploy/make_swarm.py.
#   docker stack deploy -c deploy/swarm.yml internlm
# docs/deploy-swarm.md says what it needs.
"""
JOBS = ("plan", "prepare", "secrets")
# Of a volume that one job fills and others only read: the job, and the file that it writes last.
FILLED = {"launch": ("plan", "gateway.env"), "database-key": ("secrets", "database.key")}
_WAIT = 'until [ -s {file} ]; do echo "waiting for {file}, which the service {job} writes"; sleep 2; done; '
_WAIT_FOR_MODEL = (
    "until [ -s /launch/tgi.args ]; do sleep 1; done; "
    "model=$$(grep -o -- '--model-id [^ ]*' /launch/tgi.args | cut -d ' ' -f 2); "
    'until [ -s "$$model/manifest.json" ]; do echo "waiting for $$model, which prepare makes"; sleep 5; done; '
)
# An image's own start, where a service has to wait before it.
OWN_START = {"postgres": "exec docker-entrypoint.sh postgres"}
KEPT = "image init user read_only cap_drop sysctls logging healthcheck stop_signal stop_grace_period".split()
TURNED = "entrypoint command environment networks volumes tmpfs shm_size ports deploy restart pids_limit".split()
LEFT_OUT = "depends_on build security_opt network_mode".split()
PLACE = "${SWARM_PLACE:-node.role == manager}"
DATABASE_PLACE = "${SWARM_DATABASE_PLACE:-node.role == manager}"
_ONE_BY_ONE = {"parallelism": 1, "order": "start-first", "monitor": "15s", "failure_action": "rollback"}


def stack(files: tuple[str, ...]) -> dict[str, Any]:
    """The stack that does what these compose files do. Raises SystemExit with one sentence."""
    found = _merged(files)
    configs: dict[str, Any] = {}
    chosen = {name: one for name, one in sorted(found["services"].items()) if not one.get("profiles")}
    services = {name: _service(name, one, configs) for name, one in chosen.items()}
    used = {mount["source"] for one in chosen.values() for mount in one.get("volumes", ()) if mount["type"] == "volume"}
    networks = {network for one in services.values() for network in one["networks"]}
    return {
        "version": "3.9",
        "services": services,
        "networks": {
            name: {"driver": "overlay", **_only(found["networks"][name], "internal")} for name in sorted(networks)
        },
        "volumes": {name: {} for name in sorted(used)},
        "configs": configs,
    }


def _merged(files: tuple[str, ...]) -> dict[str, Any]:
    named = [word for file in files for word in ("-f", str(ROOT / file))]
    command = ["docker", "compose", "--project-directory", str(ROOT), *named, "config", "--no-interpolate"]
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # no .env, no COMPOSE_…
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, env=environ, cwd=ROOT, check=False
    )
    if done.returncode:
        sys.exit(f"`docker compose config` failed; Docker Compose 2.24 or newer is needed: {done.stderr.strip()}")
    merged: dict[str, Any] = json.loads(done.stdout)
    return merged


def _service(name: str, one: dict[str, Any], configs: dict[str, Any]) -> dict[str, Any]:
    if unknown := one.keys() - {*KEPT, *TURNED, *LEFT_OUT}:
        sys.exit(f"{name} has {', '.join(sorted(unknown))}: say in deploy/make_swarm.py what becomes of it in a Swarm.")
    made = _only(one, *KEPT)
    made.get("healthcheck", {}).pop("start_interval", None)  # a stack has no such word
    made |= _started(name, one)
    if environment := _environment(one):
        made["environment"] = environment
    made["networks"] = sorted(one.get("networks") or ["engine"])
    if mounts := _mounts(one):
        made["volumes"] = mounts
    if files := [_config(mount, configs) for mount in one.get("volumes", ()) if mount["type"] == "bind"]:
        made["configs"] = files
    if ports := [_port(port) for port in one.get("ports", ())]:
        made["ports"] = ports
    made["deploy"] = _deploy(name, one)
    if name == "plan" and _cards(one):
        made["environment"] |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "utility"}
    return made


def _started(name: str, one: dict[str, Any]) -> dict[str, Any]:
    """Its entrypoint and command, after waiting for what it depends on."""
    wait = _waiting(one)
    if not wait:
        return _only(one, "entrypoint", "command")
    words = one.get("entrypoint") or one.get("command") or []
    if words[1:2] == ["-c"]:
        return {"entrypoint": [words[0], "-c", wait + words[2].strip()]}
    return {"entrypoint": ["sh", "-c", wait + OWN_START.get(name, f"exec {' '.join(words)}")]}


def _waiting(one: dict[str, Any]) -> str:
    """Shell that ends when everything is there that the jobs write for this service."""
    wait = "".join(
        _WAIT.format(file=f"{mount['target']}/{FILLED[mount['source']][1]}", job=FILLED[mount["source"]][0])
        for mount in one.get("volumes", ())
        if mount["source"] in FILLED and mount.get("read_only")
    )
    return wait + (_WAIT_FOR_MODEL if "tgi.args" in str(one.get("entrypoint")) else "")


def _environment(one: dict[str, Any]) -> dict[str, str | None]:
    """Merged files give a list of NAME=VALUE, a single one a table."""
    given = one.get("environment") or {}
    if isinstance(given, dict):
        return dict(sorted(given.items()))
    pairs = (entry.partition("=") for entry in given)
    return {name: value if equals else None for name, equals, value in sorted(pairs)}


def _mounts(one: dict[str, Any]) -> list[Any]:
    mounts: list[Any] = [
        f"{mount['source']}:{mount['target']}{':ro' if mount.get('read_only') else ''}"
        for mount in one.get("volumes", ())
        if mount["type"] == "volume"
    ]
    mounts += [{"type": "tmpfs", "target": place.partition(":")[0]} for place in one.get("tmpfs", ())]
    if one.get("shm_size"):
        mounts.append({"type": "tmpfs", "target": "/dev/shm", "tmpfs": {"size": 1 << 30}})
    return mounts


def _config(mount: dict[str, Any], configs: dict[str, Any]) -> dict[str, str]:
    path = Path(mount["source"])
    name = path.name.replace(".", "-")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    configs[name] = {"name": f"internlm-{name}-{digest}", "file": f"./{path.relative_to(ROOT / 'deploy')}"}
    return {"source": name, "target": mount["target"]}


def _port(port: str) -> dict[str, Any]:
    """`${BIND:-127.0.0.1}:${GATEWAY_PORT:-8000}:8000` → that port of the node."""
    before, _, target = port.rpartition(":")
    return {"target": int(target), "published": before.partition("}:")[2], "mode": "host"}


def _deploy(name: str, one: dict[str, Any]) -> dict[str, Any]:
    deploy: dict[str, Any] = {"placement": {"constraints": [DATABASE_PLACE if name == "postgres" else PLACE]}}
    if name in JOBS:
        deploy |= {
            "mode": "replicated-job",
            "restart_policy": {"condition": "on-failure", "delay": "5s", "max_attempts": 3},
        }
    else:
        deploy |= {"restart_policy": {"condition": "any", "delay": "2s"}}
    if name == "gateway":
        # nginx asks for all addresses and tries the next one, which a virtual IP would hide from it.
        deploy |= {"endpoint_mode": "dnsrr", "replicas": "${GATEWAY_REPLICAS:-3}"}
        deploy |= {"update_config": _ONE_BY_ONE, "rollback_config": _only(_ONE_BY_ONE, "parallelism", "order")}
    resources: dict[str, Any] = {}
    if "pids_limit" in one:
        resources["limits"] = {"pids": one["pids_limit"]}
    if _cards(one) and name != "plan":
        resources["reservations"] = {"generic_resources": [{"discrete_resource_spec": {"kind": "gpu", "value": 1}}]}
    return deploy | ({"resources": resources} if resources else {})


def _cards(one: dict[str, Any]) -> bool:
    return bool(one.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices"))


def _only(table: dict[str, Any] | None, *names: str) -> dict[str, Any]:
    return {name: table[name] for name in names if name in table} if table else {}


def main() -> None:
    """Writes the stack to standard output."""
    parser = argparse.ArgumentParser(description="A stack for Docker Swarm, made of the compose files.")
    parser.add_argument("--cpu", action="store_true", help="with docker-compose.cpu.yml: llama.cpp, no card")
    made = stack(CPU_FILES if parser.parse_args().cpu else FILES)
    sys.stdout.write(HEAD + yaml.safe_dump(made, sort_keys=False, width=110, allow_unicode=True))


if __name__ == "__main__":
    main()
