"""Turns of `Chat` on the real gateway with a scripted engine: what the web UI relies on holds there, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fakes.inference import FakeInference, Scenario, fake_inference
from tests.running_gateway import run_gateway
from webui.chat import SHOWN_MESSAGES, Chat
from webui.client import GatewayClient, Options
from webui.identity import Person
from webui.settings import Settings
from webui.view import View

pytestmark = pytest.mark.contract
ANN = Person("a" * 32)
Use = Callable[[Chat, FakeInference], Awaitable[None]]


def on_the_gateway(data_dir: Path, use: Use) -> None:
    """Runs `use` with a chat on a real gateway, whose engine is scripted."""
    with fake_inference() as fake, run_gateway(data_dir, fake) as gateway:

        async def run() -> None:
            settings = Settings(gateway_url=gateway.url, api_key=gateway.webui_key)
            async with GatewayClient(settings) as client:
                chat = Chat(client)
                await use(chat, fake)
                await chat.close()

        asyncio.run(run())


async def ended(chat: Chat, begun: View, *, stops: bool = False) -> View:
    """The closing view of a turn; with `stops` it is stopped at its first words."""
    assert begun.running, begun
    views = [begun]
    async for view in chat.watch(ANN, begun.conversation_id, SHOWN_MESSAGES):
        views.append(view)
        if stops and view.running and view.messages[-1].text:
            await chat.stop(ANN, begun.conversation_id)
    return await chat.ended(ANN, begun.conversation_id, views[-1])


async def left(fake: FakeInference) -> None:
    """Waits until the engine was left."""
    deadline = time.monotonic() + 30
    while not fake.chat.left_at:
        assert time.monotonic() < deadline, "the engine goes on"
        await asyncio.sleep(0.01)


def test_a_stop_frees_the_engine_and_the_answer_goes_on(tmp_path: Path) -> None:
    async def use(chat: Chat, fake: FakeInference) -> None:
        fake.scenario = Scenario("stalls", words=["One", " two", " three"])
        view = await ended(chat, await chat.send(ANN, "", "Count", Options()), stops=True)
        await left(fake)
        assert (view.messages[-1].mark, view.messages[-1].can_go_on) == ("mark_stopped", True)
        counts = view.messages[-1].counts
        assert counts is not None
        assert (counts.total_tokens, counts.answer_s is not None) == (None, True), "the engine had not counted yet"
        kept = view.messages[-1].text
        fake.scenario = Scenario(words=[" and", " more"])
        view = await ended(chat, await chat.go_on(ANN, view.conversation_id, Options()))
        assert view.messages[-1].text == kept + " and more"
        assert view.messages[-1].counts is not None
        stored = await chat.open(ANN, view.conversation_id)
        assert [message.text for message in stored.messages] == ["Count", kept + " and more"]
        assert stored.messages[-1].counts == view.messages[-1].counts

    on_the_gateway(tmp_path, use)


def test_another_page_watches_the_same_answer(tmp_path: Path) -> None:
    async def use(chat: Chat, fake: FakeInference) -> None:
        fake.scenario = Scenario("stalls", words=["One", " two", " three"])
        begun = await chat.send(ANN, "", "Count", Options())
        first = asyncio.create_task(ended(chat, begun))
        while not (opened := await chat.open(ANN, begun.conversation_id)).messages[-1].text:
            await asyncio.sleep(0.02)
        assert opened.running
        second = asyncio.create_task(ended(chat, opened))
        await asyncio.sleep(0.2)
        assert await chat.stop(ANN, begun.conversation_id)
        views = await asyncio.gather(first, second)
        assert views[0].messages == views[1].messages
        assert views[0].messages[-1].mark == "mark_stopped"

    on_the_gateway(tmp_path, use)


def test_a_rating_a_change_and_a_retry(tmp_path: Path) -> None:
    async def use(chat: Chat, fake: FakeInference) -> None:
        first = await ended(chat, await chat.send(ANN, "", "Hello", Options()))
        rated = await chat.rate(ANN, first.conversation_id, SHOWN_MESSAGES, lambda shown: shown[-1], "down")
        assert rated.error is None
        assert (await chat.open(ANN, first.conversation_id)).messages[-1].rating == "down"
        fake.scenario = Scenario(words=["Other"])
        changed = await ended(
            chat, await chat.edit(ANN, first.conversation_id, SHOWN_MESSAGES, lambda m: m[0], "Hi", Options())
        )
        assert [message.text for message in changed.messages] == ["Hi", "Other"]
        assert changed.earlier_id == first.conversation_id
        fake.scenario = Scenario(words=["Anew"])
        retried = await ended(chat, await chat.retry(ANN, changed.conversation_id, Options()))
        assert [message.text for message in retried.messages] == ["Hi", "Anew"]
        assert retried.earlier_id == first.conversation_id
        assert (await chat.open(ANN, changed.conversation_id)).notice is not None, "the retry took its place"
        assert (await chat.open(ANN, first.conversation_id)).messages[0].text == "Hello"

    on_the_gateway(tmp_path, use)


def test_the_place_in_the_line_comes_from_the_gateway(tmp_path: Path) -> None:
    async def use(chat: Chat, fake: FakeInference) -> None:
        fake.scenario = Scenario("stalls", words=["One"])
        others = [await chat.send(ANN, "", f"Other {n}", Options()) for n in range(4)]
        waiting = await chat.send(ANN, "", "Waits", Options())
        async for view in chat.watch(ANN, waiting.conversation_id, SHOWN_MESSAGES):
            if view.messages[-1].mark == "mark_queued":
                assert view.messages[-1].place == 1
                fake.scenario = Scenario(words=["At last"])
                for other in others:
                    await chat.stop(ANN, other.conversation_id)
        assert view.messages[-1].text
        await chat.stop(ANN, waiting.conversation_id)

    on_the_gateway(tmp_path, use)
