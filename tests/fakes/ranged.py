"""Large content over HTTP, whole or the range that was asked for; cut or slow when a test says so."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

PIECE_BYTES = 1 << 16


@dataclass
class Faults:
    """`cut_after`: for the next downloads, the bytes after which each is cut. `bytes_per_s` 0: as fast as it goes."""

    cut_after: list[int] = field(default_factory=list)
    bytes_per_s: int = 0


def send_content(
    handler: BaseHTTPRequestHandler,
    content: bytes,
    faults: Faults,
    count: Callable[[int], None],
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answers the handler's request; `count` is told the size of each piece that was sent."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    start = int(found[1]) if found else 0
    end = min(len(content), int(found[2]) + 1) if found and found[2] else len(content)
    handler.send_response(206 if found else 200)
    if found:
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
    for name, value in {**(headers or {}), "Content-Length": str(end - start), "Connection": "close"}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    stop = min(end, start + faults.cut_after.pop(0)) if faults.cut_after and end - start > PIECE_BYTES else end
    while start < stop:
        piece = content[start : min(start + PIECE_BYTES, stop)]
        handler.wfile.write(piece)
        start += len(piece)
        count(len(piece))
        if faults.bytes_per_s:
            time.sleep(len(piece) / faults.bytes_per_s)
