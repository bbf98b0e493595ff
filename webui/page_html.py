"""Gradio's page with what it lacks: a nonce on each of its scripts, the person's language, and our own script first.

With the nonce the security policy needs no `unsafe-inline`: scripts run only when they stood in the page that we sent,
or come from our own folder of files.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.door import POLICY_HEADER, security_policy
from webui.language import LANGUAGE_HEADER, header

LANG = {"en": "en", "zh": "zh-CN"}
_SCRIPT = re.compile(rb"<script(?=[\s>])")
_FROM_ELSEWHERE = re.compile(rb'\s*<meta\s+(?:property="og|name="twitter):[^>]*/>')  # Gradio's advertisement


def script_name() -> str:
    """The address of our script; it changes with its content, so browsers may keep it."""
    return f"webui/page.js?{hashlib.sha256(_script()).hexdigest()[:12]}"


def script(request: Request) -> Response:
    """Our script."""
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(_script(), media_type="text/javascript; charset=utf-8", headers=headers)


class PageHtmlMiddleware:
    """Rewrites the page at `/`; everything else passes through.

    Args:
        put_into: puts the page's texts into a language.
    """

    def __init__(
        self, app: ASGIApp, put_into: Callable[[bytes, str], bytes], frame_ancestors: tuple[str, ...] = ()
    ) -> None:
        self._app = app
        self._put_into = put_into
        self._frame_ancestors = frame_ancestors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        # Plain, so that it can be rewritten; what compresses stands in front of this.
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        starts: list[Message] = []
        portions: list[bytes] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                starts.append(message)
            else:
                portions.append(message.get("body", b""))

        await self._app({**scope, "headers": headers}, receive, collect)
        await self._send(b"".join(portions), starts[0], header(scope, LANGUAGE_HEADER), send)

    async def _send(self, body: bytes, start: Message, language: str, send: Send) -> None:
        nonce = secrets.token_urlsafe(18)
        body = rewritten(self._put_into(body, language), LANG.get(language, "en"), nonce)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-length"] = str(len(body))
        headers[POLICY_HEADER] = security_policy(self._frame_ancestors, nonce=nonce)
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body})


def rewritten(page: bytes, lang: str, nonce: str) -> bytes:
    """The page for one response."""
    page = _FROM_ELSEWHERE.sub(b"", page)
    page = page.replace(b'lang="en"', f'lang="{lang}"'.encode(), 1)
    page = page.replace(b'href="/manifest.json"', b'href="./manifest.json"', 1)
    page = _SCRIPT.sub(f'<script nonce="{nonce}"'.encode(), page)
    first = f'<script nonce="{nonce}" src="./{script_name()}"></script>'.encode()
    return page.replace(b"<style>", first + b"<style>", 1)


@cache
def _script() -> bytes:
    return Path(__file__).with_name("page.js").read_bytes()
