"""Words for nobody: `python app.py | head -1`, a terminal that has gone. The program goes on, and stops in order."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast


def outlast_readers() -> None:
    """From now on what cannot be printed is lost without a word, for standard output and standard error."""
    if sys.stdout is not None:
        sys.stdout = cast(TextIO, _Lasting(sys.stdout))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _Lasting(sys.stderr))


class _Lasting:
    """`out`, until it breaks; from then on /dev/null stands in its place, for what is still in its buffer, too."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)

    def write(self, text: str) -> int:
        try:
            return self._out.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        try:
            self._out.flush()
        except OSError:
            self._let_go()

    def _let_go(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._out.fileno())
        os.close(nowhere)
