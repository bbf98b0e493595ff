"""The address under which people see the page: scheme, host and path prefix, as the proxies in front tell them.

`WEBUI_ROOT_PATH` says it once and for all: a path (`/chat`), or a whole address (`https://example.org/chat`). Without
it `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Forwarded-Prefix` count. Who sends them without a proxy in between
changes only the answer that they get themselves: scripts of other sites cannot send them, and nothing is cached.

Behind this middleware `scope["path"]` is the path within the web UI, whether the proxy took the prefix away or not.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from webui.language import header

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class PublicAddressMiddleware:
    """Puts prefix and scheme into the scope, where Starlette and Gradio look for them."""

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._told = urlsplit(root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        prefix = self._told.path.rstrip("/") or _forwarded_prefix(scope)
        path: str = scope["path"]
        if prefix and path == prefix:
            await RedirectResponse(prefix + "/", 308)(scope, receive, send)
            return
        if prefix and path.startswith(prefix + "/"):
            path = path.removeprefix(prefix)
        headers = list(scope["headers"])
        if self._told.scheme:
            headers = [one for one in headers if one[0].lower() not in (b"x-forwarded-proto", b"x-forwarded-host")]
            headers += [(b"x-forwarded-proto", self._told.scheme.encode())]
            headers += [(b"x-forwarded-host", self._told.netloc.encode())]
        whole = {**scope, "headers": headers, "path": path, "root_path": scope.get("root_path", "") + prefix}
        await self._app(whole, receive, send)


def root_path(scope: Scope) -> str:
    """The path prefix; "" at the top of a host."""
    return str(scope.get("root_path", ""))


def is_https(scope: Scope) -> bool:
    """Whether the browser speaks HTTPS, with us or with the first proxy."""
    forwarded = header(scope, "x-forwarded-proto").split(",")[0].strip().lower()
    return (forwarded or str(scope.get("scheme", "http"))) == "https"


def public_url(scope: Scope) -> str:
    """The address of the page without a slash at its end. The host is what the browser asked for, never more."""
    forwarded = header(scope, "x-forwarded-host").split(",")[0].strip()
    host = next((one for one in (forwarded, header(scope, "host")) if _HOST.fullmatch(one)), "localhost")
    return f"{'https' if is_https(scope) else 'http'}://{host}{root_path(scope)}"


def _forwarded_prefix(scope: Scope) -> str:
    prefix = header(scope, "x-forwarded-prefix").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) and ".." not in prefix else ""
