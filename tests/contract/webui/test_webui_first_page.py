"""The first HTML is in the right language already: nothing is English on a Chinese page until handlers answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from tests.contract.webui.visitor import Visitor
from tests.fakes.gateway import serve
from webui.main import create_app
from webui.settings import Settings
from webui.texts import TEXTS

pytestmark = pytest.mark.contract
SHOWN = ("label", "value", "placeholder", "info", "choices")
# Names that are the same in both languages, and what is no text.
SAME = {"InternLM Chat", "# InternLM Chat", "Like", "Dislike"}


@pytest.fixture(scope="module")
def web() -> Iterator[httpx2.Client]:
    async def app() -> Starlette:  # in a loop, because without one Gradio makes one that nobody closes
        return create_app(Settings(secret=b"x" * 32))

    with serve(asyncio.run(app()), lifespan="on") as url, httpx2.Client(base_url=url, trust_env=False) as client:
        yield client


def config_of(web: httpx2.Client, **headers: str) -> dict[str, Any]:
    page = web.get("/", headers={name.replace("_", "-"): value for name, value in headers.items()}).text
    found = re.search(r"window\.gradio_config = (.*?);</script>", page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def texts_in(config: dict[str, Any]) -> list[str]:
    """What the components say, before anything has changed them."""
    said = []
    for component in config["components"]:
        for value in (component["props"].get(name) for name in SHOWN):
            values = [pair[0] for pair in value] if isinstance(value, list) else [value]
            said += [one for one in values if isinstance(one, str) and re.search(r"[^\W\d_]", one)]
    return said


@pytest.mark.parametrize(
    "headers",
    [{"accept_language": "zh-CN,zh;q=0.9,en;q=0.8"}, {"accept_language": "en", "cookie": "webui_language=zh"}],
)
def test_the_first_html_of_a_chinese_page_has_no_english_text(web: httpx2.Client, headers: dict[str, str]) -> None:
    said = texts_in(config_of(web, **headers))
    assert {TEXTS["zh"][key] for key in ("send", "new_chat", "settings", "empty_chat", "top_p_info", "reset")} <= set(
        said
    )
    assert [text for text in said if not re.search(r"[\u4e00-\u9fff]", text) and text not in SAME] == []


def test_the_first_html_of_an_english_page_has_every_label(web: httpx2.Client) -> None:
    said = texts_in(config_of(web, accept_language="de"))
    assert {TEXTS["en"][key] for key in ("send", "new_chat", "settings", "empty_chat", "top_p_info", "reset")} <= set(
        said
    )
    assert "Run" not in said, "Gradio's own name for a button that nobody named"
    assert [text for text in said if re.search(r"[\u4e00-\u9fff]", text)] == []


def test_of_the_page_only_texts_differ_between_languages(web: httpx2.Client) -> None:
    chinese, english = config_of(web, accept_language="zh"), config_of(web, accept_language="en")
    for config in (chinese, english):
        for component in config["components"]:
            component["props"] = {name: value for name, value in component["props"].items() if name not in SHOWN}
    assert chinese == english


@pytest.mark.parametrize("keeps_chats", [True, False])
def test_where_conversations_may_be_gone_the_page_says_so(keeps_chats: bool) -> None:
    async def app() -> Starlette:
        return create_app(Settings(secret=b"x" * 32, keeps_chats=keeps_chats))

    with serve(asyncio.run(app()), lifespan="on") as url, httpx2.Client(base_url=url, trust_env=False) as http:
        foot = Visitor(url, http).predict("load_1", "session").text
    assert ("may be gone after a restart" in foot) is not keeps_chats
    assert "account" in foot
