"""The child's log stays bounded; its socket folder is private, short, and gone afterwards."""

import os
import subprocess
import sys

import pytest

from inference.childlog import LONGEST_LINE, ChildLog
from inference.errors import SettingsError
from inference.sockets import socket_folder

pytestmark = pytest.mark.unit


def test_the_log_is_kept_between_runs_and_bounded(tmp_path):
    path = tmp_path / "logs" / "inference.log"
    for _ in range(3):
        log = ChildLog(path, limit_bytes=10_000)
        log.begin("start")
        for number in range(100):
            log.add(f"line {number} " + "x" * 50)
        log.close()
    files = list(path.parent.iterdir())
    assert {file.name for file in files} == {"inference.log", "inference.log.1"}
    assert sum(file.stat().st_size for file in files) < 21_000


def test_the_tail_is_of_this_life_only(tmp_path):
    log = ChildLog(tmp_path / "l", tail_lines=3)
    log.begin("one")
    log.add("old")
    log.begin("two")
    for number in range(5):
        log.add(f"{number}" * 10_000)
    assert log.tail == [f"{number}" * LONGEST_LINE for number in (2, 3, 4)]
    log.close()


def test_a_log_that_cannot_be_written_is_given_up(tmp_path):
    (tmp_path / "logs").write_text("a file where a folder should be")
    log = ChildLog(tmp_path / "logs" / "inference.log")
    log.add("still here")
    assert log.tail == ["still here"]


def test_the_folder_is_private_and_gone_afterwards(tmp_path):
    with socket_folder([tmp_path / "missing", tmp_path]) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "s").write_text("")
    assert not folder.exists()


def test_long_paths_are_passed_over(tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    with socket_folder([long, tmp_path]) as folder:
        assert folder.parent == tmp_path
    with pytest.raises(SettingsError, match="TMPDIR"), socket_folder([long]):
        pass


def test_what_a_killed_run_left_is_removed(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f"inference-{int(ended.stdout)}-abc"
    other = tmp_path / f"inference-{os.getpid()}-abc"
    left.mkdir()
    other.mkdir()
    with socket_folder([tmp_path]):
        assert not left.exists()
        assert other.exists()
