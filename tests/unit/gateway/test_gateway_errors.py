"""The table in the docstring is the truth about the errors, and an error says it in OpenAI's form."""

from __future__ import annotations

import inspect
import re

import pytest

from gateway import errors
from gateway.errors import GatewayError, MethodNotAllowed, RateLimited, UpstreamNotReady

pytestmark = pytest.mark.unit
ROW = re.compile(r"^\| *(\w+) *\| *(\d+) *\| *([a-z_, ]+?) *\| *(.+?) *\|$", re.MULTILINE)


def test_the_table_is_the_classes() -> None:
    table = {name: (int(status), code.split(", ")[0]) for name, status, code, _ in ROW.findall(errors.__doc__ or "")}
    classes = {
        name: (kind.status, kind.default_code)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, GatewayError)
    }
    assert table == classes


def test_the_body_is_openais_with_our_request_id() -> None:
    error = GatewayError("It failed.", param="x", code="y")
    assert error.body() == {"error": {"message": "It failed.", "type": "server_error", "param": "x", "code": "y"}}
    assert error.body("req_1")["error"]["request_id"] == "req_1"


def test_when_to_come_back() -> None:
    assert UpstreamNotReady("x").headers() == {}
    assert UpstreamNotReady("x", retry_after_s=0.0001).headers() == {"retry-after": "1", "retry-after-ms": "1"}
    assert RateLimited("x", retry_after_s=2.0001).headers() == {"retry-after": "3", "retry-after-ms": "2001"}
    assert MethodNotAllowed("x", headers={"allow": "GET"}).headers() == {"allow": "GET"}
