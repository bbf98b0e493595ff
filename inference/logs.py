"""What the commands print as JSON, one object a line, for containers: `INFERENCE_LOG=json`.

`doctor` and `smoke` are asked by people, and print text in any case.

The fields are those of the gateway's and the web UI's lines: time, level, logger, message, exception.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

FORMS = ("text", "json")
_LEVEL = re.compile(r"(error|warning): ")


class JsonLines(io.TextIOBase):
    """Takes text as it is printed, and writes each line that is not blank to `out` as an object."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def flush(self) -> None:
        self._out.flush()

    def end(self) -> None:
        """What has no line break yet is a line, too."""
        rest, self._rest = self._rest, ""
        self._say(rest)

    def say(self, level: str, message: str, **fields: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        entry = {"time": now, "level": level, "logger": "inference", "message": message, **fields}
        self._out.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._out.flush()

    def _say(self, line: str) -> None:
        if line.strip():
            level = _LEVEL.match(line)
            self.say(level[1] if level else "info", line[level.end() if level else 0 :].rstrip())


@contextmanager
def printed_as(environ: Mapping[str, str]) -> Iterator[None]:
    """With INFERENCE_LOG=json all that is printed meanwhile is JSON, and so is the traceback of a bug (exit code 1)."""
    if environ.get("INFERENCE_LOG", "").strip() != "json":
        yield
        return
    kept = sys.stdout, sys.stderr
    out, err = JsonLines(sys.stdout), JsonLines(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    except Exception as bug:
        err.say("error", f"{type(bug).__name__}: {bug}", exception=traceback.format_exc())
        raise SystemExit(1) from None
    finally:
        out.end()
        err.end()
        sys.stdout, sys.stderr = kept
