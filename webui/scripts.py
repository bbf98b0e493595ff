"""The page's own script: served from our own origin, for the policy allows no other, and loaded by the page's head."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SCRIPT = Path(__file__).with_name("chat.js")
_HEADERS = {"cache-control": "public, max-age=31536000, immutable"}


def script_tag() -> str:
    """What loads the script; its address changes with its content, so that browsers may keep it."""
    version = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]
    return f'<script src="webui/chat.js?{version}" defer></script>'


def script_routes() -> list[Route]:
    """Where the script is."""
    content = SCRIPT.read_bytes()

    async def chat_script(_: Request) -> Response:
        return Response(content, media_type="text/javascript; charset=utf-8", headers=_HEADERS)

    return [Route("/webui/chat.js", chat_script)]
