"""The connection to Redis that everything of a gateway shares: scripts, in the order in which they were asked for.

As many go in a round trip as have come together, so what is given back is there for the next request, and a burst
costs a few round trips. Nobody waits for a Redis that is known to be away: a single task looks for it once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

log = logging.getLogger("gateway.redis")
ANSWER_S = 0.25
"""Nobody waits longer for an answer of Redis."""
_SLICES = 25
_LOOK_AGAIN_S = 1.0
_KEPT_CALLS = 10_000
_TOGETHER = 100


class Away(Exception):
    """Redis does not answer, or not with what was asked for."""


@dataclass
class _Call:
    script: str
    keys: Sequence[str]
    arguments: Sequence[str | float]
    future: asyncio.Future[Any] | None = None


class Line:
    """The connection to Redis.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        scripts: Lua by name.
        while_away: what to log that happens then.
    """

    def __init__(self, url: str, scripts: Mapping[str, str], while_away: str) -> None:
        self._redis = client(url)
        self._sources = scripts
        self._while_away = while_away
        self._when_up: list[Callable[[bool], None]] = []
        self._hashes: dict[str, str] = {}
        self._next: deque[_Call] = deque()
        self._kept: deque[_Call] = deque(maxlen=_KEPT_CALLS)
        self._has_next = asyncio.Event()
        self._is_known_away = False
        self.is_up = False

    def when_up(self, act: Callable[[bool], None]) -> None:
        """Calls `act` when Redis answers, before anybody else can ask it; with True when it had been away."""
        self._when_up.append(act)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Speaks to Redis while the context is open."""
        await self.connect()
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self.close()

    def ask(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> asyncio.Future[Any]:
        """The script's answer to come, or Away, at once when that is known."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.is_up:
            future.set_exception(Away())
            return future
        self._next.append(_Call(script, keys, arguments, future))
        self._has_next.set()
        return future

    async def call(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
        """The script's answer. Raises Away, at once when that is known."""
        return await self.ask(script, keys, arguments)

    def post(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> None:
        """Asks without waiting for the answer; while Redis is away the call is kept for its return."""
        (self._next if self.is_up else self._kept).append(_Call(script, keys, arguments))
        self._has_next.set()

    async def run(self) -> None:
        """Sends what is asked, and looks for Redis while it is away. Until cancelled."""
        while True:
            while not self.is_up:
                await asyncio.sleep(_LOOK_AGAIN_S)
                await self.connect()
            await self._has_next.wait()
            self._has_next.clear()
            await self._send_next()

    async def connect(self) -> None:
        """Loads the scripts; what was kept is sent next. Nothing happens when Redis does not answer."""
        try:
            await self._in_time(self._load())
        except Exception as error:  # whatever it is, the search goes on
            await self._lost(error)
            return
        was_away = self._is_known_away
        if was_away:
            log.warning("Redis is back: what gateways share is shared again")
        self.is_up, self._is_known_away = True, False
        self._next, self._kept = self._kept + self._next, deque(maxlen=_KEPT_CALLS)
        for act in self._when_up:
            act(was_away)
        self._has_next.set()

    async def close(self) -> None:
        """Sends what is left, if that is possible, and closes."""
        while self.is_up and self._next:
            await self._send_next()
        await self._redis.aclose()

    async def _load(self) -> None:
        await self._redis.set("gateway:probe", 1, px=1000)  # one that cannot be written to is of no use
        for name, source in self._sources.items():
            self._hashes[name] = await self._redis.script_load(source)

    async def _send_next(self) -> None:
        calls = [self._next.popleft() for _ in range(min(_TOGETHER, len(self._next)))]
        if self._next:
            self._has_next.set()
        if not calls:
            return
        try:
            answers = await self._in_time(self._send(calls))
            if any(isinstance(answer, NoScriptError) for answer in answers):  # an emptied Redis has run none of them
                await self._in_time(self._load())
                answers = await self._in_time(self._send(calls))
        except Exception as error:  # whatever it is, nobody may wait for ever
            self._kept.extend(call for call in calls if call.future is None)
            for call in calls:
                _fail(call)
            await self._lost(error)
            return
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(call)
                await self._lost(answer)
            elif call.future is not None and not call.future.done():
                call.future.set_result(answer)

    async def _send(self, calls: Sequence[_Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(self._hashes[call.script], len(call.keys), *call.keys, *call.arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    async def _in_time(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Raises TimeoutError for an answer that takes too long."""
        task = asyncio.ensure_future(work)
        try:
            for _ in range(_SLICES):  # a loop that is held up itself must not take Redis for silent
                if not task.done():
                    await asyncio.wait({task}, timeout=ANSWER_S / _SLICES)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=ANSWER_S)
        if task.cancelled():
            raise TimeoutError("no answer in time")
        return task.result()

    async def _lost(self, error: Exception) -> None:
        if not isinstance(error, RedisError | OSError):
            log.error("a bug on the way to Redis", exc_info=error)
        if not self._is_known_away:
            log.warning("Redis cannot be used (%s: %s): %s", type(error).__name__, error, self._while_away)
        self.is_up, self._is_known_away = False, True
        for call in self._next:
            _fail(call)
        self._kept.extend(call for call in self._next if call.future is None)
        self._next = deque()
        with contextlib.suppress(RedisError, OSError):
            await self._redis.connection_pool.disconnect()


def client(url: str) -> Redis:
    """redis-py's, without its own ideas of when to try again. Raises nothing: it connects when it is used."""
    return Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=None)


def scripts_of(lua: str, *names: str) -> dict[str, str]:
    """One script for each of the functions without arguments that `lua` defines."""
    return {name: f"{lua}\nreturn {name}()" for name in names}


def _fail(call: _Call) -> None:
    if call.future is not None and not call.future.done():
        call.future.set_exception(Away())
