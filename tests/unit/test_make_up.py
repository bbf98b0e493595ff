"""`make up` and its like over a docker that only writes down what it was asked: files, refusals, what is said."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
TOOLS = "bash sh dirname sed sort uniq tr tail head grep xargs date git"
BASE = "docker-compose.yml"
CPU = f"{BASE} docker-compose.cpu.yml"
SCALED = f"{CPU} docker-compose.scale.yml"
DOCKER = """#!/usr/bin/env bash
echo "$*" >>asked
case "$*" in
  *" ps --format "*) [ -z "$RUNNING" ] || printf 'webui 1\\nnginx 2\\ngateway 3\\n' ;;
  inspect*) for one in $RUNNING; do printf '%s,' "$PWD/$one"; done | sed 's/,$/\\n/' ;;
  *" up "*) exit "${UP:-0}" ;;
  *" logs "*) echo "gateway-1 | why" ;;
  *" port nginx 8000") [[ "$RUNNING" == *scale* ]] && echo 127.0.0.1:8001 ;;
  *" port gateway 8000") echo 127.0.0.1:8000 ;;
  *" port webui 7860") echo 0.0.0.0:7860 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and its script, and a PATH with a docker of the test and no card."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "up.sh", tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    for tool in TOOLS.split():
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make(checkout: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("make") or "make", *words],
        cwd=checkout,
        env={"PATH": str(checkout / "bin"), "HOME": str(checkout), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def asked(checkout: Path, word: str) -> list[str]:
    """What docker was asked with that word in it."""
    path = checkout / "asked"
    return [line for line in path.read_text().splitlines() if word in line.split()] if path.exists() else []


def as_options(files: str) -> str:
    return "-f " + " -f ".join(files.split())


def test_up_names_the_files_of_the_machine(checkout: Path) -> None:
    done = make(checkout, "up", "SCALE=2", "OBSERVE=1")
    assert done.returncode == 0, done.stderr
    begun = f"compose {as_options(SCALED)} --profile observability up -d --build --wait --scale gateway=2"
    assert asked(checkout, "up") == [begun]


@pytest.mark.parametrize("quote", ["", '"'])
def test_files_in_the_settings_file_are_left_to_docker_compose(checkout: Path, quote: str) -> None:
    (checkout / ".env").write_text(f"COMPOSE_FILE={quote}{SCALED.replace(' ', ':')}{quote}\n")
    done = make(checkout, "up", RUNNING=SCALED)
    assert done.returncode == 0, done.stderr
    assert asked(checkout, "up") == ["compose up -d --build --wait"]


def test_files_in_the_environment_count_for_every_target(checkout: Path) -> None:
    make(checkout, "down", COMPOSE_FILE=BASE)
    make(checkout, "stop", COMPOSE_FILE=BASE)
    assert [line for line in (checkout / "asked").read_text().splitlines() if "-f" in line.split()] == []


def test_a_scaled_stack_is_not_taken_apart_by_up_without_scale(checkout: Path) -> None:
    done = make(checkout, "up", RUNNING=SCALED)
    assert done.returncode != 0
    assert "`make up SCALE=3`" in done.stderr
    assert "`make down`" in done.stderr
    assert SCALED in done.stderr
    assert asked(checkout, "up") == []


def test_one_gateway_does_not_become_several_while_it_runs(checkout: Path) -> None:
    done = make(checkout, "up", "SCALE=3", RUNNING=CPU)
    assert done.returncode != 0
    assert "Go on with `make up`," in done.stderr
    other = make(checkout, "up", RUNNING=BASE)
    assert f'`make up COMPOSE_FILES="-f {BASE}"`' in other.stderr
    assert asked(checkout, "up") == []


def test_the_same_files_again_are_no_reason_to_refuse(checkout: Path) -> None:
    assert make(checkout, "up", RUNNING=CPU).returncode == 0
    assert make(checkout, "up", "SCALE=5", RUNNING=SCALED).returncode == 0
    assert len(asked(checkout, "up")) == 2


def test_scale_says_what_is_missing_in_compose_file(checkout: Path) -> None:
    done = make(checkout, "up", "SCALE=3", COMPOSE_FILE=BASE)
    assert "docker-compose.scale.yml" in done.stderr
    assert not asked(checkout, "up")


def test_up_ends_with_the_addresses_and_where_the_key_is(checkout: Path) -> None:
    *_, page, api = make(checkout, "up", RUNNING=CPU).stdout.splitlines()
    assert page == "web UI: http://127.0.0.1:7860"
    assert api == "API:    http://127.0.0.1:8000, its key: docker compose exec gateway cat /data/admin.key"
    assert "http://127.0.0.1:8001," in make(checkout, "up", "SCALE=3", RUNNING=SCALED).stdout


def test_up_that_fails_shows_the_last_words_and_fails(checkout: Path) -> None:
    done = make(checkout, "up", UP="7")
    assert done.returncode != 0
    assert "gateway-1 | why" in done.stderr
    assert asked(checkout, "logs") == [f"compose {as_options(CPU)} logs --tail 5 plan prepare gateway"]
    assert "docs/troubleshooting.md" in done.stderr
    assert "web UI:" not in done.stdout


def test_purge_removes_nothing_without_a_yes(checkout: Path) -> None:
    assert make(checkout, "purge").returncode != 0
    assert asked(checkout, "down") == []


def test_the_tag_of_the_settings_file_is_the_tag_of_the_images(checkout: Path) -> None:
    (checkout / ".env").write_text('TAG="1.2"\nPIP_INDEX_URL=https://mirror/simple\n')
    make(checkout, "images")
    built = asked(checkout, "build")
    assert len(built) == 4
    assert all(":1.2 ." in line and "PIP_INDEX_URL=https://mirror/simple" in line for line in built)
    make(checkout, "images", TAG="mine")
    assert all(":mine ." in line for line in asked(checkout, "build")[4:])
