"""Where the system has no libgomp.so.1, the child gets the copy that a wheel carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engines.openmp import NAME, openmp_environment

pytestmark = pytest.mark.unit


def missing(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_system_that_has_the_library_is_left_alone(tmp_path: Path) -> None:
    assert openmp_environment(tmp_path, {}, load=lambda name: object()) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the library is Linux's")
def test_the_carried_copy_is_what_a_process_with_this_environment_loads(tmp_path: Path) -> None:
    added = openmp_environment(tmp_path, {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}, load=missing)
    assert added["LD_LIBRARY_PATH"] == f"{tmp_path}:/usr/local/cuda/lib64"
    code = (
        f"import ctypes; library = ctypes.CDLL({NAME!r}); library.omp_get_max_threads()\n"
        "print([line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **added},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "pykdtree.libs" in done.stdout


def test_a_second_start_in_the_same_folder_replaces_the_link(tmp_path: Path) -> None:
    first = openmp_environment(tmp_path, {}, load=missing)
    assert openmp_environment(tmp_path, {}, load=missing) == first
