"""News about a model as people read it: one moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from inference.status import Progress

STEP = 10  # per cent between two plain lines
STEP_S = 5.0  # or this many seconds


class ProgressLine:
    """A `Report` that prints. On a terminal a line is drawn anew in place; elsewhere one is added now and then."""

    def __init__(self, out: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stderr
        self._clock = clock
        self._is_terminal = self._out.isatty()
        self._said = ""
        self._stage = ""
        self._begun_at = 0.0
        self._begun_with = 0
        self._drawn_at = 0.0
        self._drawn_step = -1
        self._width = 0

    def __call__(self, news: Progress) -> None:
        if news.stage == "failed":  # whoever ends because of it says so
            return
        now = self._clock()
        if news.message != self._said or news.stage != self._stage:
            self._begin(news, now)
        if news.done <= 0 or news.total <= 0:
            return
        if self._is_terminal:
            self._redraw(news, now)
        else:
            self._add_line(news, now)

    def close(self) -> None:
        """Leave the moving line, so that what follows begins on a line of its own."""
        if self._width:
            self._out.write("\n")
            self._width = 0
            self._out.flush()

    def _begin(self, news: Progress, now: float) -> None:
        self.close()
        if news.message and news.message != self._said:
            self._out.write(f"{news.message}\n")
            self._out.flush()
        self._said, self._stage = news.message, news.stage
        self._begun_at, self._begun_with = now, news.done
        self._drawn_at, self._drawn_step = 0.0, 0

    def _redraw(self, news: Progress, now: float) -> None:
        is_end = news.done >= news.total
        if not is_end and 0.0 <= now - self._drawn_at < 0.1:
            return
        self._drawn_at = now
        text = self._text(news, now)
        self._out.write("\r" + text.ljust(self._width))
        self._width = len(text)
        self._out.flush()

    def _add_line(self, news: Progress, now: float) -> None:
        step = int(100 * news.done / news.total) // STEP
        if self._drawn_at == 0.0:
            self._drawn_at = now
        is_later = now - self._drawn_at >= STEP_S
        if step > self._drawn_step or is_later:
            self._drawn_step, self._drawn_at = step, now
            self._out.write(self._text(news, now) + "\n")
            self._out.flush()

    def _text(self, news: Progress, now: float) -> str:
        share = min(1.0, news.done / news.total)
        parts = [f"{100 * share:3.0f} %", f"{news.done / 1e6:.1f} of {news.total / 1e6:.1f} MB"]
        elapsed = now - self._begun_at
        moved = news.done - self._begun_with
        if elapsed > 0.5 and moved > 0:
            rate = moved / elapsed
            parts.append(f"{rate / 1e6:.1f} MB/s")
            if share < 1.0:
                parts.append(f"{_clock_text((news.total - news.done) / rate)} left")
        bar = "#" * round(20 * share)
        return f"  [{bar:<20}] " + "  ".join(parts)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
