"""Heads without an end: refused while they come, before they cost memory, without a key."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.running_gateway import RunningGateway

pytestmark = pytest.mark.contract
KIB = 1024


def send_raw(gateway: RunningGateway, pieces: list[bytes]) -> bytes:
    """Sends until the gateway has had enough; returns what it answered."""
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            pass  # it has closed
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except OSError:
            pass
        return answer


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ", *([b"a" * 16 * KIB] * 4096)],
        [b"GET /healthz HTTP/1.1\r\nhost: x\r\n", *([b"x-many: y\r\n" * 1024] * 4096)],
        [b"GET /", *([b"a" * 16 * KIB] * 4096)],
    ],
    ids=["one long header", "many headers", "a long path"],
)
def test_a_head_without_an_end_is_refused(gateway: RunningGateway, pieces: list[bytes]) -> None:
    answer = send_raw(gateway, pieces)
    # A refused sender may be reset before it has read the answer; what matters is that it was not taken.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    if answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


def test_a_head_of_usual_size_and_a_large_body_in_one_piece_are_taken(
    gateway: RunningGateway, client: httpx2.Client
) -> None:
    body = json.dumps({"metadata": {"title": "x" * 500}}).encode() + b" " * 200 * KIB
    head = (
        "POST /v1/conversations HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"authorization: {client.headers['authorization']}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-padding: {'p' * 30 * KIB}\r\n\r\n"
    )
    assert send_raw(gateway, [head.encode() + body]).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"no http at all\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["nonsense", "two lengths", "a chunk without a size"],
)
def test_what_is_no_http_is_refused_in_openais_form(gateway: RunningGateway, request_bytes: bytes) -> None:
    answer = send_raw(gateway, [request_bytes])
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"


def test_a_client_that_offers_http2_is_answered_on_http1(gateway: RunningGateway, client: httpx2.Client) -> None:
    """As Java's own client does in each of its requests."""
    body = json.dumps({"messages": [{"role": "user", "content": "Upgrade: h2c\r\n"}]}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nhost: x\r\n"
        f"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
        f"authorization: {client.headers['authorization']}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    answer = send_raw(gateway, [head.encode() + body])
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
