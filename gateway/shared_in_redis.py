"""What several gateways share in Redis, put together: the line, the inbox, limits and slots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway import redis_inbox, redis_limits, shared_slots
from gateway.redis_inbox import Inbox
from gateway.redis_limits import RedisLimits
from gateway.redis_line import Line
from gateway.settings import Settings
from gateway.shared_slots import SharedAdmission
from gateway.upstreams import Upstreams


class SharedInRedis:
    """One gateway's side of it."""

    def __init__(self, settings: Settings, gateway: str) -> None:
        assert settings.redis_url is not None
        scripts = redis_limits.scripts() | redis_inbox.scripts() | shared_slots.scripts()
        self.line = Line(settings.redis_url, scripts, _while_away(settings))
        self.inbox = Inbox(settings.redis_url, self.line, gateway)
        self._admission: SharedAdmission | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Speaks to Redis while the context is open."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.line.running())
            await stack.enter_async_context(self.inbox.running())
            if self._admission is not None:
                await stack.enter_async_context(self._admission.renewed())
            yield

    def limits(self, settings: Settings) -> RedisLimits:
        """The limits of all gateways."""
        return RedisLimits(self.line, is_open=settings.limits_without_redis == "open")

    def admission(self, settings: Settings, upstreams: Upstreams) -> SharedAdmission:
        """The slots of all gateways."""
        names = [member.name for member in upstreams.members]
        self._admission = SharedAdmission(
            self.line,
            self.inbox,
            dict(zip(names, (address.url for address in settings.upstreams), strict=True)),
            server_slots=settings.slots,
            takes=lambda: [member.name for member in upstreams.members if member.takes],
            max_waiting=settings.max_waiting,
            max_wait_s=settings.max_wait_s,
        )
        return self._admission


def _while_away(settings: Settings) -> str:
    limits = "counts for itself" if settings.limits_without_redis == "open" else "refuses requests"
    return f"until it is back each gateway {limits} and takes its share of the slots"
