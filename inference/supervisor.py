"""Keeps one inference server running as a child process: start, wait until it is ready, watch, restart, stop.

A child that fails before it was ever ready is not started again: the cause would be the same. One that dies later is,
after a growing pause and a bounded number of times. The child never outlives us: it has its own process group, which
is ended in order, and `guard.py` ends it when we are killed. Call `run` from the main thread's event loop: Linux tells
the child when the *thread* that started it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from inference import guard
from inference.childlog import LONGEST_LINE, ChildLog
from inference.engines import Engine
from inference.errors import Cancelled, ChildExited, InferenceError, NotReadyInTime, StartFailed
from inference.probe import ProbeFailed
from inference.settings import Settings
from inference.status import Progress, Report, Stage

State = Literal["new", "starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All in seconds. A child that was ready for `steady_s` has proved itself: counting its failures starts anew."""

    start_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0
    probe_timeout_s: float = 120.0
    probe_pause_s: float = 0.2
    steady_s: float = 60.0
    restart_pauses_s: tuple[float, ...] = (1, 2, 4, 8, 16, 30)
    most_restarts: int = 10


class Supervisor:
    """`run` until `stop` is called or it raises; `wait_ready` and `state` tell how it is."""

    def __init__(
        self,
        engine: Engine,
        report: Report,
        log: ChildLog,
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "new"
        self._engine = engine
        self._report = report
        self._log = log
        self._timing = timing or Timing()
        self._clock = clock
        self._settled = asyncio.Event()
        self._failure: InferenceError | None = None
        self._work: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._was_ready = False
        self._ready_at: float | None = None

    async def run(self) -> None:
        """Keep the child running until `stop`. To cancel this is to stop in order, too.

        Raises StartFailed or NotReadyInTime if it never became ready, ChildExited if it keeps dying.
        """
        if self._is_stopping:
            return
        self._work = asyncio.create_task(self._keep_running())
        try:
            await self._work
        except asyncio.CancelledError:
            self._settle("stopped")
            if not self._is_stopping:
                raise
        except InferenceError as error:
            self._failure = error
            self._settle("failed")
            self._report(Progress("failed", message=error.message))
            raise
        finally:
            self._log.close()

    async def stop(self) -> None:
        """End the child (SIGTERM to its group, then SIGKILL) and `run`. Returns when it is gone and reaped."""
        self._is_stopping = True
        if self._work is None:
            self._settle("stopped")
        else:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def wait_ready(self) -> None:
        """Returns when the engine can serve. Raises what ended it, or Cancelled when it was stopped."""
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure
        if self.state == "stopped":
            raise Cancelled("The engine was stopped before it was ready.")

    async def _keep_running(self) -> None:
        failures = 0
        while True:
            self._ready_at = None
            try:
                await self._live_once()
            except (StartFailed, NotReadyInTime, ChildExited) as error:
                if not self._was_ready:
                    raise
                cause = error.message
            failures = 1 if self._was_steady() else failures + 1
            if failures > self._timing.most_restarts:
                raise ChildExited(f"{cause} It ended {failures} times in a row and is not started again.")
            await self._pause(failures, cause)

    def _was_steady(self) -> bool:
        return self._ready_at is not None and self._clock() - self._ready_at >= self._timing.steady_s

    async def _pause(self, failures: int, cause: str) -> None:
        pauses = self._timing.restart_pauses_s
        pause_s = pauses[min(failures, len(pauses)) - 1]
        self._settled.clear()
        self.state = "restarting"
        message = f"{cause} It starts again in {pause_s:g} s (restart {failures} of {self._timing.most_restarts})."
        self._report(Progress("restarting", message=message))
        await asyncio.sleep(pause_s)

    async def _live_once(self) -> None:
        """One life of the child; always ends with an error, or by being cancelled."""
        begun = self._clock()
        if not self._was_ready:
            self.state = "starting"
        self._report(Progress("start", message=f"starting {self._engine.description}"))
        async with self._child() as child:
            await self._become_ready(child, begun)
            self._was_ready = True
            self._ready_at = self._clock()
            self._report(Progress("ready", message=f"ready after {self._ready_at - begun:.1f} s"))
            self._settle("ready")
            raise ChildExited(await child.ending(self._engine))

    async def _become_ready(self, child: _Child, begun: float) -> None:
        """Ask for one token until it comes. Raises StartFailed or NotReadyInTime."""
        limit_s = self._timing.start_timeout_s
        reason = "not asked yet"
        while (left_s := limit_s - (self._clock() - begun)) > 0:
            try:
                await self._engine.generate_one_token(min(left_s, self._timing.probe_timeout_s))
                return
            except ProbeFailed as failure:
                reason = failure.reason
                if failure.is_final:
                    raise StartFailed(f"The engine started but cannot chat: it {reason}.") from None
            if await child.has_ended_within(self._timing.probe_pause_s):
                raise StartFailed(await child.ending(self._engine))
        raise NotReadyInTime(
            f"The engine was not ready within {limit_s:g} s (it {reason}). "
            f"Set INFERENCE_START_TIMEOUT_S higher, or look into {self._log.path}."
        )

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[_Child]:
        """Start it; whatever happens, its whole group is gone and it is reaped afterwards."""
        self._engine.clear_the_way()
        self._log.begin(self._engine.description)
        child = await self._start()
        try:
            yield child
        finally:
            await child.end(self._timing.stop_timeout_s)
            self._engine.clear_the_way()

    async def _start(self) -> _Child:
        """The pipe is ours and not asyncio's: `Process.wait` would wait for all who hold its other end, too."""
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *guard.command(self._engine.parent_death_signal, self._engine.argv()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                env=self._engine.environment(),
                start_new_session=True,
            )
        except OSError as error:
            os.close(read_end)
            raise StartFailed(f"No process can be started for the engine: {error.strerror}.") from None
        finally:
            os.close(write_end)
        return _Child(process, asyncio.create_task(self._drain(read_end)), self._log)

    async def _drain(self, read_end: int) -> None:
        """Read all that the child says, so that it never blocks on a full pipe."""
        said = asyncio.StreamReader()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(said), pipe
        )
        rest = b""
        try:
            while block := await said.read(65536):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    self._hear(line)
                if len(rest) > LONGEST_LINE:
                    self._hear(rest)
                    rest = b""
            if rest:
                self._hear(rest)
        finally:
            transport.close()

    def _hear(self, raw: bytes) -> None:
        line = self._engine.redacted(raw.decode("utf-8", "replace").rstrip())
        self._log.add(line)
        stage = self._engine.stage_of(line)
        if stage is not None and self.state != "ready":
            self._report(Progress(stage, message=_STAGE_TEXTS.get(stage, "")))

    def _settle(self, state: State) -> None:
        self.state = state
        self._settled.set()


_STAGE_TEXTS: dict[Stage, str] = {
    "load": "loading the model into memory",
    "warmup": "generating a first token",
}


def make_supervisor(engine: Engine, settings: Settings, report: Report) -> Supervisor:
    """The supervisor as the settings want it, with its log in `DATA_DIR/logs/inference.log`."""
    timing = Timing(start_timeout_s=settings.start_timeout_s, stop_timeout_s=settings.stop_timeout_s)
    return Supervisor(engine, report, ChildLog(settings.data_dir / "logs" / "inference.log"), timing=timing)


class _Child:
    """The running process with its process group and the task that reads what it says."""

    def __init__(self, process: asyncio.subprocess.Process, drain: asyncio.Task[None], log: ChildLog) -> None:
        self._process = process
        self._drain = drain
        self._log = log

    async def has_ended_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None

    async def ending(self, engine: Engine) -> str:
        """Wait for its end and for its last words; returns the cause in plain words. What is left of its group ends."""
        returncode = await self._process.wait()
        self._signal(signal.SIGKILL)
        await asyncio.wait([self._drain], timeout=2)
        return engine.explain(self._log.tail, returncode)

    async def end(self, grace_s: float) -> None:
        """SIGTERM to the group, wait, SIGKILL to what is left of it; also when this wait is cancelled."""
        try:
            if self._process.returncode is None:
                self._signal(signal.SIGTERM)
                await self.has_ended_within(grace_s)
        finally:
            self._signal(signal.SIGKILL)
        await self._process.wait()
        await asyncio.wait([self._drain], timeout=2)
        self._drain.cancel()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
