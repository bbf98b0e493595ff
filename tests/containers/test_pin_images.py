"""`make pin-images` against a registry of the tests: digests into .env, where docker compose reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.compose_stack import ROOT, require_docker
from tests.fakes.registry import Registry, registry

pytestmark = [pytest.mark.containers]
COMPOSE = """
services:
  inference: {image: "${TGI_IMAGE:-ADDRESS/huggingface/text-generation-inference:3.3.5}"}
  redis: {image: "${REDIS_IMAGE:-ADDRESS/library/redis:7-bookworm}"}
"""


@pytest.fixture
def shop() -> Iterator[Registry]:
    require_docker()
    with registry() as found:
        found.add("huggingface/text-generation-inference", "3.3.5")
        found.add("library/redis", "7-bookworm")
        yield found


@pytest.fixture
def checkout(shop: Registry, tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "pin_images.sh", tmp_path / "scripts")
    (tmp_path / "docker-compose.yml").write_text(COMPOSE.replace("ADDRESS", shop.address))
    return tmp_path


def pin(checkout: Path, *names: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(checkout / "scripts" / "pin_images.sh"), *names]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False, env={**os.environ, **environ}
    )


def test_digests_stand_in_env_and_compose_takes_them(checkout: Path, shop: Registry) -> None:
    (checkout / ".env").write_text("# mine\nMODEL=internlm2-chat-7b")
    done = pin(checkout)
    assert done.returncode == 0, done.stderr
    tgi = f"{shop.address}/huggingface/text-generation-inference:3.3.5@"
    tgi += shop.add("huggingface/text-generation-inference", "3.3.5")
    lines = (checkout / ".env").read_text().splitlines()
    assert lines[:2] == ["# mine", "MODEL=internlm2-chat-7b"]
    assert f"TGI_IMAGE={tgi}" in lines
    assert len(lines) == 4
    command = ["docker", "compose", "config", "--images"]
    shown = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    assert tgi in shown.stdout.split()


def test_a_second_run_takes_the_tags_newer_digest(checkout: Path, shop: Registry) -> None:
    assert pin(checkout).returncode == 0
    newer = shop.add("library/redis", "7-bookworm", "newer")
    assert pin(checkout, "REDIS_IMAGE").returncode == 0
    lines = (checkout / ".env").read_text().splitlines()
    assert lines.count(f"REDIS_IMAGE={shop.address}/library/redis:7-bookworm@{newer}") == 1
    assert len(lines) == 2


def test_a_mirror_that_was_chosen_is_what_gets_pinned(checkout: Path, shop: Registry) -> None:
    digest = shop.add("mirror/tgi", "3.3.5")
    (checkout / ".env").write_text(f"TGI_IMAGE={shop.address}/mirror/tgi:3.3.5\n")
    assert pin(checkout, "TGI_IMAGE").returncode == 0
    assert (checkout / ".env").read_text() == f"TGI_IMAGE={shop.address}/mirror/tgi:3.3.5@{digest}\n"


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_registry_that_refuses_is_one_sentence_and_nothing_is_half_written(
    checkout: Path, shop: Registry, status: int
) -> None:
    (checkout / ".env").write_text("MODEL=internlm2-chat-7b\n")
    shop.status = status
    _says_so(pin(checkout), checkout)


def test_one_image_that_is_not_there_keeps_all_from_being_written(checkout: Path, shop: Registry) -> None:
    (checkout / ".env").write_text("MODEL=internlm2-chat-7b\n")
    shop.manifests.pop(("huggingface/text-generation-inference", "3.3.5"))
    _says_so(pin(checkout), checkout)


def test_a_registry_that_cannot_be_reached_is_one_sentence(checkout: Path) -> None:
    (checkout / ".env").write_text("MODEL=internlm2-chat-7b\n")
    _says_so(pin(checkout, "TGI_IMAGE", TGI_IMAGE="127.0.0.1:9/tgi:1"), checkout)


def test_a_name_that_no_file_has_is_told(checkout: Path) -> None:
    done = pin(checkout, "NO_IMAGE")
    assert done.returncode == 1
    assert "NO_IMAGE is no image of the compose files. They have:" in done.stderr


def _says_so(done: subprocess.CompletedProcess[str], checkout: Path) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("pin-images: the registry of 127.0.0.1:")
    assert "gave no digest" in done.stderr
    assert "Nothing was written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (checkout / ".env").read_text() == "MODEL=internlm2-chat-7b\n"
    assert sorted(path.name for path in checkout.iterdir()) == [".env", "docker-compose.yml", "scripts"]
