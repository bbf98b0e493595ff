"""A server on a real socket that answers each request as a function says, and sees when its caller leaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What comes back: a body, or `pieces` of a stream with its `end`: clean, broken (the connection is cut), or held
    (open until the caller leaves)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: Sequence[bytes] | None = None
    pause_s: float = 0.0
    end: str = "clean"


@dataclass
class Asked:
    """One request; `was_left` when its caller closed the connection before the answer was whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes
    was_left: bool = False
    pieces_sent: int = 0


class ScriptedServer:
    """The running stand-in; made by `scripted_server`. `answer` may be replaced between requests."""

    def __init__(self, url: str, answer: Callable[[Asked], Answer]) -> None:
        self.url = url
        self.answer = answer
        self.asked: list[Asked] = []

    def of(self, path: str) -> list[Asked]:
        """The requests for one path."""
        return [asked for asked in self.asked if asked.path == path]


@contextmanager
def scripted_server(answer: Callable[[Asked], Answer]) -> Iterator[ScriptedServer]:
    """Runs it on a free port of 127.0.0.1, in threads of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.script = ScriptedServer(f"http://127.0.0.1:{server.server_address[1]}", answer)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="scripted", daemon=True)
        thread.start()
        try:
            yield server.script  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        script: ScriptedServer = self.server.script  # type: ignore[attr-defined]
        raw = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, json.loads(raw) if raw else None, raw)
        script.asked.append(asked)
        with suppress(ConnectionError):
            self._send(asked, script.answer(asked))
        self.close_connection = True

    do_POST = do_GET

    def _send(self, asked: Asked, answer: Answer) -> None:
        is_stream = answer.pieces is not None
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header(
            *(("transfer-encoding", "chunked") if is_stream else ("content-length", str(len(answer.body))))
        )
        self.end_headers()
        if answer.pieces is None:
            self.wfile.write(answer.body)
            return
        self.connection.settimeout(0.001)
        for piece in answer.pieces:
            if self._has_left():
                asked.was_left = True
                return
            self.connection.settimeout(10)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            asked.pieces_sent += 1
            time.sleep(answer.pause_s)
        deadline = time.monotonic() + 10
        while answer.end == "held" and time.monotonic() < deadline:
            if self._has_left():
                asked.was_left = True
                return
            time.sleep(0.005)
        if answer.end == "clean":
            self.wfile.write(b"0\r\n\r\n")

    def _has_left(self) -> bool:
        self.connection.settimeout(0.001)
        try:
            return self.connection.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def log_message(self, *_: object) -> None:
        pass
