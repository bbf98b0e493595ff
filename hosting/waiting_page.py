"""The public port while another Python is made: a page that says how far it is, and honest answers for programs.

It ends before the other Python takes the port over; who comes between waits in the port's queue.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STAGES = {
    "python": ("looking for Python 3.11 or newer", "正在查找 Python 3.11 或更高版本"),
    "make-python": ("getting a newer Python", "正在获取较新的 Python"),
    "packages": ("installing packages", "正在安装依赖包"),
    "more": ("installing APP_PACKAGES", "正在安装 APP_PACKAGES"),
    "unpacking": ("unpacking the packages", "正在解包依赖包"),
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>InternLM Chat</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32em;padding:0 1em;text-align:center}
progress{width:100%%;height:1em}</style></head><body><h1>InternLM Chat</h1>
<p role="status">%(en)s</p><p lang="zh">%(zh)s</p><progress %(bar)s></progress>
<p>%(elapsed)s</p></body></html>
"""


class WaitingPage:
    """Serves on `listener` from entering to leaving; the listener itself stays open."""

    def __init__(self, listener: socket.socket, frame_ancestors: str = "") -> None:
        self._listener = listener
        self._frame_ancestors = frame_ancestors or "'self'"
        self._stage, self._done, self._total = "python", 0, 0
        self._began_at = time.monotonic()
        self._server: _Server | None = None

    def tell(self, stage: str, done: int, total: int) -> None:
        self._stage, self._done, self._total = stage, done, total

    def __enter__(self) -> WaitingPage:
        self._server = _Server(self._listener, self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()

    @property
    def text(self) -> tuple[str, str]:
        """In English and Chinese."""
        english, chinese = STAGES[self._stage]
        count = f" {self._done} / {self._total}" if self._total else ""
        return english + count, chinese + count

    def html(self) -> bytes:
        english, chinese = self.text
        bar = f'value="{self._done}" max="{self._total}"' if self._total else ""
        minutes, seconds = divmod(int(time.monotonic() - self._began_at), 60)
        return (PAGE % {"en": english, "zh": chinese, "bar": bar, "elapsed": f"{minutes}:{seconds:02d}"}).encode()

    def error(self) -> bytes:
        """In the form of OpenAI's."""
        message = f"The server is being installed: {self.text[0]}. Try again in a minute."
        body = {"message": message, "type": "server_error", "param": None, "code": "upstream_not_ready"}
        return json.dumps({"error": body}).encode()

    def policy(self) -> str:
        return f"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors {self._frame_ancestors}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, page: WaitingPage) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.page = page

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        connection.settimeout(5)  # who says nothing holds no thread
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """People leave in mid-answer; nobody needs to hear of it."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        page, path = self.server.page, self.path.split("?")[0]
        if path == "/":
            self._answer(200, "text/html; charset=utf-8", page.html())
        elif path == "/healthz":
            self._answer(200, "application/json", b'{"status": "ok"}')
        else:
            self._answer(503, "application/json", page.error())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(503, "application/json", self.server.page.error())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", self.server.page.policy())
        self.send_header("Connection", "close")
        if status == 503:
            self.send_header("Retry-After", "30")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The log is for the installation."""
