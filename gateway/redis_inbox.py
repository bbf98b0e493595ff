"""What this gateway is told through Redis: slots that came free, and what happens in answers of other gateways.

Each gateway has one stream that it alone reads, in order, on a connection of its own. It is bounded in length and gone
a minute after the last message; what was read is removed with the next reading. Who is not told something in time asks
again, so messages may be lost with Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisError

from gateway.redis_line import ANSWER_S, Line, client, scripts_of

log = logging.getLogger("gateway.redis")
LENGTH = 10_000
_PREFIX = "gateway:inbox:"
_BLOCK_S = 1.0
_LATEST = 1000
_LUA = """
local function tell()
  local length = redis.call('XLEN', KEYS[1])
  if length >= tonumber(ARGV[2]) then
    return 0
  end
  redis.call('XADD', KEYS[1], '*', 'kind', ARGV[3], unpack(ARGV, 4))
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  return 1
end
"""
_KEPT_MS = 60_000
Take = Callable[[Mapping[str, str]], None]


def scripts() -> dict[str, str]:
    """What the line to Redis has to know."""
    return scripts_of(_LUA, "tell")


class Inbox:
    """The stream of this gateway, and the way to those of others.

    Args:
        url: where Redis is.
        line: to the same.
        gateway: the id of this one.
    """

    def __init__(self, url: str, line: Line, gateway: str) -> None:
        self.gateway = gateway
        self._line = line
        self._redis = client(url)
        self._takes: dict[str, Take] = {}
        self._last = "0"

    def on(self, kind: str, take: Take) -> None:
        """Has `take` called with the fields of each message of that kind."""
        self._takes[kind] = take

    async def tell(self, to: str, kind: str, **fields: str | int) -> bool:
        """Puts a message into the inbox of a gateway; False when that reads nothing any more. Raises Away."""
        said = [part for pair in fields.items() for part in pair]
        return bool(await self._line.call("tell", [_PREFIX + to], [_KEPT_MS, LENGTH, kind, *said]))

    def post(self, to: str, kind: str, **fields: str | int) -> None:
        """The same without waiting; while Redis is away nothing is said."""
        if self._line.is_up:
            said = [part for pair in fields.items() for part in pair]
            self._line.post("tell", [_PREFIX + to], [_KEPT_MS, LENGTH, kind, *said])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads while the context is open."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self._redis.aclose()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_BLOCK_S + 4 * ANSWER_S):
                    messages = await self._read()
            except (RedisError, OSError):  # TimeoutError is one; that it is away, the line tells
                with contextlib.suppress(RedisError, OSError):
                    await self._redis.connection_pool.disconnect()
                await asyncio.sleep(ANSWER_S)
                continue
            for message, fields in messages:
                self._last = message
                take = self._takes.get(fields["kind"])  # a newer version may say more
                try:
                    if take is not None:
                        take(fields)
                except Exception:  # a bug in one must not make this gateway deaf
                    log.exception("a message of another gateway")

    async def _read(self) -> list[tuple[str, dict[str, str]]]:
        key = _PREFIX + self.gateway
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.xtrim(key, minid=self._last, approximate=False)  # the last one stays: it costs nothing
            pipeline.xread({key: self._last}, count=_LATEST, block=int(_BLOCK_S * 1000))
            _, streams = await pipeline.execute()
        return _messages(streams)


def _messages(streams: Any) -> list[tuple[str, dict[str, str]]]:
    """Of the one stream that was read: [[name, [[id, {field: value}], ...]]], or nothing."""
    if not streams:
        return []
    (_, messages), *_ = streams.items() if isinstance(streams, dict) else streams
    return list(messages)
