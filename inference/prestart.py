"""A command of the person's own that runs before the model is fetched, such as one that installs what a site needs.

INFERENCE_PRESTART is given to `/bin/sh -c`. What it says goes to `DATA_DIR/logs/prestart.log`; when it fails nothing
else is started. Nothing is ever installed by importing a module.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from contextlib import suppress
from pathlib import Path

from inference import guard
from inference.child import LineSplitter
from inference.childlog import ChildLog
from inference.errors import StartFailed
from inference.settings import Settings, child_environment
from inference.status import Progress, Report

SHELL = "/bin/sh"


async def run_prestart(settings: Settings, report: Report) -> None:
    """Nothing when there is no such command. Raises StartFailed with its exit code and its last line."""
    if not settings.prestart:
        return
    report(Progress("start", message=f"running INFERENCE_PRESTART: {settings.prestart}"))
    log = ChildLog(settings.data_dir / "logs" / "prestart.log")
    log.begin(settings.prestart)
    try:
        code = await _run(settings.prestart, settings.root, log)
    finally:
        log.close()
    if code != 0:
        last = deque(log.tail, 1)
        said = f"; it said last: {last[0]}" if last else ""
        raise StartFailed(
            f"The command of INFERENCE_PRESTART ended with code {code}{said}. All that it said is in {log.path}."
        )


async def _run(command: str, folder: Path, log: ChildLog) -> int:
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *guard.command(signal.SIGKILL, [SHELL, "-c", command]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env=child_environment(),
            start_new_session=True,
        )
    )
    lines = LineSplitter()
    try:
        process = await asyncio.shield(starting)
        assert process.stdout is not None
        while block := await process.stdout.read(65536):
            for line in lines.feed(block):
                log.add(line.decode("utf-8", "replace"))
        for line in lines.flush():
            log.add(line.decode("utf-8", "replace"))
        return await process.wait()
    finally:
        process = await starting  # it may run already when a stop comes before asyncio has told us of it
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the shell and what it runs, such as an installer
            await process.wait()
