"""The part of `make release` that needs an engine: images with the version, what is in them, and their list.

Most layers are those that the other tests have built: the version is a label, and labels come last.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway import VERSION
from scripts.release import IMAGES, make_images
from tests.containers.compose_stack import ROOT, TAG, docker, require_docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]
RELEASE = f"{TAG}-release"


def test_images_are_labelled_listed_and_looked_into(tmp_path: Path) -> None:
    require_docker()
    said: list[str] = []
    try:
        make_images(ROOT, tmp_path, VERSION, RELEASE, said.append)
        listed = [line.split("  ") for line in (tmp_path / "images.txt").read_text().splitlines()]
        assert [name for _, name in listed] == [f"internlm-stack/{target}:{RELEASE}" for target in IMAGES]
        for digest, name in listed:
            assert docker("image", "inspect", "--format", "{{.Id}}", name).strip() == digest
    finally:
        docker("rmi", "-f", *(f"internlm-stack/{target}:{RELEASE}" for target in IMAGES), check=False)
    for target in IMAGES:
        document = json.loads((tmp_path / f"{target}.cdx.json").read_text())
        assert document["metadata"]["component"]["version"] == VERSION
        assert len(document["components"]) > 20
    assert len(said) == 2
