"""One page of the web UI without a browser: it asks what Gradio's script asks for a message, and counts the bytes."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

_CONFIG = re.compile(r"window\.gradio_config = (\{.*?\});</script>", re.DOTALL)
_COOKIE = re.compile(rb"set-cookie: ?([^;\r]+)", re.IGNORECASE)
_COMPLETED = b'"process_completed"'


@dataclass
class Turn:
    """What came for one message; times are of time.monotonic().

    Attributes:
        bytes_up, bytes_down: whole requests and answers, with HTTP's heads and frames, of the message and its stream.
        updates: when each piece of the stream came.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    updates: list[float] = field(default_factory=list)
    text: bytes = b""
    ended_at: float = 0.0

    @property
    def is_complete(self) -> bool:
        return _COMPLETED in self.text and b'"success":true' in self.text.replace(b'"success": true', b'"success":true')


class PageClient:
    """A person of their own with one page; made by `open_page`."""

    def __init__(self, port: int, config: dict[str, Any], cookie: str) -> None:
        self.person = cookie.partition("=")[2].partition(".")[0]
        self._port = port
        self._config = config
        self._cookie = cookie
        self._session = secrets.token_hex(6)

    async def ask(self, text: str) -> Turn:
        """Sends a message and reads its stream to the end."""
        turn = Turn()
        await self._post("/gradio_api/queue/join", self._call("send", message=text), turn)
        request = self._request("GET", f"/gradio_api/queue/data?session_hash={self._session}")
        turn.bytes_up += len(request)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        pieces = []
        while piece := await reader.read(1 << 18):
            pieces.append(piece)
            turn.bytes_down += len(piece)
            turn.updates.append(time.monotonic())
            if _COMPLETED in piece:
                turn.ended_at = turn.updates[-1]
        writer.close()
        turn.text = b"".join(pieces)
        return turn

    async def stop(self) -> float:
        """Presses the stop button; returns how many seconds its answer took."""
        begun = time.monotonic()
        await self._post("/gradio_api/run/predict", self._call("stop"), Turn())
        return time.monotonic() - begun

    async def get(self, path: str) -> bytes:
        """The body at a path."""
        return await _exchange(self._port, self._request("GET", path), Turn())

    async def _post(self, path: str, body: dict[str, Any], turn: Turn) -> None:
        await _exchange(self._port, self._request("POST", path, json.dumps(body).encode()), turn)

    def _call(self, action: str, **typed: str) -> dict[str, Any]:
        """A call of an action by name; inputs are as the page has them at first, but for what is typed, by element."""
        dependency = next(entry for entry in self._config["dependencies"] if entry["api_name"] == action)
        props = {part["id"]: part["props"] for part in self._config["components"]}
        data = [typed.get(props[i].get("elem_id") or "", props[i].get("value")) for i in dependency["inputs"]]
        return {"data": data, "fn_index": dependency["id"], "session_hash": self._session}

    def _request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncookie: {self._cookie}\r\n"
            f"connection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def open_page(port: int) -> PageClient:
    """Loads the page as somebody new."""
    request = f"GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode()
    page = Turn()
    body = await _exchange(port, request, page)
    cookie, config = _COOKIE.search(page.text), _CONFIG.search(body.decode())
    if cookie is None or config is None:
        raise SystemExit(f"bench: the page has no cookie or no configuration: {page.text[:300]!r}")
    return PageClient(port, json.loads(config[1]), cookie[1].decode())


async def _exchange(port: int, request: bytes, turn: Turn) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read(-1)
    writer.close()
    turn.bytes_up += len(request)
    turn.bytes_down += len(answer)
    turn.text = answer
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"bench: the web UI answered {answer[:300]!r}")
    return body
