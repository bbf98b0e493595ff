"""Connections that carry one request after the other: only when the last answer has ended, never to a caller's cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.wire import Address, ConnectionBroken, Connections

pytestmark = pytest.mark.unit
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
Serve = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers with what `serve` writes; counts connections and requests."""

    def __init__(self, serve: Serve) -> None:
        self.connections = 0
        self.requests = 0
        self.left = 0
        self._serve = serve

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                await self._serve(self.requests, reader, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


def run(serve: Serve, ask: Callable[[Connections, Server], Awaitable[None]], *, keeps: bool = True) -> Server:
    async def main() -> Server:
        server = Server(serve)
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            connections = Connections(Address("127.0.0.1", listening.sockets[0].getsockname()[1]), keeps=keeps)
            await ask(connections, server)
            connections.close()
            await asyncio.sleep(0.05)
        return server

    return asyncio.run(main())


async def body_of(connections: Connections) -> bytes:
    with await connections.open("GET", "/", headers={}, connect_timeout_s=2) as exchange:
        await exchange.read_head(2)
        return await exchange.read_all(2)


async def hello(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED + b"0\r\n\r\n")
    await writer.drain()


def test_an_answer_that_has_ended_leaves_its_connection_to_the_next() -> None:
    async def ask(connections: Connections, _: Server) -> None:
        for _n in range(5):
            assert await body_of(connections) == b"hello"

    server = run(hello, ask)
    assert (server.connections, server.requests) == (1, 5)
    assert run(hello, ask, keeps=False).connections == 5


def test_an_answer_that_is_left_closes_its_connection() -> None:
    async def begin(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await writer.drain()

    async def ask(connections: Connections, server: Server) -> None:
        with await connections.open("GET", "/", headers={}, connect_timeout_s=2) as exchange:
            await exchange.read_head(2)
            assert await exchange.read(2) == b"hello"
        await asyncio.sleep(0.05)
        assert server.left == 1

    run(begin, ask)


def test_one_who_stops_early_waits_a_moment_for_the_end_of_the_message() -> None:
    async def late_end(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def ask(connections: Connections, server: Server) -> None:
        for _n in range(3):
            with await connections.open("GET", "/", headers={}, connect_timeout_s=2) as exchange:
                await exchange.read_head(2)
                await exchange.relay(lambda data, exchange=exchange: exchange.stop(), 2)  # type: ignore[misc]
            await asyncio.sleep(0.4)
        assert server.connections == 1

    run(late_end, ask)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["said so", "HTTP/1.0"],
)
def test_a_server_that_wants_no_more_is_not_asked_again(answer: bytes) -> None:
    async def serve(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async def ask(connections: Connections, _: Server) -> None:
        for _n in range(3):
            assert await body_of(connections) == b"hello"

    assert run(serve, ask).connections == 3


def test_a_connection_that_the_server_gave_up_is_told_apart_from_a_failure() -> None:
    async def once(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if number == 2:
            writer.transport.abort()
            return
        writer.write(CHUNKED + b"0\r\n\r\n")
        await writer.drain()

    async def ask(connections: Connections, _: Server) -> None:
        assert await body_of(connections) == b"hello"
        exchange = await connections.open("GET", "/", headers={}, connect_timeout_s=2)
        with pytest.raises(ConnectionBroken):
            await exchange.read_head(2)
        assert exchange.was_stale
        assert await body_of(connections) == b"hello"

    run(once, ask)


def test_what_comes_on_a_kept_connection_ends_it() -> None:
    async def chatty(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.03)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad")

    async def ask(connections: Connections, _: Server) -> None:
        assert await body_of(connections) == b"hello"
        await asyncio.sleep(0.1)
        assert await body_of(connections) == b"hello"

    assert run(chatty, ask).connections == 2


def test_a_connection_whose_reader_was_slow_and_left_is_read_from_again() -> None:
    async def ask(connections: Connections, server: Server) -> None:
        with await connections.open("GET", "/", headers={}, connect_timeout_s=2) as exchange:
            await exchange.read_head(2)

            def take(data: bytes) -> Awaitable[None]:
                return asyncio.sleep(10)

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await exchange.relay(take, 2)
        assert await body_of(connections) == b"hello"
        assert server.connections == 1

    async def late(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.03)
        writer.write(b"5\r\nhello\r\n0\r\n\r\n")
        await writer.drain()

    run(late, ask)
