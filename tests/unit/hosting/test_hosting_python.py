"""A newer Python found or made: with stand-ins for Python, conda and uv, and an empty file system around them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosting.errors import CannotStart
from hosting.interpreters import ask, best_interpreter
from hosting.making import LOCK, make_environment, ready_environment, stamp_of

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[3]
OLD_PYTHON_FILES = [ROOT / "app.py", *sorted((ROOT / "hosting").glob("*.py"))]


class Machine:
    """A file system of its own, a PATH with nothing but a shell's tools, a checkout with a lock file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = folder / "system"
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        for path in (self.system, self.root, self.bin, folder / "home"):
            path.mkdir()
        (self.root / LOCK).write_text("one==1.0 \\\n    --hash=sha256:00\ntwo==2.0\n")
        self.environ = {
            "PATH": str(self.bin),
            "HOME": str(folder / "home"),
            "SETUP_SKIP_DISK_CHECK": "1",
            "LOG": str(folder / "log"),
        }
        self.told: list[str] = []

    @property
    def runtime(self) -> Path:
        return self.root / ".runtime"

    def program(self, path: Path, body: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = "$0 $* path:$PYTHONPATH home:$PYTHONHOME target:$PIP_TARGET"
        path.write_text(f'#!/bin/sh\n[ -z "$LOG" ] || echo "{told}" >>"$LOG"\n{body}\n')
        path.chmod(0o755)
        return path

    def python(self, path: Path, version: str, *, venv: str = "venv") -> Path:
        """A stand-in that answers what it is asked, makes venvs of itself, and installs anything."""
        return self.program(
            path,
            f'case "$*" in\n'
            f'*sys.version_info*) echo "{version} cpython 8 {venv} $0";;\n'
            f'*"-m venv"*) for last; do :; done; /bin/mkdir -p "$last/lib/python{version}/site-packages/pip";'
            f' /bin/mkdir -p "$last/bin"; /bin/cp "$0" "$last/bin/python";;\n'
            f'*"pip install"*) [ -z "$BROKEN" ] || {{ echo "ERROR: no network"; exit 1; }};'
            f" echo Collecting one; echo Collecting two; echo Installing collected packages: one, two;;\n"
            f"esac",
        )

    def make(self) -> str:
        def tell(stage: str, done: int, total: int) -> None:
            self.told.append(f"{stage} {done}/{total}")

        return make_environment(self.root, self.places(), self.environ, tell, self.system)

    def places(self) -> Iterator[Path]:
        yield self.runtime
        yield self.folder / "home" / ".cache" / "internlm-stack" / "runtime"

    def log(self) -> str:
        return (self.folder / "log").read_text() if (self.folder / "log").exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("file", OLD_PYTHON_FILES, ids=lambda file: file.name)
def test_python_3_9_can_parse_it(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 9))


def test_the_running_python_says_what_it_is() -> None:
    found = ask(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:2]
    assert found.can_make_venv
    assert ask("/bin/true") is None
    assert ask("/nonexistent") is None


@pytest.mark.parametrize(
    "place",
    [
        "usr/bin/python3.12",
        "opt/conda/bin/python3.11",
        "opt/conda/envs/mine/bin/python3.13",
        "home/xlab-app-center/.conda/envs/py311/bin/python3.11",
        "root/.pyenv/versions/3.11.7/bin/python3.11",
        "root/miniconda3/bin/python3.11",
    ],
)
def test_a_newer_python_is_found_where_people_and_platforms_put_it(place: str, machine: Machine) -> None:
    path = machine.python(machine.system / place, place[-4:])
    found = best_interpreter(machine.environ, machine.system)
    assert found is not None
    assert found.path == str(path)


def test_the_named_one_counts_first_then_one_with_venv(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11", venv="-")
    with_venv = machine.python(machine.system / "usr/bin/python3.12", "3.12")
    found = best_interpreter(machine.environ, machine.system)
    assert found is not None
    assert found.path == str(with_venv)
    named = machine.python(machine.folder / "mine" / "python3.13", "3.13")
    found = best_interpreter({**machine.environ, "PYTHON": str(named)}, machine.system)
    assert found is not None
    assert found.path == str(named)


def test_old_new_and_broken_ones_are_passed_over(machine: Machine) -> None:
    machine.python(machine.bin / "python3", "3.9")
    machine.python(machine.bin / "python", "3.15")
    machine.program(machine.bin / "python3.12", "exit 1")
    assert best_interpreter(machine.environ, machine.system) is None


def test_an_environment_is_made_with_progress_and_found_again(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    assert ready_environment(machine.root, machine.places(), machine.environ) is None
    made = machine.make()
    assert made == str(machine.runtime / "venv/bin/python")
    assert machine.told == ["python 0/0", "packages 0/2", "packages 1/2", "packages 2/2", "unpacking 0/0"]
    assert ready_environment(machine.root, machine.places(), machine.environ) == made
    (machine.root / LOCK).write_text("one==2.0\n")
    assert ready_environment(machine.root, machine.places(), machine.environ) is None


def test_an_engine_for_a_card_is_installed_beside_and_our_versions_stay(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    machine.make()
    machine.environ["APP_PACKAGES"] = "lmdeploy==0.18.0 torch==2.10.0"
    assert ready_environment(machine.root, machine.places(), machine.environ) is None
    made = machine.make()
    assert f"-c {machine.root}/requirements.txt lmdeploy==0.18.0 torch==2.10.0" in machine.log()
    assert ready_environment(machine.root, machine.places(), machine.environ) == made


def test_what_make_has_installed_in_the_checkout_is_taken(machine: Machine) -> None:
    python = machine.python(machine.root / ".venv/bin/python", "3.11")
    assert ready_environment(machine.root, machine.places(), machine.environ) is None
    (machine.root / ".venv/installed").write_text(stamp_of(machine.root / LOCK) + "\n")
    assert ready_environment(machine.root, machine.places(), machine.environ) == str(python)


def test_an_environment_that_others_may_change_is_not_taken(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    machine.make()
    machine.runtime.chmod(0o777)
    assert ready_environment(machine.root, machine.places(), machine.environ) is None


def test_a_failed_installation_is_told_and_goes_on_in_the_same_environment(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    machine.environ["BROKEN"] = "1"
    with pytest.raises(CannotStart, match=r"no network\n.*PIP_INDEX_URL"):
        machine.make()
    del machine.environ["BROKEN"]
    before = machine.log().count("-m venv")
    machine.make()
    assert machine.log().count("-m venv") == before == 1


def test_a_read_only_checkout_takes_the_cache_folder(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    machine.runtime.write_text("")  # nothing can be made there, by root neither
    assert machine.make() == str(machine.folder / "home/.cache/internlm-stack/runtime/venv/bin/python")


def test_a_full_disk_is_told_with_the_numbers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    del machine.environ["SETUP_SKIP_DISK_CHECK"]
    monkeypatch.setattr("hosting.making.NEEDED_MB", 10**9)
    with pytest.raises(CannotStart, match=r"MB free of 1000000000.*XDG_CACHE_HOME"):
        machine.make()


def test_conda_makes_one_where_the_machine_has_none(machine: Machine) -> None:
    template = machine.python(machine.folder / "template", "3.11")
    machine.program(
        machine.system / "opt/conda/bin/conda",
        f'while [ "$1" != --prefix ]; do shift; done; /bin/mkdir -p "$2/bin"; /bin/cp {template} "$2/bin/python3"',
    )
    assert machine.make() == str(machine.runtime / "venv/bin/python")
    assert "create --yes --quiet --prefix" in machine.log()
    assert "python=3.11" in machine.log()


def uv_that_serves(machine: Machine, when: str) -> None:
    template = machine.python(machine.folder / "template", "3.11")
    machine.program(
        machine.bin / "uv",
        f'echo "mirror:$UV_PYTHON_INSTALL_MIRROR" >>"$LOG"\n'
        f'{when} || {{ echo "error: cannot reach it"; exit 2; }}\n'
        'made="$UV_PYTHON_INSTALL_DIR/cpython-3.11-linux/bin"; /bin/mkdir -p "$made"; '
        f'/bin/cp {template} "$made/python3"',
    )


def test_uv_makes_one_from_its_own_place(machine: Machine) -> None:
    uv_that_serves(machine, "true")
    assert machine.make() == str(machine.runtime / "venv/bin/python")
    assert machine.log().count("mirror:") == 1


def test_uv_tries_mirrors_where_its_own_places_are_blocked(machine: Machine) -> None:
    uv_that_serves(machine, '[ "${UV_PYTHON_INSTALL_MIRROR#https://mirror.nju}" != "$UV_PYTHON_INSTALL_MIRROR" ]')
    machine.make()
    assert machine.log().count("mirror:") == 3


def test_a_mirror_of_the_users_own_is_the_only_one_asked(machine: Machine) -> None:
    uv_that_serves(machine, "false")
    machine.environ["UV_PYTHON_INSTALL_MIRROR"] = "https://mirror.example/pbs"
    with pytest.raises(CannotStart, match=r"uv from https://mirror.example/pbs: error: cannot reach it"):
        machine.make()
    assert machine.log().count("mirror:") == 1


def test_when_nothing_can_be_had_one_sentence_says_what_was_tried_and_what_to_do(machine: Machine) -> None:
    uv_that_serves(machine, "false")
    with pytest.raises(CannotStart) as refused:
        machine.make()
    for part in ("conda is not here", "cannot reach it", "apt-get install python3.11", "PYTHON=", "UV_PYTHON_INSTALL"):
        assert part in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_python_without_venv_is_served_by_uv(machine: Machine) -> None:
    python = machine.python(machine.bin / "python3.11", "3.11", venv="-")
    machine.program(
        machine.bin / "uv",
        f'echo "index:$UV_DEFAULT_INDEX" >>"$LOG"\ncase "$1" in venv) for last; do :; done; /bin/mkdir -p "$last/bin";'
        f' /bin/cp {python} "$last/bin/python";; esac',
    )
    machine.environ["PIP_INDEX_URL"] = "https://mirror.example/simple"
    machine.make()
    assert "uv pip install --python" in machine.log()
    assert "index:https://mirror.example/simple" in machine.log()


def test_what_ties_children_to_the_old_python_is_left_out(machine: Machine) -> None:
    machine.python(machine.bin / "python3.11", "3.11")
    machine.environ.update(PYTHONPATH="/old", PYTHONHOME="/old", PIP_TARGET="/old")
    machine.make()
    assert "path: home: target:" in machine.log()
    assert "/old" not in machine.log()
