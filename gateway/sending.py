"""Sending from where nothing can be awaited: an ASGI `send` that is run at once, as far as it goes.

A server's `send` is a coroutine only because it may have to wait for a slow reader. As long as it has not, it ends
without ever giving control away, and so can be run to its end from within a callback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, cast

from starlette.types import Message, Send


def send_now(send: Send, message: Message) -> Awaitable[None] | None:
    """Runs `send(message)`; returns None when that is done, or what to await when it has to wait for the reader."""
    sending = cast("Coroutine[Any, Any, None]", send(message))
    try:
        waits_for = sending.send(None)
    except StopIteration:
        return None
    return _Rest(sending, waits_for)


class _Rest:
    """The rest of a coroutine that has been run up to its first wait. Awaited again, it is over."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._is_over = False

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while not self._is_over:
            thrown: BaseException | None = None
            answer = None
            try:
                answer = yield waits_for
            except BaseException as error:  # a cancellation, or what the wait ended with: the coroutine's to handle
                thrown = error
            try:
                waits_for = self._coroutine.throw(thrown) if thrown else self._coroutine.send(answer)
            except StopIteration:
                self._is_over = True
            except BaseException:
                self._is_over = True
                raise
