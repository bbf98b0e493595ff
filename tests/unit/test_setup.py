"""scripts/setup.sh on machines that lack something: one sentence that says what to do, and no half-made environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "cat", "cut", "sha256sum", "grep", "df", "awk", "rm", "echo")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout with nothing but the script and a lock file, and a PATH with nothing but the basic tools."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "requirements.lock").write_text("absent-package==1.0 --hash=sha256:" + "0" * 64 + "\n")
    (tmp_path / "requirements-dev.lock").write_text("another==1.0\n")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def add_python(machine: Path, body: str) -> None:
    script = machine / "bin" / "python3"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


def set_up(machine: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "scripts/setup.sh", "requirements.lock"],
        cwd=machine,
        env={"PATH": str(machine / "bin"), "HOME": str(machine), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_python_names_the_package_to_install(machine: Path) -> None:
    done = set_up(machine)
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr


def test_an_old_python_names_the_version_and_a_way_out(machine: Path) -> None:
    add_python(machine, 'case "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac')
    done = set_up(machine)
    assert done.returncode == 1
    assert "Python 3.9.2 is too old" in done.stderr
    assert "PYTHON=" in done.stderr


def test_a_missing_venv_module_names_its_package(machine: Path) -> None:
    add_python(machine, 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    done = set_up(machine)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_too_little_disk_is_refused_before_anything_is_made(machine: Path) -> None:
    add_python(machine, "exit 0")
    (machine / "bin" / "df").unlink()
    df = machine / "bin" / "df"
    df.write_text("#!/bin/sh\necho Filesystem 1M-blocks Used Available\necho /dev/x 1000 990 10 99% /\n")
    df.chmod(0o755)
    done = set_up(machine)
    assert done.returncode == 1
    assert "10 MB are left" in done.stderr
    assert not (machine / ".venv").exists()


def test_no_network_names_a_mirror_and_a_second_run_tries_again(machine: Path) -> None:
    add_python(machine, f'exec {Path(sys.base_prefix) / "bin" / "python3"} "$@"')
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    done = set_up(machine, **nowhere, SETUP_SKIP_DISK_CHECK="1")
    assert done.returncode == 1
    assert "PIP_INDEX_URL=" in done.stderr
    assert not (machine / ".venv" / "installed").exists()
    assert set_up(machine, **nowhere, SETUP_SKIP_DISK_CHECK="1").returncode == 1
