"""Which language a request gets: what was chosen comes before what the browser prefers."""

from __future__ import annotations

import pytest
from starlette.types import Scope

from webui.language import cookies, language_for

pytestmark = pytest.mark.unit


def scope_of(query: str = "", **headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "query_string": query.encode(), "headers": raw}


@pytest.mark.parametrize(
    ("scope", "language"),
    [
        (scope_of(), "en"),
        (scope_of(accept_language="zh-CN,zh;q=0.9"), "zh"),
        (scope_of(accept_language="zh-CN", cookie="a=b; webui_language=en"), "en"),
        (scope_of(accept_language="en", cookie="webui_language=zh"), "zh"),
        (scope_of(accept_language="en", cookie="webui_language=xx"), "en"),
        (scope_of(cookie="webui_language=en", x_webui_language="zh"), "zh"),
        (scope_of("lang=en", cookie="webui_language=zh", x_webui_language="zh"), "en"),
        (scope_of("lang=xx&lang=zh"), "zh"),
        (scope_of("lang=<script>", accept_language="zh"), "zh"),
    ],
)
def test_the_choice_comes_first(scope: Scope, language: str) -> None:
    assert language_for(scope) == language


def test_of_two_cookies_the_closer_path_comes_first() -> None:
    assert cookies(scope_of(cookie="a=1; a=2; b")) == {"a": "1", "b": ""}
