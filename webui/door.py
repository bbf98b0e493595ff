"""What the web UI lets in and what it sends along: a list of the paths that its page uses, and security headers.

Gradio opens more than the page needs (uploads, a file reader, a proxy, an API with its description, run history,
component calls …). The page works with the paths below and nothing else is reachable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGE_PATHS = re.compile(
    r"""
    /                                                  # the page
  | /(theme\.css|favicon\.ico|robots\.txt|manifest\.json)
  | /(assets|static)/[^\\]+                            # its own scripts, styles, fonts
  | /gradio_api/(startup-events|cancel|reset)
  | /gradio_api/app_id                                 # asked until the server is back; a random number
  | /gradio_api/heartbeat/[A-Za-z0-9]+
  | /gradio_api/queue/(join|data)                      # answers, streamed
  | /gradio_api/run/predict                            # everything short
  | /(login(/oidc(/callback)?)?|logout|key|identity)   # ours: see entrance.py
  | /webui/(page|chat|sidebar|copying)\.js
  | /webui/conversations(/[A-Za-z0-9_-]{1,128}(/(delete|undelete|export))?)?
    """,
    re.VERBOSE,
)
_OWN_SITE = {"", "same-origin", "none"}
_LARGEST_BODY_BYTES = 8 * 1024 * 1024  # a message of 1 MB, escaped, is to get a sentence and not a broken page


POLICY_HEADER = "content-security-policy"


def security_policy(frame_ancestors: Iterable[str] = (), *, nonce: str = "") -> str:
    """The Content-Security-Policy. Model output can neither run a script nor load anything from another host.

    Styles may stand in the page: Gradio and KaTeX write them into elements. Scripts may not, but for those with the
    response's own nonce.
    """
    policy = {
        "default-src": "'none'",
        "script-src": "'self'" + (f" 'nonce-{nonce}'" if nonce else ""),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "manifest-src": "'self'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": " ".join(["'self'", *frame_ancestors]),
    }
    return "; ".join(f"{name} {value}" for name, value in policy.items())


def security_headers(frame_ancestors: Iterable[str] = ()) -> list[tuple[bytes, bytes]]:
    """Sent with every response."""
    return [
        (POLICY_HEADER.encode(), security_policy(frame_ancestors).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    ]


def refusal(status: int, code: str, message: str) -> JSONResponse:
    """An answer in the gateway's form of errors."""
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


class DoorMiddleware:
    """404 for paths that the page does not use, 413 for bodies that no message needs, headers for the rest."""

    def __init__(self, app: ASGIApp, frame_ancestors: Iterable[str] = ()) -> None:
        self._app = app
        self._headers = security_headers(frame_ancestors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSockets here

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = list(message.get("headers", []))
                if any(one == (b"content-type", b"text/event-stream; charset=utf-8") for one in told):
                    told.append((b"x-accel-buffering", b"no"))  # nginx would gather an answer into large portions
                names = {name.lower() for name, _ in told}  # the page brings a policy of its own
                message = {**message, "headers": told + [one for one in self._headers if one[0] not in names]}
            await send(message)

        await self._answer(scope)(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> ASGIApp:
        if not _PAGE_PATHS.fullmatch(scope["path"]) or ".." in scope["path"]:
            return refusal(404, "not_found", "There is nothing at this address.")
        if scope["method"] == "POST" and _site(scope) not in _OWN_SITE:
            return refusal(403, "cross_site", "This is only for pages of the web UI itself.")
        if _announced_bytes(scope) > _LARGEST_BODY_BYTES:
            return refusal(413, "request_too_large", f"The limit is {_LARGEST_BODY_BYTES} bytes.")
        return self._app


def _site(scope: Scope) -> str:
    """Where the browser says that the request comes from; "" where it says nothing, as over plain HTTP.

    There the cookie is `SameSite=Lax`, so that no other site can send it along.
    """
    return next((v.decode("latin-1") for n, v in scope["headers"] if n.lower() == b"sec-fetch-site"), "")


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
        if name.lower() == b"transfer-encoding":
            return _LARGEST_BODY_BYTES + 1  # browsers announce the length; who does not is no page of ours
    return 0
