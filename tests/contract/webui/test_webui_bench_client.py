"""The bench's page without a browser does what the page does. No time is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette

from bench.webui_page import open_page
from tests.fakes.gateway import KEY, FakeGateway, Scenario, fake_gateway, serve
from webui.main import create_app
from webui.settings import Settings

pytestmark = pytest.mark.contract


@pytest.fixture
def running() -> Iterator[tuple[int, FakeGateway]]:
    async def made(url: str) -> Starlette:  # in a loop, because without one Gradio makes one that nobody closes
        return create_app(Settings(gateway_url=url, api_key=KEY, secret=b"s" * 32))

    with fake_gateway() as gateway, serve(asyncio.run(made(gateway.url)), lifespan="on") as url:
        yield int(url.rpartition(":")[2]), gateway


def test_a_message_is_asked_watched_and_counted(running: tuple[int, FakeGateway]) -> None:
    port, gateway = running

    async def use() -> None:
        page = await open_page(port)
        turn = await page.ask("Hello")
        assert turn.is_complete
        assert b"this is an answer." in turn.text
        assert turn.bytes_down > len(turn.text)
        assert turn.updates[0] <= turn.ended_at <= turn.updates[-1]
        assert (await page.ask("And on")).is_complete

    asyncio.run(use())
    (conversation,) = gateway.state.conversations.values()
    assert [item["role"] for item in conversation["items"]] == ["user", "assistant"] * 2


def test_a_stop_ends_the_watch(running: tuple[int, FakeGateway]) -> None:
    port, gateway = running
    gateway.state.scenario = Scenario(words=["word "] * 5000, delay_s=0.02)

    async def use() -> None:
        page = await open_page(port)
        asking = asyncio.create_task(page.ask("Count"))
        while not any(c["items"] for c in gateway.state.conversations.values()):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert await page.stop() > 0
        assert (await asyncio.wait_for(asking, 30)).is_complete

    asyncio.run(use())
    assert gateway.state.stopped_at
