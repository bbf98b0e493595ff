"""The status file: its format, its pace, and that it never stops the work."""

import json
import threading

import pytest

from inference.status import Progress, StatusFile

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "status.json"


@pytest.fixture
def status(path, clock):
    return StatusFile(path, "m", clock=clock)


def test_the_format(status, path):
    status(Progress("download", 5, 10, "fetching"))
    assert json.loads(path.read_text()) == {
        "stage": "download",
        "model": "m",
        "done": 5,
        "total": 10,
        "unit": "bytes",
        "message": "fetching",
        "since": 1000.0,
    }
    status(Progress("ready", message="准备好了"))
    assert json.loads(path.read_text())["unit"] == ""
    assert "准备好了" in path.read_text(encoding="utf-8")


def test_since_is_when_the_stage_began(status, path, clock):
    status(Progress("download", 0, 10))
    clock.now += 5
    status(Progress("download", 5, 10))
    assert json.loads(path.read_text())["since"] == 1000.0
    status(Progress("verify"))
    assert json.loads(path.read_text())["since"] == 1005.0


def test_progress_is_written_four_times_a_second(status, path, clock):
    written = set()
    for done in range(1000):
        clock.now += 0.01
        status(Progress("download", done, 1000))
        written.add(path.read_text())
    assert 35 <= len(written) <= 41


def test_the_end_and_new_messages_are_written_at_once(status, path):
    status(Progress("download", 0, 10, "a"))
    status(Progress("download", 1, 10, "b"))
    assert json.loads(path.read_text())["message"] == "b"
    status(Progress("download", 10, 10, "b"))
    assert json.loads(path.read_text())["done"] == 10


def test_readers_never_see_half_a_file(path):
    status = StatusFile(path, "m", interval_s=0)
    stop = threading.Event()

    def write_on():
        while not stop.is_set():
            status(Progress("download", 1, 10, "x" * 5000))

    writer = threading.Thread(target=write_on)
    status(Progress("start"))
    writer.start()
    try:
        for _ in range(300):
            json.loads(path.read_text())
    finally:
        stop.set()
        writer.join()
    assert [entry.name for entry in path.parent.iterdir()] == ["status.json"]


def test_a_file_that_cannot_be_written_does_not_stop_the_work(tmp_path, caplog):
    (tmp_path / "data").write_text("a file where a folder should be")
    status = StatusFile(tmp_path / "data" / "status.json", "m")
    status(Progress("download", message="a"))
    status(Progress("download", message="b"))
    status.clear()
    assert [record.message.startswith("cannot write") for record in caplog.records] == [True, False]


def test_an_orderly_stop_removes_it(status, path):
    status(Progress("ready"))
    status.clear()
    assert not path.exists()
