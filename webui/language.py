"""Which language a request is to be answered in, and the header under which handlers find it.

What a person chose on the page comes first: in the address (`?lang=zh`), in the header that the page's script sends, in
the cookie that it keeps; then what the browser prefers.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from webui.texts import TEXTS, language_of

LANGUAGE_HEADER = "x-webui-language"
LANGUAGE_COOKIE = "webui_language"


class LanguageMiddleware:
    """Puts the language into each request: whatever handlers find there is one of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            own = LANGUAGE_HEADER.encode()
            headers = [(name, value) for name, value in scope["headers"] if name.lower() != own]
            scope = {**scope, "headers": [*headers, (own, language_for(scope).encode())]}
        await self._app(scope, receive, send)


def language_for(scope: Scope) -> str:
    """The language of a request."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    chosen = [*query.get("lang", []), header(scope, LANGUAGE_HEADER), cookies(scope).get(LANGUAGE_COOKIE, "")]
    return next((one for one in chosen if one in TEXTS), language_of(header(scope, "accept-language")))


def header(scope: Scope, name: str) -> str:
    """The first header of a name; "" when there is none."""
    return next((v.decode("latin-1") for n, v in scope["headers"] if n.lower() == name.encode()), "")


def cookies(scope: Scope) -> dict[str, str]:
    """The cookies of a request; of two with the same name the first counts, as browsers send the closest path first."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name.lower() != b"cookie":
            continue
        for pair in value.decode("latin-1").split(";"):
            key, _, text = pair.strip().partition("=")
            found.setdefault(key, text)
    return found
