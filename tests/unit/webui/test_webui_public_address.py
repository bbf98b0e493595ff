"""Behind proxies: scheme, host and prefix as the setting or the proxies tell them."""

from __future__ import annotations

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from webui.public_address import PublicAddressMiddleware, public_url

pytestmark = pytest.mark.unit


def seen_by_the_page(
    path: str, headers: dict[str, str] | None = None, *, root_path: str = "", scheme: str = "http"
) -> tuple[str, str] | tuple[int, str]:
    """The path within the web UI and the public address; or the status and place of a redirect."""
    found: list[tuple[str, str]] = []
    sent: list[Message] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        found.append((scope["path"], public_url(scope)))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in ({"Host": "a.test"} | (headers or {})).items()]
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": raw,
        "scheme": scheme,
        "query_string": b"",
    }
    anyio.run(PublicAddressMiddleware(page, root_path), scope, receive, send)
    if found:
        return found[0]
    return sent[0]["status"], dict(sent[0]["headers"])[b"location"].decode()


@pytest.mark.parametrize(
    ("path", "headers", "root_path", "seen"),
    [
        ("/", {}, "", ("/", "http://a.test")),
        ("/login", {}, "/chat", ("/login", "http://a.test/chat")),  # the proxy took the prefix away
        ("/chat/login", {}, "/chat", ("/login", "http://a.test/chat")),  # it did not
        ("/chat/", {}, "/chat", ("/", "http://a.test/chat")),
        ("/chatter", {}, "/chat", ("/chatter", "http://a.test/chat")),
        ("/", {"X-Forwarded-Prefix": "/chat"}, "", ("/", "http://a.test/chat")),
        ("/x", {"X-Forwarded-Prefix": "/a/b/"}, "", ("/x", "http://a.test/a/b")),
        ("/", {"X-Forwarded-Prefix": "/other"}, "/chat", ("/", "http://a.test/chat")),
        ("/", {"X-Forwarded-Prefix": "//evil.test"}, "", ("/", "http://a.test")),
        ("/", {"X-Forwarded-Prefix": "/a/../b"}, "", ("/", "http://a.test")),
        ("/", {"X-Forwarded-Prefix": '/"><script>'}, "", ("/", "http://a.test")),
        ("/", {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "b.test:8443"}, "", ("/", "https://b.test:8443")),
        ("/", {"X-Forwarded-Host": "b.test, c.test"}, "", ("/", "http://b.test")),
        ("/", {"X-Forwarded-Host": "b.test/path"}, "", ("/", "http://a.test")),
        ("/", {"Host": "[::1]:7860"}, "", ("/", "http://[::1]:7860")),
        ("/", {"Host": "a b"}, "", ("/", "http://localhost")),
        ("/", {}, "https://chat.test/x", ("/", "https://chat.test/x")),
        ("/x/key", {"X-Forwarded-Proto": "http"}, "https://chat.test/x", ("/key", "https://chat.test/x")),
        ("/chat", {}, "/chat", (308, "/chat/")),
    ],
)
def test_the_address_is_what_people_see(
    path: str, headers: dict[str, str], root_path: str, seen: tuple[str, str]
) -> None:
    assert seen_by_the_page(path, headers, root_path=root_path) == seen


def test_without_proxies_the_connection_says_whether_it_is_https() -> None:
    assert seen_by_the_page("/", scheme="https") == ("/", "https://a.test")
