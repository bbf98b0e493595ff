"""The version stands in gateway/__init__.py, and everything that tells it tells that one."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from gateway import VERSION
from gateway.__main__ import main
from tests.unit.test_docs import committed

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
THE_PLACE = "gateway/__init__.py"
HISTORY = {"CHANGELOG.md", "docs/upgrading.md", "docs/upgrading.zh-CN.md"}  # they tell of every version
MADE = {"docs/openapi.json"}  # `make openapi` writes it, and a test compares it with the app
OTHERS_VERSIONS = re.compile(r"(^|/)(requirements.*|package(-lock)?\.json)$")


def test_no_other_place_states_the_version() -> None:
    version = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    places = set()
    for path in committed():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("tests/") or name in HISTORY | MADE or OTHERS_VERSIONS.search(name):
            continue
        if version.search(path.read_bytes().decode(errors="ignore")):
            places.add(name)
    assert places == {THE_PLACE}, "say it there only, and read it from there"


def test_the_wheel_reads_it_there() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in told["project"]
    assert "version" in told["project"]["dynamic"]
    assert told["tool"]["hatch"]["version"]["path"] == THE_PLACE


def test_the_command_line_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{VERSION}\n"


def test_the_openapi_document_tells_it() -> None:
    assert json.loads((ROOT / "docs" / "openapi.json").read_text())["info"]["version"] == VERSION


def test_the_images_are_labelled_with_it() -> None:
    command = ["make", "-n", "images"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert f"--label org.opencontainers.image.version={VERSION} " in done.stdout
    assert "image.version" not in (ROOT / "Dockerfile.app").read_text()


def test_every_version_after_the_first_has_its_upgrade_notes_in_both_languages() -> None:
    changed = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[:-1]
    for name, unreleased in (("upgrading.md", "Unreleased"), ("upgrading.zh-CN.md", "未发布")):
        told = re.findall(r"^## (.+)$", (ROOT / "docs" / name).read_text(), re.MULTILINE)
        assert [unreleased if one == "Unreleased" else one for one in changed] == told, (
            f"docs/{name}: a section for each"
        )
