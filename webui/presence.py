"""Who is here: people with a request under way, or whose last one is not long ago.

A page holds a request open for as long as it is shown, and asks for the server's state again and again, so any number
of tabs is one person. When the last of it has ended and none has come for a while, the person is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from webui.identity import PERSON_HEADER


class Presence:
    """Counts people's open requests; `when_gone` is called with a person's id when that person has gone."""

    def __init__(self, gone_timeout_s: float, when_gone: Callable[[str], None]) -> None:
        self._gone_timeout_s = gone_timeout_s
        self._when_gone = when_gone
        self._open: dict[str, int] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    @contextmanager
    def here(self, person: str) -> Iterator[None]:
        """The person has a request open inside the context."""
        if (leaving := self._leaving.pop(person, None)) is not None:
            leaving.cancel()
        self._open[person] = self._open.get(person, 0) + 1
        try:
            yield
        finally:
            self._open[person] -= 1
            if not self._open[person]:
                del self._open[person]
                loop = asyncio.get_running_loop()
                self._leaving[person] = loop.call_later(self._gone_timeout_s, self._gone, person)

    def close(self) -> None:
        """Nobody goes any more."""
        for leaving in self._leaving.values():
            leaving.cancel()
        self._leaving.clear()

    def _gone(self, person: str) -> None:
        del self._leaving[person]
        self._when_gone(person)


class PresenceMiddleware:
    """Every request of a page says that its person is here; stands behind the identity."""

    def __init__(self, app: ASGIApp, presence: Presence) -> None:
        self._app = app
        self._presence = presence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/gradio_api/"):
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        with self._presence.here(headers[PERSON_HEADER.encode()].decode()):
            await self._app(scope, receive, send)
