"""A child process that fetches or sends: tied to us, read line by line, killed with all its own when we go on."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from inference import guard
from inference.errors import Cancelled

TICK_S = 0.2


def run(
    argv: list[str],
    environment: dict[str, str],
    on_line: Callable[[str], None],
    stop: threading.Event,
    *,
    cwd: Path | None = None,
    on_tick: Callable[[], None] | None = None,
    parent_signal: int = signal.SIGKILL,
) -> int:
    """Run it in a group of its own until it ends; returns its exit code. It is killed when this is left early.

    `on_line` gets each line of its output (carriage returns end lines too), `on_tick` is called several times a second,
    `parent_signal` is what it gets when this process dies. Raises Cancelled when `stop` is set, OSError when it cannot
    be started.
    """
    with subprocess.Popen(
        guard.command(parent_signal, argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in _lines(process.stdout, stop, on_tick):
                on_line(line)
            return process.wait()
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def stop_if(stop: threading.Event) -> None:
    if stop.is_set():
        raise Cancelled("Stopped; the next start goes on from what is there.")


def _lines(pipe: IO[bytes], stop: threading.Event, on_tick: Callable[[], None] | None) -> Iterator[str]:
    """The lines as they come; looks at `stop` several times a second even when nothing comes."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            stop_if(stop)
            if on_tick:
                on_tick()
            if not selector.select(timeout=TICK_S):
                continue
            block = os.read(pipe.fileno(), 65536)
            if not block:
                break
            *whole, rest = (rest + block).replace(b"\r", b"\n").split(b"\n")
            yield from (line.decode("utf-8", "replace").strip() for line in whole)
    yield rest.decode("utf-8", "replace").strip()
