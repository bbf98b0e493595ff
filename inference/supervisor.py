"""Keeps one inference server running: start, wait until it is ready, watch, restart, stop.

One that fails before it was ever ready is not started again: the cause would be the same. One that dies or hangs later
is, after a growing pause and a bounded number of times. It never outlives us: see `processes.py`, `containers.py` and
`leftovers.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

from inference.child import Child, Runner
from inference.childlog import ChildLog
from inference.engines import Engine
from inference.errors import Cancelled, ChildExited, InferenceError, NotReadyInTime, StartFailed
from inference.probe import ProbeFailed
from inference.status import Progress, Report

State = Literal["new", "starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All in seconds. A child that was ready for `steady_s` has proved itself: counting its failures starts anew.

    One that is ready is asked every `watch_pause_s` whether it still lives, and may take `alive_timeout_s` to say so;
    without an answer for `hang_timeout_s` it is ended.
    """

    start_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0
    probe_timeout_s: float = 120.0
    probe_pause_s: float = 0.2
    steady_s: float = 60.0
    watch_pause_s: float = 10.0
    alive_timeout_s: float = 30.0
    hang_timeout_s: float = 120.0
    restart_pauses_s: tuple[float, ...] = (1, 2, 4, 8, 16, 30)
    most_restarts: int = 10


class Supervisor:
    """`run` until `stop` is called or it raises; `wait_ready` and `state` tell how it is.

    `claim` is held while it runs, and `tidy`, which may take its time, is called once it is held.
    """

    def __init__(
        self,
        engine: Engine,
        runner: Runner,
        report: Report,
        log: ChildLog,
        *,
        claim: AbstractContextManager[None] | None = None,
        tidy: Callable[[], None] | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "new"
        self._engine = engine
        self._runner = runner
        self._claim = claim or nullcontext()
        self._tidy = tidy
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
        with self._claim:
            if self._tidy is not None:
                await asyncio.to_thread(self._tidy)
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
        if not self._was_ready:
            self.state = "starting"
        self._report(Progress("start", message=f"starting {self._engine.description}"))
        async with self._child() as child:
            begun = self._clock()  # an image may have been fetched before
            await self._become_ready(child, begun)
            self._was_ready = True
            self._ready_at = self._clock()
            self._report(Progress("ready", message=f"ready after {self._ready_at - begun:.1f} s"))
            self._settle("ready")
            raise ChildExited(await self._watch(child))

    async def _become_ready(self, child: Child, begun: float) -> None:
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
                raise StartFailed(await self._cause(child))
        raise NotReadyInTime(
            f"The engine was not ready within {limit_s:g} s (it {reason}). "
            f"Set INFERENCE_START_TIMEOUT_S higher, or look into {self._log.path}."
        )

    async def _watch(self, child: Child) -> str:
        """Returns why it is over: it has ended, or it has not answered for too long."""
        silent_since: float | None = None
        while not await child.has_ended_within(self._timing.watch_pause_s):
            asked_at = self._clock()
            try:
                await self._engine.check_alive(self._timing.alive_timeout_s)
                silent_since = None
            except ProbeFailed as failure:
                silent_since = asked_at if silent_since is None else silent_since
                silent_s = self._clock() - silent_since
                if silent_s >= self._timing.hang_timeout_s and not await child.has_ended_within(0):
                    return f"The engine hangs: it has not answered for {silent_s:.0f} s ({failure.reason})."
        return await self._cause(child)

    async def _cause(self, child: Child) -> str:
        returncode = await child.ending()
        return self._engine.explain(self._log.tail, returncode)

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[Child]:
        """Start it; whatever happens, nothing of it is left afterwards."""
        self._log.begin(self._engine.description)
        child = await self._runner.start(self._hear)
        try:
            yield child
        finally:
            await child.end(self._timing.stop_timeout_s)

    def _hear(self, raw: bytes) -> None:
        line = self._engine.redacted(raw.decode("utf-8", "replace").rstrip())
        self._log.add(line)
        news = self._engine.news_of(line)
        if news is not None and self.state != "ready":
            self._report(news)

    def _settle(self, state: State) -> None:
        self.state = state
        self._settled.set()
