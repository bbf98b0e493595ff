"""Two web UI processes with one secret: a page belongs to the one that served it, its person and chats to both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import httpx2
import pytest
from starlette.applications import Starlette

from tests.contract.webui.visitor import Visitor
from tests.fakes.gateway import KEY, fake_gateway, serve
from webui.main import create_app
from webui.settings import Settings

pytestmark = pytest.mark.contract


@pytest.fixture
def both() -> Iterator[tuple[str, str]]:
    """The addresses of two web UIs on one gateway."""

    async def app(gateway_url: str) -> Starlette:  # in a loop, because without one Gradio makes one that nobody closes
        return create_app(Settings(gateway_url=gateway_url, api_key=KEY, secret=b"s" * 32))

    with fake_gateway() as gateway:
        with serve(asyncio.run(app(gateway.url)), lifespan="on") as one:
            with serve(asyncio.run(app(gateway.url)), lifespan="on") as other:
                yield one, other


def test_a_page_belongs_to_its_process_and_its_person_to_both(both: tuple[str, str]) -> None:
    ann = Visitor(both[0])
    there = httpx2.Client(base_url=both[1], timeout=30, trust_env=False, cookies=dict(ann.http.cookies))
    with closing(ann.http), closing(there):
        token, elsewhere = ann.send("annspage", "Hello"), Visitor(both[1], there)
        for at in (elsewhere, ann):
            assert at.http.post("/gradio_api/queue/join", json=at.body("watch", "annspage", token)).status_code == 200
        assert "answer" not in elsewhere.stream("annspage").text, "this is why people are kept at theirs"
        assert "this is an answer." in ann.stream("annspage").text
        listed = there.get("/webui/conversations").json()["entries"]
        assert [entry["title"] for entry in listed] == ["Hello"], "the person is the same at both"
