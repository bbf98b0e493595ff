"""What is going on with the model, for everyone who waits: a small JSON file that other packages read.

The file (`DATA_DIR/status.json`) is one JSON object with exactly these keys; the format is a contract:

| key     | type   | meaning                                                                              |
|---------|--------|--------------------------------------------------------------------------------------|
| stage   | string | download, convert, verify, start, load, warmup, ready, restarting or failed          |
| model   | string | the public model id                                                                  |
| done    | number | how much of the stage is done, in `unit`; 0 when that is not known                   |
| total   | number | the size of the whole stage, in `unit`; 0 when that is not known                     |
| unit    | string | "bytes" or ""                                                                        |
| message | string | one line in English for people; with stage failed: the cause and what to do          |
| since   | number | when this stage began, in Unix seconds                                               |

It is replaced atomically (written beside it, then renamed) at most about four times a second, and removed after an
orderly stop. Whether the engine still answers is not told here: ask the engine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stage = Literal["download", "convert", "verify", "start", "load", "warmup", "ready", "restarting", "failed", "publish"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """One piece of news: the stage, and how far it has come in bytes (`total` 0: not known, or nothing to count).

    The stage `publish` comes on the command line only, never in the file.
    """

    stage: Stage
    done: int = 0
    total: int = 0
    message: str = ""


Report = Callable[[Progress], None]
"""Takes news about the work; must be quick and must not raise. May be called from a worker thread."""


class StatusFile:
    """Writes the file. Itself a `Report`; safe to use from several threads."""

    def __init__(
        self, path: Path, model: str, *, clock: Callable[[], float] = time.time, interval_s: float = 0.25
    ) -> None:
        self._path = path
        self._model = model
        self._clock = clock
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._shown: Progress | None = None
        self._since = 0.0
        self._written_at = 0.0
        self._is_broken = False

    def __call__(self, news: Progress) -> None:
        """Write `news`, unless only its numbers differ from what was written a moment ago."""
        with self._lock:
            now = self._clock()
            shown = self._shown
            if shown is None or shown.stage != news.stage:
                self._since = now
            elif shown.message == news.message and not self._is_due(news, now):
                return
            self._shown, self._written_at = news, now
            self._write(news)

    def clear(self) -> None:
        """Remove the file after an orderly stop: nothing is going on any more."""
        with self._lock:
            self._shown = None
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot remove %s: %s", self._path, error.strerror)

    def _is_due(self, news: Progress, now: float) -> bool:
        is_end = news.total > 0 and news.done >= news.total
        return is_end or not 0.0 <= now - self._written_at < self._interval_s

    def _write(self, news: Progress) -> None:
        """A full disk must not end the work that is reported, so a failure is only logged, and once."""
        fields = {
            "stage": news.stage,
            "model": self._model,
            "done": news.done,
            "total": news.total,
            "unit": "bytes" if news.total else "",
            "message": news.message,
            "since": round(self._since, 3),
        }
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(fields, ensure_ascii=False) + "\n", encoding="utf-8")
            beside.replace(self._path)
            self._is_broken = False
        except OSError as error:
            if not self._is_broken:
                log.warning("cannot write %s: %s", self._path, error.strerror)
            self._is_broken = True
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
