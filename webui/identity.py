"""Who is asking: an anonymous person's id in a signed cookie that page scripts cannot read.

The value is `<id>.<HMAC-SHA256 of the id>`. A forged or garbled cookie is simply a new person. Handlers find the id in
the request header `x-webui-person`, which only this middleware can set: whatever came from outside is taken away.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PERSON_HEADER = "x-webui-person"
COOKIE = "webui_person"
_ONE_YEAR_S = 365 * 24 * 3600
_PRIVATE = [(b"cache-control", b"private, no-cache")]
_PERSON = re.compile(r"[0-9a-f]{32}")

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Person:
    """Who asks; `address` is where the request came from, "" when nobody knows."""

    id: str
    address: str = ""


def new_person() -> str:
    """The id of somebody who has not been here before."""
    return uuid.uuid4().hex


def sign(person: str, secret: bytes) -> str:
    """The cookie's value for a person."""
    return f"{person}.{_signature(person, secret)}"


def verify(value: str, secret: bytes) -> str | None:
    """The person that a cookie's value names, or None when we did not sign it."""
    person, _, signature = value.partition(".")
    if not _PERSON.fullmatch(person):
        return None
    expected = _signature(person, secret)
    return person if hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()) else None


class IdentityMiddleware:
    """Puts the person's id into each request and renews the cookie with each page."""

    def __init__(self, app: ASGIApp, secret: bytes) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = self._known_person(scope["headers"])
        person = known or new_person()
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != PERSON_HEADER.encode()]
        headers.append((PERSON_HEADER.encode(), person.encode()))
        cookie = None
        # Never on files: a shared cache would hand one person's cookie to others.
        if scope["path"] == "/" or (known is None and scope["path"].startswith("/gradio_api/")):
            cookie = set_cookie(sign(person, self._secret), is_https=_is_https(scope))

        async def send_with_cookie(message: Message) -> None:
            if cookie is not None and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_PRIVATE, (b"set-cookie", cookie)]}
            await send(message)

        await self._app({**scope, "headers": headers}, receive, send_with_cookie)

    def _known_person(self, headers: Headers) -> str | None:
        for name, value in headers:
            if name.lower() != b"cookie":
                continue
            for pair in value.decode("latin-1").split(";"):
                key, _, cookie = pair.strip().partition("=")
                person = verify(cookie, self._secret) if key == COOKIE else None
                if person:
                    return person
        return None


def set_cookie(value: str, *, is_https: bool) -> bytes:
    """The header that keeps a person's cookie for a year; over https it also works inside another site's frame."""
    where = "SameSite=None; Secure; Partitioned" if is_https else "SameSite=Lax"
    return f"{COOKIE}={value}; Path=/; Max-Age={_ONE_YEAR_S}; HttpOnly; {where}".encode()


def _signature(person: str, secret: bytes) -> str:
    return hmac.new(secret, b"webui-person:" + person.encode(), hashlib.sha256).hexdigest()


def _is_https(scope: Scope) -> bool:
    forwarded: list[bytes] = [v for name, v in scope["headers"] if name.lower() == b"x-forwarded-proto"]
    if forwarded:
        return forwarded[0].decode("latin-1").split(",")[0].strip().lower() == "https"
    return str(scope.get("scheme", "http")) == "https"
