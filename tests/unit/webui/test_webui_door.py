"""The door: which paths exist, and what every response carries."""

from __future__ import annotations

import anyio
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Scope

from webui.door import DoorMiddleware

pytestmark = pytest.mark.unit


def knock(path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, dict[str, str]]:
    """Status and headers that a path gets."""
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: Scope = {"type": "http", "method": method, "path": path, "headers": raw}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(DoorMiddleware(PlainTextResponse("in"), ["https://example.org"]), scope, receive, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    "path", ["/", "/theme.css", "/assets/index-1.js", "/gradio_api/queue/join", "/gradio_api/app_id"]
)
def test_what_the_page_uses_is_open(path: str) -> None:
    assert knock(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/call/send", "/config",
        "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/proxy=http://x", "/logins",
        "/gradio_api/component_server", "/gradio_api/runs", "/gradio_api/run/send", "/gradio_api/mcp/sse",
        "/gradio_api/vibe-edit", "/monitoring", "/assets/../../secret", "/assets/", "/v1/chat/completions",
        "/gradio_api/deep_link", "/gradio_api/dev/reload", "/gradio_api/process_recording", "/static/..\\x", "//",
        "/theme.css\n", "/token", "/login/", "/page.js", "/webui/other.js", "/login/huggingface",
    ],
)  # fmt: skip
def test_everything_else_is_closed(path: str) -> None:
    status, headers = knock(path)
    assert status == 404
    assert "content-security-policy" in headers


def test_every_response_carries_the_policy() -> None:
    headers = knock("/")[1]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "img-src 'self' data: blob:" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert policy.count("unsafe-inline") == 1
    assert "frame-ancestors 'self' https://example.org" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": "1000000"}, 200),
        ({"content-length": "30000000"}, 413),
        ({"transfer-encoding": "chunked"}, 413),
    ],
)
def test_bodies_that_no_message_needs_are_refused(headers: dict[str, str], status: int) -> None:
    assert knock("/gradio_api/queue/join", headers)[0] == status


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403), ("strange", 403)]
)
def test_other_sites_cannot_send_anything(site: str, status: int) -> None:
    assert knock("/gradio_api/queue/join", {"sec-fetch-site": site}, "POST")[0] == status
    assert knock("/", {"sec-fetch-site": site})[0] == 200
