"""An engine as a child process with its own process group, tied to us by `guard.py`.

Linux tells the child when the *thread* that started it ends, so the supervisor runs in the main thread's event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress

from inference import guard
from inference.child import Hear, LineSplitter
from inference.engines import ProcessEngine
from inference.errors import StartFailed
from inference.leftovers import OWNER_VARIABLE, end_strays
from inference.sockets import check_port

LAST_WORDS_S = 2.0
STRAYS_S = 5.0


class ProcessRunner:
    """`mark` is the owner's mark, see `leftovers.py`."""

    def __init__(self, engine: ProcessEngine, mark: str) -> None:
        self._engine = engine
        self._mark = mark

    async def start(self, hear: Hear) -> ProcessChild:
        """The pipe is ours and not asyncio's: `Process.wait` would wait for all who hold its other end, too."""
        await _end_all_strays(self._mark)
        self._engine.clear_the_way()
        for port in self._engine.ports:
            check_port(port)
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *guard.command(self._engine.parent_death_signal, self._engine.argv()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                cwd=self._engine.folder,
                env={**self._engine.environment(), OWNER_VARIABLE: self._mark},
                start_new_session=True,
            )
        except OSError as error:
            os.close(read_end)
            raise StartFailed(f"No process can be started for the engine: {error.strerror}.") from None
        finally:
            os.close(write_end)
        return ProcessChild(process, asyncio.create_task(_drain(read_end, hear)), self._engine, self._mark)


class ProcessChild:
    """The running process with its group and the task that reads what it says."""

    def __init__(
        self, process: asyncio.subprocess.Process, drain: asyncio.Task[None], engine: ProcessEngine, mark: str
    ) -> None:
        self._process = process
        self._drain = drain
        self._engine = engine
        self._mark = mark

    async def has_ended_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None

    async def ending(self) -> int:
        """What is left of its group ends with it: a launcher that was killed leaves its children behind."""
        returncode = await self._process.wait()
        self._kill_all()
        await _end_all_strays(self._mark)
        await asyncio.wait([self._drain], timeout=LAST_WORDS_S)
        return returncode

    async def end(self, grace_s: float) -> None:
        """The engine's stop signals to the group, each with its share of the time; then SIGKILL to what is left."""
        signals = self._engine.stop_signals
        try:
            for number in signals:
                if self._process.returncode is None:
                    self._signal(number)
                    await self.has_ended_within(grace_s / len(signals))
        finally:
            self._kill_all()
        await self._process.wait()
        await _end_all_strays(self._mark)
        await asyncio.wait([self._drain], timeout=LAST_WORDS_S)
        self._drain.cancel()
        self._engine.clear_the_way()

    def _kill_all(self) -> None:
        self._signal(signal.SIGKILL)
        end_strays(self._mark)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


async def _end_all_strays(mark: str) -> None:
    """Until they are gone, and with them what they held of memory and ports; to be killed takes a moment."""
    deadline = time.monotonic() + STRAYS_S
    while end_strays(mark) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


async def _drain(read_end: int, hear: Hear) -> None:
    """Read all that the child says, so that it never blocks on a full pipe."""
    said = asyncio.StreamReader()
    pipe = os.fdopen(read_end, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), pipe)
    lines = LineSplitter()
    try:
        while block := await said.read(65536):
            for line in lines.feed(block):
                hear(line)
        for line in lines.flush():
            hear(line)
    finally:
        transport.close()
