"""One HTTP/1.1 exchange with an inference server, over TCP, TLS or a Unix socket.

Our own small client on httptools, because the relay lives from three things that general clients do slowly or late:
a read is handed on from within the loop's own callback, without waking a task; closing an exchange closes the
connection at once (which frees the engine); and a slow reader stops the engine instead of filling memory. A
connection whose answer has ended well may carry the next one.
Message format: RFC 9112.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

_HIGH_WATER_BYTES = 64 * 1024
_LARGEST_READ_BYTES = 32 * 1024  # the kernel keeps twice of it; a read is what one slow reader costs in memory
_KEEP_S = 3.0  # uvicorn, which many engines use, gives connections up after 5
_KEEP_AT_MOST = 256
_LINGER_S = 1.0
Take = Callable[[bytes], Awaitable[None] | None]
"""Gets the bytes of one read. What it returns is awaited before anything more is read."""
Pass = Callable[[bytes], bool]
"""Gets a read as it is on the wire, with HTTP's frames; False when it did nothing with it."""
_CRLF = b"\r\n"


class WireError(Exception):
    """The base of what can go wrong here."""


class ConnectFailed(WireError):
    """Nobody listens there, or not within the time."""


class ConnectionBroken(WireError):
    """The connection ended, or spoke something else than HTTP, before the answer was whole."""


class ReadTimeout(WireError):
    """Nothing came within the time."""


@dataclass(frozen=True)
class Address:
    """A parsed upstream URL; `unix_path` is set for a Unix socket, `host` and `port` otherwise."""

    host: str
    port: int
    unix_path: str | None = None
    tls: ssl.SSLContext | None = None
    prefix: str = ""

    @property
    def authority(self) -> str:
        """What the `host` header says: the port too, unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.unix_path is not None or self.port == (443 if self.tls else 80)
        return host if is_default else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Takes `http://host:port/prefix`, `https://…` or `unix:/path`."""
        if url.startswith("unix:"):
            return cls(host="localhost", port=0, unix_path=url.removeprefix("unix:"))
        parts = urlsplit(url)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        return cls(host=parts.hostname or "", port=port, tls=tls, prefix=parts.path.rstrip("/"))


class Exchange(asyncio.Protocol):
    """One request on its way and its answer. Made by `Connections.open`; close it, or use it as a context.

    Args:
        request: the bytes of the request.
        kept: where the connection may go when the answer has ended well.
        is_reused: whether the connection has carried others before.
    """

    def __init__(self, request: bytes, kept: Connections | None = None, *, is_reused: bool = False) -> None:
        self.status = 0
        self._kept = kept
        self._is_reused = is_reused
        self._has_heard = False
        self._has_whole_message = False
        self._lingers = False
        self._may_stay = False
        self.headers: dict[bytes, bytes] = {}
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._has_head = False
        self._ends_by_close = True
        self._complete = False
        self._failure: str | None = None
        self._loop = asyncio.get_running_loop()
        self._wakeup: asyncio.Future[None] | None = None
        self._due_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._take: Take | None = None
        self.shortcut: Pass | None = None
        """Gets each read first while `relay` runs, and spares the parser those that are whole HTTP chunks."""
        self._held: Awaitable[None] | None = None
        self._raised: Exception | None = None
        self.heard_at = 0.0
        """When something came that counts as news, by the loop's clock; `relay` measures its timeout from there."""

    # --- for the caller

    async def read_head(self, timeout_s: float) -> int:
        """Waits for the status line and the headers; returns the status."""
        due_at = self._loop.time() + timeout_s
        while not self._has_head:
            await self._wait(due_at)
        return self.status

    async def read(self, timeout_s: float) -> bytes:
        """The body's bytes that have come since the last read; b"" when the body has ended.

        Raises:
            ReadTimeout: nothing came for `timeout_s`.
            ConnectionBroken: the connection ended before the body did.
        """
        if not self._chunks and not self._complete:
            due_at = self._loop.time() + timeout_s
            while not self._chunks and not self._complete:
                await self._wait(due_at)
        data = self._taken()
        self._go_on_reading()
        return data

    async def relay(self, take: Take, timeout_s: float) -> None:
        """Hands the rest of the body to `take`, read by read as it comes, until it has ended or `stop` was called.

        `take` says by `heard` what counts as news.

        Raises:
            ReadTimeout: no news for `timeout_s`.
            ConnectionBroken: the connection ended before the body did.
            Exception: whatever `take` raised.
        """
        self.heard()
        self._take = take
        try:
            while True:
                while self._chunks:
                    if (held := take(self._taken())) is not None:
                        await self.pause_for(held)
                self._go_on_reading()
                if self._complete:
                    return
                await self._until_signal(timeout_s)
                if self._raised is not None:
                    raise self._raised
                if self._held is not None:
                    held, self._held = self._held, None
                    await self.pause_for(held)
        finally:
            self._take = self.shortcut = None

    def heard(self) -> None:
        """News came."""
        self.heard_at = self._loop.time()

    def stop(self) -> None:
        """Ends `relay` as if the body had ended."""
        self._complete = True
        self.shortcut = None
        self._wake()

    async def read_all(self, timeout_s: float, limit_bytes: int = 4 << 20) -> bytes:
        """The rest of the body, at most `limit_bytes` of it."""
        parts: list[bytes] = []
        size = 0
        while size < limit_bytes and (data := await self.read(timeout_s)):
            parts.append(data)
            size += len(data)
        return b"".join(parts)[:limit_bytes]

    @property
    def was_stale(self) -> bool:
        """Whether it failed only because the server had given up a connection that was kept: to be asked again."""
        return self._is_reused and not self._has_heard and self._failure is not None

    def close(self) -> None:
        """Drops the connection at once, so that an engine that is still generating notices; keeps it when the answer
        has ended, and waits a moment for an end that is only a matter of HTTP."""
        self.shortcut = None  # it knows who knows this: both would wait for the cycle collector
        transport = self._transport
        if transport is None or transport.is_closing() or self._lingers:
            return
        if self._kept is None or not self._complete or self._failure is not None:
            transport.abort()
        elif self._has_whole_message:
            self._park(transport, self._kept)
        else:
            self._lingers = True
            self._take = None
            self._go_on_reading()
            self._loop.call_later(_LINGER_S, self._end_lingering)

    def _park(self, transport: asyncio.Transport, kept: Connections) -> None:
        self._go_on_reading()  # a slow reader may have left it paused
        self._transport = self._parser = None  # the parser knows this: both would wait for the cycle collector
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._may_stay:
            kept.park(transport)
        else:
            transport.abort()

    def _end_lingering(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _taken(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        return data

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _go_on_reading(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    async def pause_for(self, held: Awaitable[None]) -> None:
        """Reads nothing until the receiver has room again; the time that takes is not the sender's."""
        take, self._take = self._take, None
        self._pause()
        await held
        self._take = take
        self.heard()
        self._go_on_reading()

    async def _until_signal(self, timeout_s: float) -> None:
        while True:
            try:
                return await self._wait(self.heard_at + timeout_s)
            except ReadTimeout:
                if self._loop.time() >= self.heard_at + timeout_s:
                    raise

    async def _wait(self, due_at: float) -> None:
        """Until something has happened, or the loop's clock says `due_at`."""
        if self._failure is not None:
            raise ConnectionBroken(self._failure)
        self._expect_by(due_at)
        self._wakeup = self._loop.create_future()
        try:
            await self._wakeup
        finally:
            self._wakeup = self._due_at = None

    def _expect_by(self, due_at: float) -> None:
        """One timer serves many waits: when it fires too early for the wait of the moment, it sleeps on."""
        self._due_at = due_at
        if self._timer is None or self._timer.when() > due_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._due_at is None or self._wakeup is None or self._wakeup.done():
            return
        if self._loop.time() < self._due_at:
            self._timer = self._loop.call_at(self._due_at, self._on_timer)
        else:
            self._wakeup.set_exception(ReadTimeout("nothing came in time"))

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is not a subclass
        if not self._is_reused:
            _limit_reads(self._transport)
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        self._has_heard = True
        if self.shortcut is not None and self._has_passed(self.shortcut, data):
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._failure = f"not an HTTP answer: {error}"
            self.close()
        if self._lingers:
            if self._has_whole_message and self._transport is not None and self._kept is not None:
                self._park(self._transport, self._kept)
            return
        if self._take is not None and self._held is None and self._raised is None:
            self._hand_on(self._take)
            return
        if self._buffered > _HIGH_WATER_BYTES:
            self._pause()
        self._wake()

    def _has_passed(self, shortcut: Pass, data: bytes) -> bool:
        if self._take is None or self._held is not None or self._raised is not None:
            return False
        try:
            return shortcut(data)
        except Exception as error:  # as in `_hand_on`
            self._raised = error
            self._wake()
            return True

    def hold(self, held: Awaitable[None]) -> None:
        """For the shortcut: nothing more is read before `held` is done."""
        self._held = held
        self._pause()
        self._wake()

    def _hand_on(self, take: Take) -> None:
        if self._chunks:
            try:
                self._held = take(self._taken())
            except Exception as error:  # `relay` raises it in the task that waits there
                self._raised = error
            if self._held is not None:
                self._pause()
        if self._held is not None or self._raised is not None or self._complete or self._failure is not None:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._parser = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._complete:
            if self._has_head and self._ends_by_close and error is None and self._failure is None:
                self._complete = True
            else:
                self._failure = self._failure or "the connection ended early"
        self._wake()

    # --- httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers[name] = value
        if name in (b"content-length", b"transfer-encoding"):
            self._ends_by_close = False

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = not 100 <= self.status < 200  # an interim answer: the real one follows

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        self._complete = self._has_whole_message = self._has_head
        self._may_stay = self._has_head and self._parser.should_keep_alive()


def _limit_reads(transport: asyncio.Transport) -> None:
    """Has the kernel gather no more than a slow reader may cost. Before the request is sent: when an answer is coming
    already, the kernel has promised more room than it then has, and the sender tries again five times a second only."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LARGEST_READ_BYTES)


def unchunked(data: bytes) -> bytes | None:
    """The body in a read that is nothing but whole HTTP chunks (RFC 9112, section 7.1), if it is known to be.

    It is when it holds no line ends but those of the chunks' frames, and all sizes are right; then the parser, which
    waits for a chunk, may be left out. A read that begins in the middle of a chunk has one part too many, or a size
    that is wrong. The last chunk, which is empty, is the parser's.
    """
    parts = data.split(_CRLF)
    if not len(parts) & 1 or parts[-1]:
        return None
    try:
        if len(parts) == 3:
            return parts[1] if parts[1] and int(parts[0], 16) == len(parts[1]) else None
        bodies = parts[1::2]
        sizes = [int(size, 16) for size in parts[:-1:2]]
    except ValueError:
        return None
    return b"".join(bodies) if 0 not in sizes and sizes == [len(body) for body in bodies] else None


class Connections:
    """The connections to one server. Those whose answer has ended are kept for a while, for the next request.

    Args:
        keeps: whether to keep any. A server that gives each connection a thread runs out of them otherwise.
    """

    def __init__(self, address: Address, *, keeps: bool = False) -> None:
        self._address = address
        self._keeps = keeps
        self._idle: list[tuple[float, asyncio.Transport]] = []

    async def open(
        self, method: str, path: str, *, headers: dict[str, str], body: bytes = b"", connect_timeout_s: float
    ) -> Exchange:
        """Sends one request, on a connection that was kept or on a new one.

        Raises:
            ConnectFailed: nobody listens there, or not within `connect_timeout_s`.
        """
        request = self._request(method, path, headers, body)
        loop = asyncio.get_running_loop()
        while self._idle:
            parked_at, transport = self._idle.pop()
            if transport.is_closing() or loop.time() - parked_at > _KEEP_S:
                transport.abort()
                continue
            exchange = Exchange(request, self, is_reused=True)
            transport.set_protocol(exchange)
            exchange.connection_made(transport)
            return exchange
        address, kept = self._address, self if self._keeps else None
        try:
            async with asyncio.timeout(connect_timeout_s):
                if address.unix_path is not None:
                    _, exchange = await loop.create_unix_connection(lambda: Exchange(request, kept), address.unix_path)
                else:
                    _, exchange = await loop.create_connection(
                        lambda: Exchange(request, kept), address.host, address.port, ssl=address.tls
                    )
        except (OSError, TimeoutError) as error:
            raise ConnectFailed(f"{type(error).__name__}: {error}") from None
        return exchange

    def park(self, transport: asyncio.Transport) -> None:
        """Keeps a connection on which nothing is open."""
        if len(self._idle) >= _KEEP_AT_MOST:
            transport.abort()
            return
        transport.set_protocol(_Parked(transport))
        self._idle.append((asyncio.get_running_loop().time(), transport))

    def close(self) -> None:
        """Drops those that are kept."""
        while self._idle:
            self._idle.pop()[1].abort()

    def _request(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        address = self._address
        lines = [f"{method} {address.prefix}{path} HTTP/1.1", f"host: {address.authority}"]
        if not self._keeps:
            lines.append("connection: close")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"content-length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class _Parked(asyncio.Protocol):
    """A kept connection: nothing may come on it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.abort()

    def eof_received(self) -> bool:
        return False


async def open_exchange(
    address: Address,
    method: str,
    path: str,
    *,
    headers: dict[str, str],
    body: bytes = b"",
    connect_timeout_s: float,
) -> Exchange:
    """One request on a connection of its own. Raises ConnectFailed."""
    connections = Connections(address)
    return await connections.open(method, path, headers=headers, body=body, connect_timeout_s=connect_timeout_s)
