"""uvicorn, with the order of a stop that streams need: no new turns, the open ones end, then the connections."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

_AFTER_DRAIN_S = 2


class Server(uvicorn.Server):
    """Serves `app`, the gateway or an app around it.

    Args:
        gateway: the gateway's own app, whose turns are ended before the connections are.
        drain_s: how long open answers may go on after the stop was asked for.
    """

    def __init__(self, app: ASGIApp, gateway: FastAPI, *, host: str, port: int, drain_s: float) -> None:
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
        self._gateway = gateway
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.state.parts.open_turns.stop(self._drain_s)
        await super().shutdown(sockets)
