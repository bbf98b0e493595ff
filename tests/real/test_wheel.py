"""The wheel as `make wheel` makes it: built from the last commit, installed by hash into a venv of its own, and tried.

It fetches the packages of requirements.lock, as `make setup` does.
"""

from __future__ import annotations

import email
import re
import zipfile
from pathlib import Path

import pytest

from gateway import VERSION
from scripts.release import MODULES, PACKAGES, release
from tests.unit.test_docs import HAS_GIT

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HAS_GIT:
        pytest.skip("no clone here: the wheel is built from a commit")
    folder = tmp_path_factory.mktemp("release") / "dist"
    said: list[str] = []
    release(ROOT, folder, with_images=False, say=said.append)
    assert said[-2] == "release: its commands run there"
    return folder


@pytest.fixture(scope="module")
def names(dist: Path) -> set[str]:
    (wheel,) = dist.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_it_has_its_checksum_and_lock_file_beside_it(dist: Path) -> None:
    assert sorted(path.name for path in dist.iterdir()) == [
        "SHA256SUMS",
        f"internlm_stack-{VERSION}-py3-none-any.whl",
        "requirements.lock",
    ]


def test_it_has_the_files_that_are_no_python(names: set[str]) -> None:
    wanted = ("inference/models.toml", "inference/sources/askpass.sh", "gateway/limits.lua", "gateway/slots.lua")
    pages = ("webui/page.js", "webui/page.css", "webui/chat.js", "webui/sidebar.js", "webui/entrance.css")
    assert {*wanted, *pages, "gateway/migrations/env.py"} <= names
    assert any(re.match(r"gateway/migrations/versions/0001\w*\.py", name) for name in names)


def test_it_has_nothing_else(names: set[str]) -> None:
    known = {*PACKAGES, *MODULES, f"internlm_stack-{VERSION}.dist-info"}
    assert {name.partition("/")[0] for name in names} == known
    assert not [name for name in names if re.search(r"(^|/)(tests?|data|models|__pycache__)/|\.pyc$|\.key$", name)]


def test_its_extras_are_the_groups(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        told = email.message_from_bytes(archive.read(f"internlm_stack-{VERSION}.dist-info/METADATA"))
    assert told["Version"] == VERSION
    assert told.get_all("Provides-Extra") == ["app", "gateway", "inference", "lmdeploy", "webui"]
    assert any(
        line.startswith("gradio") and line.endswith("extra == 'webui'") for line in told.get_all("Requires-Dist")
    )
