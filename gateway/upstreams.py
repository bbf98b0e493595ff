"""The inference servers together: which one gets the next answer, and which one is left alone for a while.

The one with the fewest open answers gets it. What fails before the first event is tried at another one, since nobody
has heard anything yet. Who fails in this way is left out until its health check says that it is back; when there is no
other, it is asked all the same. One that drains gets nothing new and finishes what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from gateway.admission import Slot
from gateway.dialects import Prompt
from gateway.errors import GatewayError, Overloaded, UpstreamFailed, UpstreamNotReady, UpstreamTimeout
from gateway.upstream import Generation, Upstream

log = logging.getLogger("gateway.upstreams")
_WATCH_S = 1.0
_FAILURES_TO_EJECT = 3
_REST_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_ELSEWHERE = (UpstreamNotReady, UpstreamFailed, Overloaded)
Result = TypeVar("Result")


class Member:
    """One server and what is known of it.

    Attributes:
        name: its engine and its number, such as `tgi-1`.
        is_draining: it gets nothing new.
        is_ejected: it failed, and gets nothing until it is back.
    """

    def __init__(self, name: str, upstream: Upstream) -> None:
        self.name = name
        self.upstream = upstream
        self.is_draining = False
        self.is_ejected = False
        self.open = 0
        self._failures = 0
        self._ejections = 0
        self._rests_until = 0.0

    @property
    def takes(self) -> bool:
        """Whether it may get the next answer."""
        return not self.is_draining and not self.is_ejected

    def succeeded(self) -> None:
        self._failures = self._ejections = 0

    def failed(self, error: GatewayError) -> None:
        """Ejects it when it does not listen, or has failed several times in a row."""
        self._failures += 1
        if self.is_ejected or not (isinstance(error, UpstreamNotReady) or self._failures >= _FAILURES_TO_EJECT):
            return
        self.is_ejected = True
        rest_s = _REST_S[min(self._ejections, len(_REST_S) - 1)]
        self._ejections += 1
        self._rests_until = time.monotonic() + rest_s
        log.warning("%s is left out for at least %g s: %s", self.name, rest_s, error.message)

    async def look(self) -> None:
        """Asks an ejected one whether it is back, and one that stands alone in silence whether it still is."""
        if time.monotonic() < self._rests_until:
            return
        is_ready = await self.upstream.is_ready()
        if is_ready and self.is_ejected:
            self.is_ejected, self._failures = False, 0
            log.warning("%s is back", self.name)
        elif not is_ready and not self.is_ejected:
            self.is_ejected = True
            log.warning("%s does not answer its health check, and is left out", self.name)


class Upstreams:
    """All servers of one model.

    Args:
        on_change: called with the number of servers that take answers whenever that changes.
        on_failure: called with the id of a server and the code of its failure.
        why_not_ready: a better error than that a server is not ready, where there is one.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        on_change: Callable[[int], None] | None = None,
        on_failure: Callable[[str, str], None] | None = None,
        why_not_ready: Callable[[], UpstreamNotReady | None] = lambda: None,
    ) -> None:
        self.retries = 0
        """How often another server was asked since the start, because one failed before it said anything."""
        self.was_ready_at: float | None = None
        """When is_ready() last was true, in Unix seconds."""
        self.members = [Member(f"{upstream.engine}-{n}", upstream) for n, upstream in enumerate(upstreams, 1)]
        self._on_change = on_change
        self._on_failure = on_failure
        self._why_not_ready = why_not_ready
        self._taking = len(self.members)

    @property
    def engine(self) -> str:
        """The engine of the first, for what only one engine has."""
        return self.members[0].upstream.engine

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Looks after several servers while the context is open; a single one is simply asked."""
        watching = asyncio.create_task(self._watch()) if len(self.members) > 1 else None
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait({watching})
            for member in self.members:
                member.upstream.close()

    async def open(self, prompt: Prompt, slot: Slot | None = None) -> Generation:
        """Starts a generation where `slot` is, or at the least busy server; at another one when that fails.

        Raises as Upstream.open.
        """
        at = slot.server if slot is not None else None
        return await self._somewhere(lambda member: self._open_at(member, prompt, slot), at)

    async def count(self, text: str) -> int:
        """How many tokens `text` has. Raises as Upstream.count."""
        return await self._somewhere(lambda member: member.upstream.count(text))

    async def count_prompt(self, prompt: Prompt) -> int:
        """How many tokens `prompt` has with its template. Raises as Upstream.count."""
        return await self._somewhere(lambda member: member.upstream.count_prompt(prompt))

    async def fetch(self, method: str, path: str, body: bytes) -> bytes:
        """The body of a small answer that is no generation. Raises as Upstream.fetch."""
        return await self._somewhere(lambda member: member.upstream.fetch(method, path, body))

    async def is_ready(self) -> bool:
        """Whether any of them can serve a completion."""
        asked = [member for member in self.members if member.takes or len(self.members) == 1]
        is_ready = any(await asyncio.gather(*(member.upstream.is_ready() for member in asked)))
        if is_ready:
            self.was_ready_at = time.time()
        return is_ready

    def set_draining(self, name: str, is_draining: bool) -> Member | None:
        """Takes a server out of the choice, or back in; None when there is no such one."""
        member = next((member for member in self.members if member.name == name), None)
        if member is not None:
            member.is_draining = is_draining
            self._tell()
        return member

    async def _open_at(self, member: Member, prompt: Prompt, slot: Slot | None) -> Generation:
        if slot is not None:
            slot.use(member.name)
        member.open += 1
        try:
            generation = await member.upstream.open(prompt)
        except BaseException:
            member.open -= 1
            raise
        generation.served_by = member.name
        generation.when_closed(lambda: _closed(member))
        return generation

    async def _somewhere(self, ask: Callable[[Member], Awaitable[Result]], at: str | None = None) -> Result:
        tried: list[Member] = []
        while True:
            member = self._choose(tried, at)
            try:
                result = await ask(member)
            except _ELSEWHERE as error:
                tried.append(member)
                self._failed(member, error)
                if not any(other.takes for other in self.members if other not in tried):
                    raise (isinstance(error, UpstreamNotReady) and self._why_not_ready()) or error from None
                self.retries += 1
                log.info("%s failed before it said anything; another one is asked", member.name)
            except UpstreamTimeout as error:  # whoever has waited that long does not want to wait again
                self._failed(member, error)
                raise
            else:
                if isinstance(result, Generation):  # one that counts tokens, but does not generate, is no success
                    member.succeeded()
                return result

    def _choose(self, tried: Sequence[Member], at: str | None) -> Member:
        rest = [member for member in self.members if member not in tried]
        taking = [member for member in rest if member.takes]
        for member in taking if at is not None else ():
            if member.name == at:
                return member
        candidates = taking or [member for member in rest if not member.is_draining] or rest
        return min(candidates, key=lambda member: member.open)

    def _failed(self, member: Member, error: GatewayError) -> None:
        if self._on_failure is not None:
            self._on_failure(member.name, error.code)
        if len(self.members) > 1 and not isinstance(error, Overloaded):
            member.failed(error)
            self._tell()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            for member in self.members:
                with contextlib.suppress(GatewayError):
                    await member.look()
            self._tell()

    def _tell(self) -> None:
        taking = sum(member.takes for member in self.members)
        if taking != self._taking:
            self._taking = taking
            if self._on_change is not None:
                self._on_change(taking)


def _closed(member: Member) -> None:
    member.open -= 1
