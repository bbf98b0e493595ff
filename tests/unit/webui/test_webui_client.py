"""No exception of the HTTP library gets out of client.py."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
from pathlib import Path

import httpx2
import pytest

from webui import call_log, client, errors, wire
from webui.identity import Person
from webui.settings import Settings

pytestmark = pytest.mark.unit


def test_every_exception_class_of_the_library_is_mapped() -> None:
    classes = [c for _, c in inspect.getmembers(httpx2, inspect.isclass) if issubclass(c, Exception)]
    assert len(classes) > 20
    assert [c.__name__ for c in classes if not issubclass(c, client._LIBRARY_ERRORS)] == []


def test_only_the_client_speaks_http_and_the_login_hears_of_it() -> None:
    importing = set()
    for path in Path(client.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in {"httpx", "httpx2", "requests", "aiohttp"} for name in names):
                importing.add(path.name)
            assert not any(name.split(".")[0] in {"gateway", "inference"} for name in names), path.name
    assert importing == {"client.py", "oidc.py"}  # the client of the login's provider fails with the library's errors


def test_unknown_events_are_skipped_and_failures_found_in_both_forms() -> None:
    assert wire.parse_event("response.queued", {"anything": 1}) is None
    failed = {"response": {"error": {"code": "upstream_failed", "message": "m"}}}
    assert wire.parse_event("response.failed", failed) == wire.Failed("upstream_failed", "m")
    assert wire.parse_event("error", {"error": {"code": "c", "message": "m"}}) == wire.Broken("c", "m")
    assert wire.parse_event("error", {"type": "error", "code": "c", "message": "m"}) == wire.Broken("c", "m")
    assert wire.parse_event("response.failed", {"response": {"error": None}}) == wire.Failed("upstream_failed", "")


def test_a_failed_call_is_one_json_line_with_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[str] = []

    def gateway(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["x-request-id"])
        if len(sent) == 3:
            raise httpx2.ConnectError("nobody is there", request=request)
        return httpx2.Response(200 if len(sent) == 1 else 503, json={"error": {"code": "overloaded", "message": "m"}})

    async def ask() -> None:
        async with client.GatewayClient(settings) as calls:
            calls._http._transport = httpx2.MockTransport(gateway)
            for _ in range(3):
                with contextlib.suppress(errors.GatewayError, errors.GatewayUnreachable):
                    await calls.delete_conversation(person, "conv_1")

    settings = Settings.from_env({"WEBUI_API_KEY": "sk-secret"}, Path())
    person = Person("someone")
    with caplog.at_level("INFO", "webui"):
        asyncio.run(ask())
    records = [record for record in caplog.records if record.name == "webui.calls"]
    lines = [json.loads(call_log._JsonLines().format(record)) for record in records]
    where = {"method": "DELETE", "path": "/v1/conversations/conv_1", "logger": "webui.calls"}
    assert len(set(sent)) == 3
    assert [line["request_id"] for line in lines] == sent[1:]
    assert [(line["level"], line.get("status"), line.get("error")) for line in lines] == [
        ("warning", 503, None),
        ("warning", None, "ConnectError"),
    ]
    assert all(where.items() <= line.items() for line in lines)
    assert "sk-secret" not in caplog.text
