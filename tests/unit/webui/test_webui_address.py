"""Which address a request is from: what anybody can write into X-Forwarded-For never counts."""

from __future__ import annotations

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from webui.address import ADDRESS_HEADER, AddressMiddleware, client_address

pytestmark = pytest.mark.unit
PEER = "192.0.2.1"


def scope_of(*forwarded: str, peer: str | None = PEER, **others: str) -> Scope:
    headers = [(b"X-Forwarded-For", value.encode("latin-1")) for value in forwarded]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in others.items()]
    return {"type": "http", "headers": headers, "client": None if peer is None else (peer, 4711)}


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        (0, [], PEER),
        (0, ["203.0.113.9"], PEER),
        (0, ["203.0.113.9, 198.51.100.1", PEER], PEER),
        (1, ["203.0.113.9"], "203.0.113.9"),
        (1, ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (1, ["6.6.6.6, 7.7.7.7", "203.0.113.9"], "203.0.113.9"),  # a second line goes on from the first
        (1, ["203.0.113.9", "6.6.6.6"], "6.6.6.6"),
        (2, ["6.6.6.6, 203.0.113.9, 198.51.100.1"], "203.0.113.9"),
        (2, ["6.6.6.6", "203.0.113.9", "198.51.100.1"], "203.0.113.9"),
        (2, ["203.0.113.9"], PEER),  # one proxy too few: nobody knows who wrote that entry
        (1, [], PEER),
        (1, [""], PEER),
        (1, ["6.6.6.6, unknown"], PEER),
        (1, ["6.6.6.6,"], PEER),
        (1, ["6.6.6.6, 1.2.3.4\xff"], PEER),
        (1, ["6.6.6.6, 1.2.3"], PEER),
        (1, ["6.6.6.6, 203.0.113.9:4711"], "203.0.113.9"),
        (1, ["[2001:db8::0:1]:443"], "2001:db8::1"),
        (1, ["[2001:DB8::1]"], "2001:db8::1"),
        (1, ["2001:db8:0::0001"], "2001:db8::1"),
        (1, ["fe80::1%eth0"], "fe80::1"),
        (1, ["fe80::1%\x7f"], "fe80::1"),
    ],
)
def test_only_what_our_proxies_wrote_counts(hops: int, forwarded: list[str], address: str) -> None:
    assert client_address(scope_of(*forwarded), hops) == address


@pytest.mark.parametrize("peer", [None, "", "/run/webui.sock"])
def test_a_connection_without_an_address_has_none(peer: str | None) -> None:
    assert client_address(scope_of(peer=peer), 0) == ""
    assert client_address(scope_of("203.0.113.9", peer=peer), 1) == "203.0.113.9"


def seen_by_the_page(scope: Scope, hops: int) -> list[str]:
    """The addresses that stand in the request behind the middleware."""
    seen: list[str] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(value.decode() for name, value in scope["headers"] if name.lower() == ADDRESS_HEADER.encode())

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    anyio.run(AddressMiddleware(page, hops), scope, receive, send)
    return seen


def test_nobody_names_their_own_address() -> None:
    assert seen_by_the_page(scope_of(X_WebUI_Address="6.6.6.6"), 0) == [PEER]
    assert seen_by_the_page(scope_of("203.0.113.9", X_WebUI_Address="6.6.6.6"), 1) == ["203.0.113.9"]
    assert seen_by_the_page(scope_of(peer=None, x_webui_address="6.6.6.6"), 0) == []
