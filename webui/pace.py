"""A steady pace: how much of an answer is shown, so that what comes in bursts does not jump."""

from __future__ import annotations

import math

PACE_S = 0.1
"""Between two updates of a page: every one costs the server and the browser, however little it adds."""
SHARE = 0.4
FEWEST_CHARS = 4


class Pace:
    """Shows a share of what has come with each step: it follows any speed, a quarter of a second behind."""

    def __init__(self, shown: int = 0) -> None:
        self._shown = shown

    def step(self, come: int) -> int:
        """How many of the characters that have come are shown now."""
        behind = max(0, come - self._shown)
        self._shown += max(min(behind, FEWEST_CHARS), math.ceil(behind * SHARE))
        return min(self._shown, come)
