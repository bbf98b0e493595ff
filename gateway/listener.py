"""Closes a listening socket so that no connection is lost.

What the kernel has connected and nobody has accepted is reset when its listener closes, and whoever had sent a request
there cannot know whether it was read. So new connections are held off first: their first packet is dropped, which their
clients send again after a second, to a port that then refuses it, or to another gateway. What had begun to connect gets
a moment to end, all is accepted, and only then the listener closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

_HANDSHAKE_S = 0.05
_MOST_S = 1.0
_TURNS_UNTIL_MADE = 3
"""Turns of the loop from accepting a connection to its protocol's `connection_made`: asyncio's needs two."""
_SO_ATTACH_FILTER = 26  # Linux; Python's socket module does not name it
# Classic BPF (Documentation/networking/filter.rst): drop what has SYN and no ACK among TCP's flags, take all else.
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte with the flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # take
)


async def close_without_loss(
    servers: Sequence[asyncio.Server],
    given: Sequence[socket.socket] = (),
    *,
    is_forced: Callable[[], bool] = lambda: False,
) -> None:
    """Closes the listening sockets of `servers`, and those they were `given`, when nothing waits in them any more.

    It takes a second at most, as when no file descriptor is left to accept with, and ends at once when `is_forced`.
    Where the kernel knows no such filter (it is Linux's), or wants CAP_NET_ADMIN for it as some do, a connection may
    come within the microseconds before the end.
    """
    ends_at = time.monotonic() + _MOST_S
    waiting = select.poll()
    for listener in (one for server in servers for one in server.sockets):
        waiting.register(listener.fileno(), select.POLLIN)
        if sys.platform == "linux":
            _hold_off(listener.fileno())
    await asyncio.sleep(_HANDSHAKE_S)
    while waiting.poll(0) and time.monotonic() < ends_at and not is_forced():
        await asyncio.sleep(0)  # the loop accepts
    for _ in range(_TURNS_UNTIL_MADE):
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    for one in given:
        one.close()


def _hold_off(number: int) -> None:
    """New connections to the listening socket with that file descriptor are neither taken nor refused."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(code))
    with contextlib.suppress(OSError):
        listener = socket.socket(fileno=number)  # no copy: there may be no file descriptor left
        try:
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        finally:
            listener.detach()
