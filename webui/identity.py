"""Who is asking: a ticket in a cookie that page scripts cannot read.

A forged, garbled or expired ticket is simply a new person. Handlers find who asks in request headers that only this
middleware can set: whatever came from outside under those names is taken away.

Inside another site's frame a browser may refuse our cookie. Over HTTPS the cookie is `Partitioned`, which browsers
allow there. Where there is none at all, the page's script asks `POST /identity` for the ticket, keeps it in its own
storage (which browsers keep apart for each embedding site) and sends it in a header.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.language import header
from webui.public_address import is_https, public_url, root_path
from webui.tickets import Ticket, Tickets, new_person

PERSON_HEADER = "x-webui-person"
NAME_HEADER = "x-webui-name"
KEY_HEADER = "x-webui-key"
TOKEN_HEADER = "x-webui-token"
COOKIE = "webui_person"
_OURS = {name.encode() for name in (PERSON_HEADER, NAME_HEADER, KEY_HEADER)}
_PRIVATE = [(b"cache-control", b"private, no-cache")]
_RENEWED_AFTER_S = 24 * 3600

Check = Callable[[Ticket], Ticket | None]


@dataclass(frozen=True)
class Person:
    """Who asks.

    Attributes:
        id: the id that the gateway knows.
        address: where the request came from, "" when nobody knows.
        key: the person's own API key, "" means the web UI's.
        name: what somebody who has logged in is called.
    """

    id: str
    address: str = ""
    key: str = field(default="", repr=False)
    name: str = ""


class IdentityMiddleware:
    """Puts the person into each request and renews the cookie; `scope["ticket"]` is what our own routes read.

    Args:
        check: a ticket as far as it still holds, or None (its user may have been removed).
    """

    def __init__(self, app: ASGIApp, tickets: Tickets, check: Check = lambda ticket: ticket) -> None:
        self._app = app
        self._tickets = tickets
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        by_cookie = self._first_good(cookie_values(scope))
        ticket = by_cookie or self._first_good(header_values(scope))
        is_new = ticket is None
        if ticket is None:
            ticket = Ticket(new_person(), issued_at=self._tickets.now())
        scope = {
            **scope,
            "headers": _headers_with(scope, ticket),
            "ticket": ticket,
            "has_cookie": by_cookie is not None,
        }
        cookie = self._cookie_for(scope, ticket, is_new=is_new, is_kept=by_cookie is not None)

        async def send_with_cookie(message: Message) -> None:
            if cookie is not None and message["type"] == "http.response.start" and not _sets_ticket(message):
                message = {**message, "headers": [*message.get("headers", []), *_PRIVATE, (b"set-cookie", cookie)]}
            await send(message)

        await self._app(scope, receive, send_with_cookie)

    def _first_good(self, sealed: list[str]) -> Ticket | None:
        opened = (ticket for one in sealed if (ticket := self._tickets.open(one)) is not None)
        return next((good for ticket in opened if (good := self._check(ticket)) is not None), None)

    def _cookie_for(self, scope: Scope, ticket: Ticket, *, is_new: bool, is_kept: bool) -> bytes | None:
        """Never on files: a shared cache would hand one person's cookie to others."""
        is_page = scope["path"] == "/"
        is_call = scope["path"].startswith("/gradio_api/")
        is_old = is_kept and self._tickets.now() - ticket.issued_at > _RENEWED_AFTER_S
        is_wanted = is_page or (is_call and (is_old or (is_new and _is_from_our_page(scope))))
        if not (is_new or is_kept) or not is_wanted:
            return None
        return ticket_cookie(scope, self._tickets, renewed(ticket, self._tickets.now()))


def renewed(ticket: Ticket, now: int) -> Ticket:
    """The ticket with a new time; that of a login keeps the time of the login."""
    return ticket if ticket.name else replace(ticket, issued_at=now)


def ticket_cookie(scope: Scope, tickets: Tickets, ticket: Ticket) -> bytes:
    """The header that makes a browser keep a ticket for as long as it is good."""
    left_s = max(0, ticket.issued_at + tickets.lasts_s(ticket) - tickets.now())
    return set_cookie(scope, COOKIE, tickets.seal(ticket), lasts_s=left_s)


def set_cookie(scope: Scope, name: str, value: str, *, lasts_s: int, same_site: str = "") -> bytes:
    """A cookie for this web UI alone; over https it also works inside another site's frame."""
    where = "SameSite=None; Secure; Partitioned" if is_https(scope) else "SameSite=Lax"
    if same_site:
        where = f"SameSite={same_site}; Secure" if is_https(scope) else f"SameSite={same_site}"
    return f"{name}={value}; Path={root_path(scope) or '/'}; Max-Age={lasts_s}; HttpOnly; {where}".encode()


def tell_ticket(tickets: Tickets) -> Callable[[Request], Response]:
    """The answer for a page that asks whether its cookie came back; its ticket, if it did not."""

    def answer(request: Request) -> Response:
        if request.scope["has_cookie"]:
            return JSONResponse({"has_cookie": True}, headers={"cache-control": "no-store"})
        ticket = renewed(request.scope["ticket"], tickets.now())
        return JSONResponse({"has_cookie": False, "token": tickets.seal(ticket)}, headers={"cache-control": "no-store"})

    return answer


def cookie_values(scope: Scope) -> list[str]:
    """Every cookie of our name: one of an earlier path may be among them."""
    pairs = [
        pair.strip().partition("=")
        for name, value in scope["headers"]
        if name.lower() == b"cookie"
        for pair in value.decode("latin-1").split(";")
    ]
    return [text for key, _, text in pairs if key == COOKIE]


def header_values(scope: Scope) -> list[str]:
    """The tickets that the page's script sent."""
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == TOKEN_HEADER.encode()]


def name_of(header_value: str) -> str:
    """The name in NAME_HEADER."""
    return unquote(header_value)


def _is_from_our_page(scope: Scope) -> bool:
    """Whether a call is from our own page: another site's could make a browser forget who it is, over plain HTTP."""
    origin = header(scope, "origin")
    return not origin or public_url(scope).startswith(origin)


def _headers_with(scope: Scope, ticket: Ticket) -> list[tuple[bytes, bytes]]:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _OURS]
    told = {PERSON_HEADER: ticket.person, NAME_HEADER: quote(ticket.name), KEY_HEADER: ticket.key}
    return [*headers, *((name.encode(), value.encode()) for name, value in told.items() if value)]


def _sets_ticket(message: Message) -> bool:
    start = f"{COOKIE}=".encode()
    return any(name.lower() == b"set-cookie" and value.startswith(start) for name, value in message.get("headers", []))
