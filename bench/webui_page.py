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
    """A person of their own with one page; made by `open_page`. It keeps its components' values, as the page does."""

    def __init__(self, port: int, config: dict[str, Any], cookie: str) -> None:
        self._port = port
        self._actions = {entry["api_name"]: entry for entry in config["dependencies"]}
        self._names = {part["id"]: part["props"].get("elem_id") or str(part["id"]) for part in config["components"]}
        self._values = {self._names[part["id"]]: part["props"].get("value") for part in config["components"]}
        self._cookie = cookie
        self._session = secrets.token_hex(6)

    async def ask(self, text: str) -> Turn:
        """Sends a message, watches its answer to the end and lets the page settle, as the page's own events do."""
        turn = Turn()
        self._values["message"] = text
        await self._act("send", turn)
        await self._post("/gradio_api/queue/join", self._call("watch"), turn)
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
        await self._act("settle", turn)
        return turn

    async def stop(self) -> float:
        """Presses the stop button; returns how many seconds its answer took."""
        begun = time.monotonic()
        await self._act("stop", Turn())
        return time.monotonic() - begun

    async def _act(self, action: str, turn: Turn) -> None:
        """One short action; the list of conversations looks again when it is told to (webui/sidebar.js)."""
        listed = self._values.get("conversations")
        answer = json.loads(await self._post("/gradio_api/run/predict", self._call(action), turn))
        for part, update in zip(self._actions[action]["outputs"], answer["data"], strict=True):
            is_update = isinstance(update, dict) and update.get("__type__") == "update"
            if not is_update or "value" in update:
                self._values[self._names[part]] = update["value"] if is_update else update
        if self._values.get("conversations") != listed:
            await _exchange(self._port, self._request("GET", "/webui/conversations?lang=en&limit=20"), turn)

    async def _post(self, path: str, body: dict[str, Any], turn: Turn) -> bytes:
        return await _exchange(self._port, self._request("POST", path, json.dumps(body).encode()), turn)

    def _call(self, action: str) -> dict[str, Any]:
        """A call of an action by its name, with its inputs as they are."""
        data = [self._values[self._names[part]] for part in self._actions[action]["inputs"]]
        return {"data": data, "fn_index": self._actions[action]["id"], "session_hash": self._session}

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
    turn.text = answer if not turn.text else turn.text
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"bench: the web UI answered {answer[:300]!r}")
    return body
