"""No exception of the HTTP library gets out of client.py."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import httpx2
import pytest

from webui import client, wire

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
    assert wire.parse_event("error", {"error": {"code": "c", "message": "m"}}) == wire.Failed("c", "m")
    assert wire.parse_event("error", {"type": "error", "code": "c", "message": "m"}) == wire.Failed("c", "m")
    assert wire.parse_event("response.failed", {"response": {"error": None}}) == wire.Failed("upstream_failed", "")
