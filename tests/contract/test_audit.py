"""`make audit` against a database of the tests (in OSV's protocol): what it passes and what it fails."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.scripted import Answer, Asked, ScriptedServer, scripted_server

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not here: make setup-dev"),
]
ROOT = Path(__file__).resolve().parents[2]
HASH = "    --hash=sha256:" + "0" * 64
LOCK = f"""good==1.0 ; sys_platform == 'win32' \\
{HASH}
    # via app
two-versions==1.0 ; python_full_version < '3.12' \\
{HASH}
two-versions==2.0 ; python_full_version >= '3.12' \\
{HASH}
"""
CLOSE = {"Connection": "close"}  # as the server does after each answer; without the word a client may try once more
BAD = {"id": "PYSEC-1", "affected": [{"package": {"name": "good", "ecosystem": "PyPI"}, "versions": ["1.0"]}]}


@pytest.fixture
def database() -> Iterator[ScriptedServer]:
    with scripted_server(lambda asked: Answer(body=b"{}", headers=CLOSE)) as server:
        yield server


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "some.lock"
    path.write_text(LOCK)
    return path


def audit(url: str, *locks: Path) -> subprocess.CompletedProcess[str]:
    own = {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url, "no_proxy": "127.0.0.1"}
    command = ["bash", "scripts/audit.sh", *map(str, locks)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, timeout=100, check=False
    )


def test_every_version_for_every_system_is_asked_about_once(database: ScriptedServer, lock: Path) -> None:
    done = audit(database.url, lock, lock)
    assert (done.returncode, done.stdout) == (0, "audit: 3 packages looked at, none is known to be vulnerable\n")
    asked = sorted((one.body["package"]["name"], one.body["version"]) for one in database.asked)
    assert asked == [("good", "1.0"), ("two-versions", "1.0"), ("two-versions", "2.0")]


def test_our_lock_files_are_asked_about_whole(database: ScriptedServer) -> None:
    locks = sorted(ROOT.glob("requirements*.lock"))
    pins = {pin for lock in locks for pin in re.findall(r"^[\w.-]+==[^ ]+", lock.read_text(), re.MULTILINE)}
    done = audit(database.url, *locks)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"audit: {len(pins)} packages looked at, none is known to be vulnerable\n"


def test_a_known_vulnerability_is_named_and_fails(database: ScriptedServer, lock: Path) -> None:
    def answer(asked: Asked) -> Answer:
        told = {"vulns": [BAD]} if asked.body["package"]["name"] == "good" else {}
        return Answer(body=json.dumps(told).encode(), headers=CLOSE)

    database.answer = answer
    done = audit(database.url, lock)
    assert done.returncode == 1
    assert "audit: good 1.0: PYSEC-1, mended in no version" in done.stderr
    assert done.stderr.endswith("audit: 1 of 3 packages are known to be vulnerable.\n")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_database_that_refuses_is_no_pass(database: ScriptedServer, lock: Path, status: int) -> None:
    database.answer = lambda asked: Answer(status=status, body=b"{}")
    _says_so(audit(database.url, lock))


def test_nobody_to_ask_is_one_sentence_and_no_pass(lock: Path) -> None:
    _says_so(audit("http://127.0.0.1:9", lock))


def test_a_package_that_is_skipped_is_no_pass(database: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "unpinned.lock").write_text(LOCK.replace("good==1.0", "good>=1.0"))
    done = audit(database.url, tmp_path / "unpinned.lock")
    assert done.returncode == 2
    assert "looked at" in done.stderr


def test_a_version_that_pypi_does_not_have_is_not_called_a_network_failure(lock: Path, tmp_path: Path) -> None:
    """The words are pip-audit's (its _service/pypi.py and _cli.py); its address of PyPI cannot be changed."""
    words = "ERROR:pip_audit._cli:good: Dependency not found on PyPI and could not be audited: good (1.0)"
    (tmp_path / "pip_audit.py").write_text(f"import sys\nsys.exit({words!r})\n")
    done = subprocess.run(
        ["bash", "scripts/audit.sh", str(lock)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "good (1.0) is not on https://pypi.org" in done.stderr
    assert "can be reached" not in done.stderr


def _says_so(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"audit: nothing was looked at \(.+\)\. Run it where https://pypi\.org can be reached\.\n", done.stderr
    )
