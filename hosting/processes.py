"""A command that takes its time: its lines as they come, its end with ours, its last words when it fails."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence

KEPT_LINES = 12


class CommandFailed(Exception):
    """The last lines of what it said."""


def run(command: Sequence[str], environ: Mapping[str, str], on_line: Callable[[str], None] = lambda line: None) -> None:
    """Raises CommandFailed. Whatever ends us first, the command is ended too."""
    last = deque(maxlen=KEPT_LINES)  # type: deque[str]
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from None
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            on_line(line.rstrip())
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if code:
        raise CommandFailed("\n".join(last) or f"{command[0]} ended with code {code}")
