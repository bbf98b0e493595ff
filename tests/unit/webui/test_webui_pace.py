"""The pace at which an answer is shown: what comes at once does not jump, and nothing lags behind for long."""

from __future__ import annotations

import pytest

from webui.pace import PACE_S, Pace

pytestmark = pytest.mark.unit


def test_a_burst_is_shown_in_steps_that_grow_smaller() -> None:
    pace = Pace()
    shown = [pace.step(1000) for _ in range(20)]
    steps = [after - before for before, after in zip([0, *shown], shown, strict=False)]
    assert steps[0] == 400
    assert steps == sorted(steps, reverse=True)
    assert shown[-1] == 1000


def test_a_steady_stream_is_shown_a_quarter_of_a_second_late() -> None:
    pace, come = Pace(), 0
    behind = []
    for _ in range(50):
        come += 20
        behind.append(come - pace.step(come))
    assert max(behind[20:]) <= 0.25 / PACE_S * 20 + 20


def test_no_more_is_shown_than_has_come_and_what_was_there_stays() -> None:
    pace = Pace(10)
    assert pace.step(10) == 10
    assert pace.step(3) == 3
    assert pace.step(11) == 11
