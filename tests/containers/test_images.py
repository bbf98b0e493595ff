"""The four images of Dockerfile.app from outside: rights, tools, labels, secrets in layers, two builds alike.

They are built from a copy of the checkout in which secrets lie where people have them: none of those may get in.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from gateway import VERSION
from scripts.sbom import bill_of, normal
from tests.containers.compose_stack import ROOT, TAG, docker, require_docker
from tests.unit.test_docs import committed

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]
TARGETS = ("gateway", "webui", "cpu", "app")
PORTS = {"gateway": "8000/tcp", "webui": "7860/tcp", "cpu": "8080/tcp", "app": "7860/tcp"}
LARGEST_MB = {"gateway": 300, "webui": 460, "cpu": 560, "app": 850}  # of contents; the base image's 150 included
LABEL = f"org.opencontainers.image.version={VERSION}"  # as `make images` writes it
CANARY = "canary-7f1c0d9e5b"
SECRETS = (".env", "data/admin.key", "data/gateway.sqlite3", "models/mine/model.safetensors", "hf.token", ".git/config")
IN_PACKAGES = ("gateway/.env", "inference/admin.key", "webui/.git/config", "gateway/__pycache__/old.pyc")
TOOLS = r"/s?bin/(gcc|cc|g\+\+|c\+\+|clang|ld|as|make|cmake|cargo|pip3?(\.\d+)?|uv|npm)$"
MAY_BE_WRITTEN = {"/tmp", "/var/tmp", "/run/lock"}


def image(target: str) -> str:
    return f"internlm-stack-tests/images-{target}:{TAG}"


def build(context: Path, target: str, tag: str, *more: str) -> None:
    file = str(context / "Dockerfile.app")
    docker("build", "-q", "-f", file, "--label", LABEL, "--target", target, "-t", tag, *more, str(context))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, with secrets in it as people have them."""
    require_docker()
    folder = tmp_path_factory.mktemp("checkout")
    for path in committed():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in (*SECRETS, *IN_PACKAGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{CANARY}\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def images(checkout: Path) -> Iterator[None]:
    for target in TARGETS:
        build(checkout, target, image(target))
    yield
    docker("rmi", "-f", *map(image, TARGETS), check=False)
    files.cache_clear()


@dataclass(frozen=True)
class Entry:
    mode: int
    kind: str
    size: int
    digest: str
    target: str


@contextlib.contextmanager
def container(tag: str) -> Iterator[str]:
    """Made and not started."""
    name = docker("create", "--network", "none", tag).strip()
    try:
        yield name
    finally:
        docker("rm", "-fv", name)


@cache
def files(tag: str) -> dict[str, Entry]:
    """Everything in an image, by its path."""
    with container(tag) as name, subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as export:
        assert export.stdout is not None
        with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
            return {f"/{one.name.rstrip('/')}": _entry(archive, one) for one in archive}


def _entry(archive: tarfile.TarFile, one: tarfile.TarInfo) -> Entry:
    content = archive.extractfile(one) if one.isreg() else None
    digest = "" if content is None else hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    kind = "file" if one.isreg() or one.islnk() else "folder" if one.isdir() else "link" if one.issym() else "other"
    return Entry(one.mode, kind, one.size, digest, one.linkname)


def told(tag: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", tag))[0]
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_labelled_and_says_how_it_is(target: str) -> None:
    config = told(image(target))["Config"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert (labels["title"], labels["licenses"]) == (f"internlm-stack {target}", "Apache-2.0")
    assert labels["version"] == VERSION
    assert config["Labels"]["org.opencontainers.image.base.name"] == "python:3.11-slim-bookworm"
    assert config["Entrypoint"] is None
    assert list(config["ExposedPorts"]) == [PORTS[target]]
    health = config["Healthcheck"]
    assert health["Test"][:2] == ["CMD", "bash"]  # no interpreter is started for it
    assert health["Interval"] >= 10e9
    assert health["StartInterval"] <= 2e9


@pytest.mark.parametrize("target", TARGETS)
def test_its_user_has_no_rights_and_can_get_none(target: str) -> None:
    config = told(image(target))["Config"]
    assert config["User"] == "1000:1000"
    found = files(image(target))
    assert [path for path, one in found.items() if one.kind == "file" and one.mode & 0o6000] == []
    writable = {path for path, one in found.items() if one.kind in ("file", "folder") and one.mode & 0o002}
    assert writable <= MAY_BE_WRITTEN
    assert all(found[path].mode & 0o1000 for path in writable), "others' files can be removed there"


@pytest.mark.parametrize("target", TARGETS)
def test_it_has_no_build_tools_and_is_small(target: str) -> None:
    found = files(image(target))
    tools = {path for path, one in found.items() if re.search(TOOLS, path) and one.kind != "folder"}
    assert {path for path in tools if not path.startswith("/opt/venv/bin/pip")} == set()
    has_pip = any(path.startswith("/opt/venv/lib/python3.11/site-packages/pip/") for path in found)
    assert has_pip == (target in ("cpu", "app")), "only inference needs it: it fetches models' wheels"
    assert sum(one.size for one in found.values()) / 1e6 < LARGEST_MB[target]
    assert not [path for path in found if re.match(r"/opt/venv/.*/tests/", path)]


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_with_nothing_to_write_and_no_capabilities(target: str) -> None:
    rights = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    module = {"gateway": "gateway", "webui": "webui", "cpu": "inference", "app": "app"}[target]
    look = f"import {module}, os; print(os.getuid(), 'CapEff:\\t' + 16 * '0' in open('/proc/self/status').read())"
    assert docker("run", "--rm", *rights, image(target), "python", "-c", look).strip() == "1000 True"


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_is_in_any_layer_or_in_its_history(target: str) -> None:
    """Deleted files of lower layers, too: each layer is read on its own."""
    seen = 0
    with subprocess.Popen(["docker", "save", image(target)], stdout=subprocess.PIPE) as save:
        assert save.stdout is not None
        with tarfile.open(fileobj=save.stdout, mode="r|") as archive:
            for one in archive:
                content = archive.extractfile(one)
                if content is None:
                    continue
                raw = content.read()
                if raw[:1] in (b"{", b"["):  # the manifest, and the configuration with environment and history
                    _has_no_secret(one.name, raw)
                else:
                    with contextlib.suppress(tarfile.ReadError):
                        seen += _look_through_layer(io.BytesIO(raw))
    assert seen > 5000


def _look_through_layer(layer: BinaryIO) -> int:
    count = 0
    with tarfile.open(fileobj=layer) as archive:
        for one in archive:
            count += 1
            assert not re.search(r"(^|/)(\.env|\.git|[\w-]+\.(key|sqlite3|safetensors|gguf))(/|$)", one.name), one.name
            assert not re.match(r"(app/(data|models|tests|docs|\.)|data/|models/|src/|wheels)", one.name), one.name
            if one.isreg() and (one.name.startswith("app/") or one.size < 200_000):
                content = archive.extractfile(one)
                assert content is not None
                _has_no_secret(one.name, content.read())
    return count


def _has_no_secret(name: str, content: bytes) -> None:
    assert CANARY.encode() not in content, name
    for form in (rb"sk-[A-Za-z0-9_-]{40}", rb"\bhf_[A-Za-z0-9]{34}\b", rb"\bghp_[A-Za-z0-9]{36}\b"):
        assert not re.search(form, content), (name, form)


@pytest.mark.parametrize("target", TARGETS)
def test_its_bill_of_materials_lists_exactly_its_packages(target: str) -> None:
    listed = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    has = set(docker("run", "--rm", "--network", "none", image(target), "python", "-c", listed).split())
    document = bill_of(image(target), target)
    components = document["components"]
    assert {f"{one['name']}=={one['version']}" for one in components} == has
    locked = (ROOT / "requirements.lock").read_text()
    for one in components:
        entry = re.search(rf"^{re.escape(normal(one['name']))}==.*?(?=^\S|\Z)", locked, re.DOTALL | re.MULTILINE)
        assert entry is not None, one["name"]
        assert f"sha256:{one['hashes'][0]['content']}" in entry[0]
    without = [one["name"] for one in components if not one.get("licenses")]
    assert without == []
    assert document["metadata"]["component"]["name"] == f"internlm-stack/{target}"


def test_a_build_without_a_network_gives_the_same_files(checkout: Path, tmp_path: Path) -> None:
    """From a folder of wheels, with no step taken from the cache: the packages and our code, byte for byte."""
    wheels, tag = tmp_path / "wheelhouse", f"internlm-stack-tests/images-offline:{TAG}"
    words = ("--target", "wheels", "--output", f"type=local,dest={wheels}")
    docker("build", "-q", "-f", str(checkout / "Dockerfile.app"), *words, str(checkout))
    assert len(list(wheels.glob("*.whl"))) > 50
    offline = ("--no-cache", "--network", "none", "--build-context", f"wheelhouse={wheels}")
    build(checkout, "app", tag, *offline, "--build-arg", "SYSTEM_PACKAGES=")
    try:
        ours = {path: one for path, one in files(image("app")).items() if re.match(r"/(app|opt/venv)(/|$)", path)}
        theirs = {path: one for path, one in files(tag).items() if re.match(r"/(app|opt/venv)(/|$)", path)}
    finally:
        docker("rmi", "-f", tag, check=False)
    differ = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
    assert sorted(differ)[:20] == []
    assert len(ours) > 5000
