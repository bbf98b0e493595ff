"""The page's own scripts: served from our own origin, for the policy allows no other, and loaded by the page's head."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

SCRIPTS = ("chat.js", "sidebar.js", "copying.js")
_HEADERS = {"cache-control": "public, max-age=31536000, immutable"}


def script_tags() -> str:
    """What loads the scripts; an address changes with the content, so that browsers may keep it."""
    versions = {name: hashlib.sha256(_content(name)).hexdigest()[:12] for name in SCRIPTS}
    return "".join(f'<script src="webui/{name}?{version}" defer></script>' for name, version in versions.items())


def script_routes() -> list[Route]:
    """Where the scripts are."""
    return [Route(f"/webui/{name}", _Script(_content(name))) for name in SCRIPTS]


class _Script:
    """Answers with one script."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Response(self._content, media_type="text/javascript; charset=utf-8", headers=_HEADERS)
        await answer(scope, receive, send)


def _content(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
