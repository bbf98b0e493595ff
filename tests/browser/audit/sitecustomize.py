"""Loaded by Python at the start of the servers under test: writes down every host they look up or connect to.

Python reports its own sockets only, so the servers run on asyncio's loop here and not on uvloop's.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def _write_down(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    with open(os.environ["AUDIT_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{host.decode() if isinstance(host, bytes) else host}\n")


if os.environ.get("AUDIT_LOG"):
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    sys.addaudithook(_write_down)
