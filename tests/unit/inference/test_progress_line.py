"""Progress for people: a moving line on a terminal, a few plain lines elsewhere."""

import io
from itertools import pairwise

import pytest

from inference.progress import ProgressLine
from inference.status import Progress

pytestmark = pytest.mark.unit
MB = 1_000_000


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _run(out, *, seconds_each, steps=100):
    now = [0.0]
    line = ProgressLine(out, clock=lambda: now[0])
    for done in range(steps + 1):
        line(Progress("download", done * MB, steps * MB, "fetching it"))
        now[0] += seconds_each
    line.close()
    return out.getvalue()


def test_plain_lines_come_every_tenth():
    lines = _run(io.StringIO(), seconds_each=0.02).splitlines()
    assert lines[0] == "fetching it"
    assert len(lines) == 11
    assert "10.0 of 100.0 MB" in lines[1]
    assert "100 %" in lines[-1]


def test_plain_lines_come_every_five_seconds_when_it_is_slow():
    lines = _run(io.StringIO(), seconds_each=2.0).splitlines()
    assert 35 <= len(lines) <= 52


def test_a_terminal_gets_one_moving_line_with_rate_and_time_left():
    text = _run(Terminal(), seconds_each=1.0)
    assert text.count("\n") == 2
    frames = text.split("\r")
    assert "50 %  50.0 of 100.0 MB  1.0 MB/s  0:50 left" in frames[50]
    assert frames[-1].rstrip().endswith("1.0 MB/s")


def test_a_shorter_frame_leaves_nothing_of_the_longer_one():
    frames = _run(Terminal(), seconds_each=1.0).rstrip("\n").split("\r")[1:]
    for before, after in pairwise(frames):
        assert len(after) >= len(before.rstrip())


def test_messages_without_numbers_are_lines_and_failures_are_left_to_the_caller():
    out = io.StringIO()
    line = ProgressLine(out)
    for news in (Progress("start", message="starting"), Progress("load", message="loading")):
        line(news)
        line(news)
    line(Progress("failed", message="broken"))
    assert out.getvalue() == "starting\nloading\n"
