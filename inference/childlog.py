"""What a child process says: the last lines in memory, for explanations, and all of it in a file of bounded size."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import IO

LONGEST_LINE = 4000


class ChildLog:
    """Writes to `path`; when that has `limit_bytes` it becomes `path.1`, in place of an older one.

    Kept between runs. A file that cannot be written (full disk) is given up in silence: the child goes on.
    """

    def __init__(self, path: Path, *, limit_bytes: int = 4 << 20, tail_lines: int = 200) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._tail: deque[str] = deque(maxlen=tail_lines)
        self._file: IO[str] | None = None

    @property
    def tail(self) -> list[str]:
        """The last lines since `begin`."""
        return list(self._tail)

    def begin(self, title: str) -> None:
        """A new life of the child: the tail starts empty, the file gets a line with the time."""
        self.add(f"=== {time.strftime('%Y-%m-%d %H:%M:%S %z')} {title}")
        self._tail.clear()

    def add(self, line: str) -> None:
        line = line[:LONGEST_LINE]
        self._tail.append(line)
        try:
            file = self._file or self._open()
            file.write(line + "\n")
            if file.tell() > self._limit_bytes:
                self.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
        except OSError:
            self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                return

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8", errors="replace", buffering=1)
        return self._file
