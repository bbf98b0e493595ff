"""The load generator: an own asyncio protocol that keeps what came and looks at it when the answer is whole."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from bench.script import Script

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
_TOKENS = (re.compile(rb'"content":"'), re.compile(rb'"type":"response\.output_text\.delta"'))
_RESPONSE_ID = re.compile(rb'"id":"(resp_\w+)"')
_STAMP = re.compile(rb'" t(\d{6,})"')
_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
_LAST_FRAME = b"\r\n0\r\n\r\n"


@dataclass
class Reply:
    """One answer; times are of time.monotonic().

    Attributes:
        body: without HTTP's chunk frames.
        is_whole: HTTP's end was reached; False when the connection ended before it.
        first_at: when the first token had come, None without one.
        ages_s: of each stamped token, from its making to its arrival here.
    """

    begun_at: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    first_at: float | None = None
    ended_at: float = 0.0
    ages_s: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Events that carry a token, of a stream of either API."""
        return max(len(pattern.findall(self.body)) for pattern in _TOKENS)

    @property
    def is_complete(self) -> bool:
        """Whether a client would take it for a complete answer: its API's closing event, or a whole JSON body."""
        if not self.is_whole or self.status != 200:
            return False
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return self.body.endswith(b"data: [DONE]\n\n") or b'"type":"response.completed"' in self.body
        answer = self.json()
        return bool(answer["object"] != "response" or answer["status"] == "completed")

    @property
    def response_id(self) -> str | None:
        """The id of a response, once it was told: its question is then on disk."""
        found = _RESPONSE_ID.search(self.body)
        return found[1].decode() if found else None

    @property
    def ttft_s(self) -> float:
        """From the request to the first token; raises when there was none."""
        if self.first_at is None:
            raise SystemExit(f"bench: no token came: {self.status} {self.body[:300]!r}")
        return self.first_at - self.begun_at

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One connection: a request at a time, kept alive between them; made by `connect`."""

    def __init__(self, *, is_slow: bool = False) -> None:
        self.local_port = 0
        self._is_slow = is_slow
        self._transport: asyncio.Transport
        self._reply: Reply | None = None
        self._done: asyncio.Future[Reply]
        self._received: list[bytes] = []
        self._tail = b""
        self._left = -1
        self._is_open = True

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        """Sends a request made by `request`; the future gives its answer, whole or not."""
        self._done = asyncio.get_running_loop().create_future()
        self._received, self._tail, self._left = [], b"", -1
        self._reply = Reply(time.monotonic())
        if self._is_open:
            self._transport.write(request)
        else:
            self._finish(is_whole=False)
        return self._done

    def leave(self) -> float:
        """Closes the connection at once, as a client that goes away; returns when."""
        self._transport.abort()
        return time.monotonic()

    def read_on(self) -> None:
        """Ends the slowness of a slow reader."""
        self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._is_slow:
            # Not here: Python 3.11.2 begins to read after this method, whatever it has said.
            asyncio.get_running_loop().call_soon(self._transport.pause_reading)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            return
        self._received.append(data)
        if reply.status == 0:
            self._read_head(reply)
            data = self._received[0]
        elif self._left >= 0:
            self._left -= len(data)
        if reply.first_at is None and any(pattern.search(data) for pattern in _TOKENS):
            reply.first_at = time.monotonic()
        if b'" t' in data:
            now = time.monotonic_ns()
            reply.ages_s += [(now - int(stamp)) / 1e9 for stamp in _STAMP.findall(data)]
        if reply.status and self._has_ended(reply, data):
            self._finish(is_whole=True)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_open = False
        if self._reply is not None:
            self._finish(is_whole=False)

    def _read_head(self, reply: Reply) -> None:
        received = b"".join(self._received)
        head, end, body = received.partition(b"\r\n\r\n")
        self._received = [body if end else received]
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        reply.status = int(lines[0].split(" ")[1])
        reply.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = _LENGTH.search(head)
        self._left = int(length[1]) - len(body) if length else -1
        self._tail = b"\r\n"

    def _has_ended(self, reply: Reply, data: bytes) -> bool:
        if "content-length" in reply.headers:
            return self._left <= 0
        self._tail = (self._tail + data)[-len(_LAST_FRAME) :]
        return self._tail == _LAST_FRAME

    def _finish(self, *, is_whole: bool) -> None:
        reply, self._reply = self._reply, None
        if reply is None or self._done.done():
            return
        reply.ended_at = time.monotonic()
        reply.is_whole = is_whole
        body = b"".join(self._received)
        reply.body = unframed(body) if "transfer-encoding" in reply.headers else body
        self._received = []
        self._done.set_result(reply)


@dataclass(frozen=True)
class Target:
    """Where a request goes, and how it must be written there.

    Attributes:
        pid: the process whose CPU counts.
        path: CHAT or RESPONSES.
        unix_path: a socket to go to, instead of the port of 127.0.0.1.
    """

    name: str
    pid: int
    port: int
    key: str = "none"
    path: str = CHAT
    unix_path: str = ""

    def request(self, script: Script, *, stream: bool = True, prompt: str = "", **fields: Any) -> bytes:
        """A request for the answer that `script` describes; `prompt` stands before it."""
        text = f"{prompt} {script}".strip()
        asked = {"input": text} if self.path == RESPONSES else {"messages": [{"role": "user", "content": text}]}
        return self.raw("POST", self.path, {"model": "bench", **asked, "stream": stream, **fields})

    def raw(self, method: str, path: str, body: Any = None) -> bytes:
        """Any request, as bytes."""
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def get(self, path: str) -> bytes:
        """A GET, as bytes."""
        return self.raw("GET", path)

    async def ask(self, request: bytes) -> Reply:
        """One request on a connection of its own."""
        async with Connections(self, 1) as (connection,):
            return await connection.send(request)


class Connections:
    """`async with Connections(target, 64) as connections:` opens that many, and closes them."""

    def __init__(self, target: Target, count: int, *, is_slow: bool = False) -> None:
        self._target = target
        self._count = count
        self._is_slow = is_slow
        self._open: list[Connection] = []

    async def __aenter__(self) -> list[Connection]:
        self._open = [await connect(self._target, is_slow=self._is_slow) for _ in range(self._count)]
        return self._open

    async def __aexit__(self, *_: object) -> None:
        for connection in self._open:
            connection.leave()


async def connect(target: Target, *, is_slow: bool = False) -> Connection:
    """Opens a connection; a slow one reads nothing until `read_on`."""
    loop = asyncio.get_running_loop()
    make = partial(Connection, is_slow=is_slow)
    if is_slow:  # so that the answer waits in the proxy, and not in the kernel
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        await loop.sock_connect(small, ("127.0.0.1", target.port))
        _, connection = await loop.create_connection(make, sock=small)
    elif target.unix_path:
        _, connection = await loop.create_unix_connection(make, target.unix_path)
    else:
        _, connection = await loop.create_connection(make, "127.0.0.1", target.port)
    return connection


async def all_at_once(connections: Iterable[Connection], request: bytes) -> list[Reply]:
    """The same request on every connection; the answers in that order."""
    return await asyncio.gather(*(connection.send(request) for connection in connections))


def unframed(data: bytes) -> bytes:
    """The body out of HTTP's chunks, as far as it came (RFC 9112, section 7.1)."""
    parts, at = [], 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].split(b";")[0], 16)
        if size == 0:
            break
        parts.append(data[line_end + 2 : line_end + 2 + size])
        at = line_end + 2 + size + 2
    return b"".join(parts)
