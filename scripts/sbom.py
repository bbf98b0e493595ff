"""What is in our images, in CycloneDX's form: `python scripts/sbom.py TAG TARGET…` writes build/sbom/TARGET.cdx.json.

`cyclonedx-py` reads the packages that lie in the image (name, version, licence, what needs what); the SHA-256 of the
wheel that each came from stands in the image (`/opt/venv/wheels.sha256`, written where Dockerfile.app has compared them
with requirements.lock). Nothing of the image is run. Debian's packages of the base image are not listed: `dpkg -l` is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HASHES = "wheels.sha256"


def main(words: list[str]) -> int:
    if len(words) < 2:
        print("usage: scripts/sbom.py TAG TARGET…", file=sys.stderr)
        return 2
    folder = ROOT / "build" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for target in words[1:]:
        try:
            document = bill_of(f"internlm-stack/{target}:{words[0]}", target)
        except subprocess.CalledProcessError as failed:
            cause = (failed.stderr or "").strip().splitlines()[-1:]
            print(f"sbom: {target}: {' '.join(cause) or failed}. Build the image first: make images.", file=sys.stderr)
            return 1
        path = folder / f"{target}.cdx.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(document['components'])} packages")
    return 0


def bill_of(image: str, target: str) -> dict[str, Any]:
    """The document. Raises subprocess.CalledProcessError when there is no such image, or KeyError for a package whose
    wheel is not known."""
    labels = json.loads(_run("docker", "image", "inspect", "--format", "{{json .Config.Labels}}", image))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        container = _run("docker", "create", "--network", "none", image).strip()
        try:
            _run("docker", "cp", f"{container}:/opt/venv/lib", str(folder / "lib"))
            _run("docker", "cp", f"{container}:/opt/venv/{HASHES}", str(folder / HASHES))
        finally:
            _run("docker", "rm", "-fv", container)
        document: dict[str, Any] = json.loads(_read(folder))
        hashes = wheel_hashes((folder / HASHES).read_text())
    for component in document["components"]:
        digest = hashes[normal(component["name"]), component["version"]]
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    document["metadata"]["component"] = {
        "type": "container",
        "bom-ref": target,
        "name": f"internlm-stack/{target}",
        "version": labels["org.opencontainers.image.version"],
        "licenses": [{"license": {"id": labels["org.opencontainers.image.licenses"]}}],
    }
    return document


def wheel_hashes(text: str) -> dict[tuple[str, str], str]:
    """From the lines of `sha256sum *.whl`: normal name and version to hash."""
    found = {}
    for line in text.splitlines():
        digest, _, file = line.partition("  ")
        name, version = Path(file).name.split("-")[:2]
        found[normal(name), version] = digest
    return found


def normal(name: str) -> str:
    """A project's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(folder: Path) -> str:
    """cyclonedx-py asks an interpreter where its packages are: this one answers with the folder from the image."""
    (packages,) = folder.glob("lib/python3.*/site-packages")
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps([str(packages)])}'\n")
    python.chmod(0o755)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--gather-license-texts", "--sv", "1.6"]
    return _run(*command, "--output-reproducible", "--of", "JSON", "-o", "-", str(python))


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
