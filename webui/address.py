"""Where a person's requests come from, so that the gateway can limit each client address.

Only the last entries of `X-Forwarded-For` were written by proxies of ours; whatever stands before them anybody can
write. So the setting says how many proxies there are, and the entry that the first of them wrote counts: the n-th from
the right. Without proxies the header says nothing, and the connection's own address counts. Handlers find the address
in the request header `x-webui-address`, which only this middleware can set.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send

ADDRESS_HEADER = "x-webui-address"
_WITH_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]+|\[(?P<v6>[0-9A-Fa-f:.]+)\](:[0-9]+)?")


def client_address(scope: Scope, trusted_hops: int) -> str:
    """The address of whoever asks, in its usual form; "" when nobody knows it.

    Where the proxies' entries are missing or are no addresses, the connection's own address counts: nobody gets around
    a limit so, and all who come through a proxy that is set up wrongly share one.
    """
    peer = _address((scope.get("client") or ("", 0))[0])
    if not trusted_hops:
        return peer
    told = b",".join(value for name, value in scope["headers"] if name.lower() == b"x-forwarded-for")
    entries = told.decode("latin-1").split(",")
    return (_address(entries[-trusted_hops]) if len(entries) >= trusted_hops else "") or peer


def _address(text: str) -> str:
    """An address without its port and zone; "" for anything else."""
    text = text.strip()
    if (found := _WITH_PORT.fullmatch(text)) is not None:
        text = found["v4"] or found["v6"]
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


class AddressMiddleware:
    """Puts the address into each request; whatever came from outside under that name is taken away."""

    def __init__(self, app: ASGIApp, trusted_hops: int = 0) -> None:
        self._app = app
        self._trusted_hops = trusted_hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            own = ADDRESS_HEADER.encode()
            headers = [(name, value) for name, value in scope["headers"] if name.lower() != own]
            if address := client_address(scope, self._trusted_hops):
                headers.append((own, address.encode()))
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)
