"""uvicorn, with the order of a stop that streams need: no new turns, the open ones end, then the connections."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

_AFTER_DRAIN_S = 2


class Server(uvicorn.Server):
    """Serves the gateway, with whatever is mounted on it.

    Args:
        drain_s: how long open answers may go on after the stop was asked for.
    """

    def __init__(self, app: FastAPI, *, host: str, port: int, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                loop="uvloop",
                http="httptools",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_AFTER_DRAIN_S,
                timeout_keep_alive=75,
            )
        )
        self._app = app
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.parts.open_turns.stop(0 if self.force_exit else self._drain_s)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGINT and SIGTERM stop in order, a second SIGINT at once. They are not raised again afterwards, as uvicorn
        does, so that whoever called can tidy up, too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield
