"""Our HTTP/1.1 client against servers that answer in unusual but legal ways, and in illegal ones."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence

import pytest

from gateway.wire import Address, ConnectFailed, ConnectionBroken, ReadTimeout, open_exchange

pytestmark = pytest.mark.unit


def ask(pieces: Sequence[bytes], *, pause_s: float = 0.01, timeout_s: float = 2) -> tuple[int, bytes]:
    """Status and body that the client makes of `pieces`, sent one by one before the connection is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_serve_once, args=(listener, pieces, pause_s))
        server.start()
        try:
            return asyncio.run(_ask(listener.getsockname()[1], timeout_s))
        finally:
            server.join()


def _serve_once(listener: socket.socket, pieces: Sequence[bytes], pause_s: float) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)


async def _ask(port: int, timeout_s: float) -> tuple[int, bytes]:
    with await open_exchange(Address("127.0.0.1", port), "GET", "/", headers={}, connect_timeout_s=2) as exchange:
        status = await exchange.read_head(timeout_s)
        return status, await exchange.read_all(timeout_s)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("split", [False, True], ids=["in one read", "in two reads"])
def test_an_interim_answer_is_not_the_answer(split: bool) -> None:
    interim, final = b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"content-length: 2\r\n\r\nhi"
    assert ask([interim, final] if split else [interim + final]) == (200, b"hi")


@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"content-length: 5\r\n\r\nhello"],
        [bytes([byte]) for byte in OK + b"content-length: 5\r\n\r\nhello"],
        [OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3;ext=1\r\nllo\r\n0\r\ntrailer: x\r\n\r\n"],
        [OK + b"\r\nhel", b"lo"],
    ],
    ids=["length", "byte by byte", "chunked", "until closed"],
)
def test_a_body_is_whole_however_it_comes(pieces: list[bytes]) -> None:
    assert ask(pieces, pause_s=0.001) == (200, b"hello")


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 20"],
        [OK + b"content-length: 9\r\n\r\nhello"],
        [OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
    ],
    ids=["nothing", "half a head", "short body", "no last chunk", "not http"],
)
def test_a_cut_answer_is_broken_and_never_whole(pieces: list[bytes]) -> None:
    with pytest.raises(ConnectionBroken):
        ask(pieces)


def test_a_head_that_drips_ends_with_the_time() -> None:
    drops = [bytes([byte]) for byte in OK + b"x-padding: " + b"a" * 200]
    with pytest.raises(ReadTimeout):
        ask(drops, pause_s=0.05, timeout_s=0.4)


def test_nobody_there_is_told_apart() -> None:
    async def run() -> None:
        await open_exchange(Address("127.0.0.1", 9), "GET", "/", headers={}, connect_timeout_s=2)

    with pytest.raises(ConnectFailed):
        asyncio.run(run())
