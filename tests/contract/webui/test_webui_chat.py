"""Turns of `Chat` against the scripted gateway: nothing typed or stored is lost, and a stop frees the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes.gateway import KEY, FakeGateway, Scenario, error, fake_gateway, serve
from webui.chat import LARGEST_MESSAGE_CHARS, Chat, title_of
from webui.client import GatewayClient, Options
from webui.errors import GatewayError
from webui.identity import Person
from webui.settings import Settings
from webui.turn import BUSY_TRIES, StopSignal
from webui.view import View

pytestmark = pytest.mark.contract
ANN = Person("a" * 32)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as running:
        yield running


def chat_with(gateway: FakeGateway, use: Callable[[Chat], Awaitable[None]]) -> None:
    """Runs `use` with a chat on the scripted gateway."""

    async def run() -> None:
        async with GatewayClient(Settings(gateway_url=gateway.url, api_key=KEY)) as client:
            chat = Chat(client)
            await use(chat)
            await chat.close()

    asyncio.run(run())


async def last(turn: AsyncGenerator[View, None]) -> View:
    """The closing view of a turn."""
    return [view async for view in turn][-1]


def say(chat: Chat, conversation_id: str, text: str, stop: StopSignal | None = None) -> AsyncGenerator[View, None]:
    return chat.send(ANN, conversation_id, text, Options(), stop or StopSignal())


def again(chat: Chat, conversation_id: str, stop: StopSignal | None = None) -> AsyncGenerator[View, None]:
    return chat.retry(ANN, conversation_id, Options(), stop or StopSignal())


def texts(view: View) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in view.messages]


def test_views_come_about_ten_times_a_second_however_fast_the_words(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 200, delay_s=0.002)

    async def use(chat: Chat) -> None:
        began = time.monotonic()
        views = [view async for view in say(chat, "", "Hi")]
        assert len(views) <= (time.monotonic() - began) * 10 + 4
        assert all(view.running for view in views[:-1])
        assert texts(views[-1]) == [("user", "Hi"), ("assistant", "word " * 200)]
        assert not views[-1].running
        assert len(views) > 3

    chat_with(gateway, use)


def test_a_stop_keeps_the_text_and_frees_the_model(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(chat: Chat) -> None:
        stop = StopSignal()
        view = View()
        stopped_at = 0.0
        async for view in say(chat, "", "Hi", stop):
            if view.running and view.messages[-1].role == "assistant" and not stop.is_set():
                stop.set()
                stopped_at = time.monotonic()
        assert view.messages[-1].mark == "mark_stopped"
        assert view.messages[-1].text.startswith("word ")
        assert not view.error
        await _until(lambda: bool(gateway.state.left_at))
        assert gateway.state.left_at[0] - stopped_at < 2
        gateway.state.scenario = Scenario(words=["Next."])
        after = await last(say(chat, view.conversation_id, "More"))
        assert [message.mark for message in after.messages] == ["", "mark_incomplete", "", ""]

    chat_with(gateway, use)


def test_leaving_the_page_frees_the_model(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(chat: Chat) -> None:
        turn = say(chat, "", "Hi")
        async for view in turn:
            if view.messages[-1].role == "assistant":
                break
        await turn.aclose()
        await _until(lambda: bool(gateway.state.left_at))

    chat_with(gateway, use)


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "upstream_not_ready", "overloaded", "context_length_exceeded"])
def test_a_refused_first_message_goes_back_and_leaves_no_empty_conversation(gateway: FakeGateway, code: str) -> None:
    gateway.state.scenario = Scenario(error=(503, code, "no", {"retry-after": "3"}))

    async def use(chat: Chat) -> None:
        view = await last(say(chat, "", "Hi"))
        assert view.error is not None
        assert view.error.code == code
        assert (view.refused_text, view.messages, view.conversation_id) == ("Hi", (), "")

    chat_with(gateway, use)
    assert gateway.state.conversations == {}


def test_a_refused_later_message_goes_back_and_the_conversation_stays(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        first = await last(say(chat, "", "Hi"))
        gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "no", {"retry-after": "3"}))
        view = await last(say(chat, first.conversation_id, "More"))
        assert view.refused_text == "More"
        assert texts(view) == texts(first)
        assert view.conversation_id == first.conversation_id

    chat_with(gateway, use)


def test_a_broken_answer_is_kept_with_its_error_beside_it(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        for scenario, code in (
            (Scenario(fails_after=2), "upstream_failed"),
            (Scenario(cut_after=2), "connection_lost"),
        ):
            gateway.state.scenario = scenario
            view = await last(say(chat, "", "Hi"))
            assert view.error is not None
            assert view.error.code == code
            assert texts(view) == [("user", "Hi"), ("assistant", "Hello, ")]
            assert view.messages[-1].mark == "mark_failed"
            assert not view.refused_text

    chat_with(gateway, use)


def test_a_message_that_may_have_been_stored_is_looked_for(gateway: FakeGateway) -> None:
    """A stop before the first event: the gateway already has the message, so it is not given back as unsent."""
    gateway.state.scenario = Scenario(first_delay_s=30, words=["never"])

    async def use(chat: Chat) -> None:
        stop = StopSignal()
        turn = asyncio.create_task(last(say(chat, "", "Hi", stop)))
        await _until(lambda: any(c["items"] for c in gateway.state.conversations.values()))
        stop.set()
        view = await turn
        assert texts(view) == [("user", "Hi"), ("assistant", "")]
        assert not view.refused_text

    chat_with(gateway, use)


def test_truncated_history_and_the_token_limit_are_told(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(truncated_items=4, incomplete=True)

    async def use(chat: Chat) -> None:
        view = await last(say(chat, "", "Hi"))
        assert view.notice is not None
        assert view.notice.key == "truncated"
        assert view.notice.values == {"n": 4}
        assert view.messages[-1].mark == "mark_length"

    chat_with(gateway, use)


def test_an_answer_that_the_server_broke_off_is_not_called_cut_at_the_limit(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(incomplete=True, incomplete_reason="interrupted")

    async def use(chat: Chat) -> None:
        view = await last(say(chat, "", "Hi"))
        assert view.messages[-1].mark == "mark_incomplete"

    chat_with(gateway, use)


@pytest.mark.parametrize("words", [0, 2])
def test_an_error_knows_whether_some_of_the_answer_had_come(gateway: FakeGateway, words: int) -> None:
    async def use(chat: Chat) -> None:
        for scenario in (Scenario(fails_after=words), Scenario(cut_after=words)):
            gateway.state.scenario = scenario
            view = await last(say(chat, "", "Hi"))
            assert view.error is not None
            assert view.has_kept_text == bool(words)

    chat_with(gateway, use)


def test_retry_replaces_the_last_turn_only_when_the_new_answer_is_there(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        await last(say(chat, "", "One"))
        old = await last(say(chat, (await _only(gateway)), "Two"))
        gateway.state.scenario = Scenario(words=["New."])
        new = await last(again(chat, old.conversation_id))
        await chat.close()
        assert texts(new)[:2] == texts(old)[:2]
        assert texts(new)[2:] == [("user", "Two"), ("assistant", "New.")]
        assert await _only(gateway) == new.conversation_id != old.conversation_id
        assert texts(await chat.open(ANN, new.conversation_id)) == texts(new)

    chat_with(gateway, use)


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(error=(429, "rate_limit_exceeded", "no", {})),
        Scenario(fails_after=2),
        Scenario(cut_after=1),
        Scenario(cut_after=0),
    ],
)
def test_a_failed_retry_loses_nothing(gateway: FakeGateway, scenario: Scenario) -> None:
    async def use(chat: Chat) -> None:
        old = await last(say(chat, "", "One"))
        gateway.state.scenario = scenario
        view = await last(again(chat, old.conversation_id))
        await chat.close()
        assert view.error is not None
        assert view.conversation_id == old.conversation_id
        assert texts(view) == texts(old)
        assert await _only(gateway) == old.conversation_id

    chat_with(gateway, use)


def test_leaving_during_a_retry_keeps_the_old_answer(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await last(say(chat, "", "One"))
        gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)
        turn = again(chat, old.conversation_id)
        async for view in turn:
            if view.messages[-1].role == "assistant":
                break
        await turn.aclose()
        await chat.close()
        assert await _only(gateway) == old.conversation_id
        assert texts(await chat.open(ANN, old.conversation_id)) == texts(old)

    chat_with(gateway, use)


def test_opening_something_else_during_a_retry_keeps_the_old_answer(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await last(say(chat, "", "One"))
        gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)
        stop = StopSignal()
        async for view in again(chat, old.conversation_id, stop):
            if view.messages[-1].role == "assistant":
                stop.leaving = True
                stop.set()
        await chat.close()
        assert await _only(gateway) == old.conversation_id

    chat_with(gateway, use)


def test_a_stopped_retry_with_some_text_counts_as_the_new_answer(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await last(say(chat, "", "One"))
        gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)
        stop = StopSignal()
        view = View()
        async for view in again(chat, old.conversation_id, stop):
            if view.messages[-1].role == "assistant":
                stop.set()
        await chat.close()
        assert view.messages[-1].mark == "mark_stopped"
        assert await _only(gateway) == view.conversation_id != old.conversation_id

    chat_with(gateway, use)


@pytest.mark.parametrize(
    ("typed", "notice"),
    [
        ("", "empty_message"),
        (" \n\t ", "empty_message"),
        ("\x00\x07\u0085", "empty_message"),
        ("x" * (LARGEST_MESSAGE_CHARS + 1), "message_too_long"),
        ("x" * 1_000_000, "message_too_long"),
    ],
)
def test_what_cannot_be_sent_is_said_and_kept(gateway: FakeGateway, typed: str, notice: str) -> None:
    async def use(chat: Chat) -> None:
        view = await last(say(chat, "", typed))
        assert view.notice is not None
        assert view.notice.key == notice
        assert view.refused_text == typed

    chat_with(gateway, use)
    assert gateway.state.conversations == {}


def test_invisible_control_characters_are_left_out(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await last(say(chat, "", "a\x00b\r\nc\x1b[31m\td\x9f"))
        assert view.messages[0].text == "ab\nc[31m\td"

    chat_with(gateway, use)


def test_a_conversation_that_is_gone_is_said_and_the_text_kept(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await last(say(chat, "conv_gone", "Hi"))
        assert view.notice is not None
        assert view.notice.key == "conversation_gone"
        assert (view.refused_text, view.conversation_id) == ("Hi", "")

    chat_with(gateway, use)


@pytest.mark.parametrize(("busy_times", "is_deleted"), [(0, True), (3, True), (BUSY_TRIES, False)])
def test_a_conversation_that_is_busy_is_deleted_when_it_is_free(busy_times: int, is_deleted: bool) -> None:
    """Right after a stop the gateway still writes down what was generated."""
    asked: list[str] = []

    async def delete(request: Request) -> Response:
        asked.append(f"{request.method} {request.url.path}")
        return error(409, "conversation_busy", "busy") if len(asked) <= busy_times else JSONResponse({})

    async def use(url: str) -> None:
        async with GatewayClient(Settings(gateway_url=url, api_key=KEY)) as client:
            await Chat(client).delete(ANN, "conv_1")

    with serve(Starlette(routes=[Route("/{path:path}", delete, methods=["DELETE"])])) as url:
        if is_deleted:
            asyncio.run(use(url))
        else:
            with pytest.raises(GatewayError, match="conversation_busy"):
                asyncio.run(use(url))
    assert asked == ["DELETE /v1/conversations/conv_1"] * min(busy_times + 1, BUSY_TRIES)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("\n  two \t words \n more", "two words"),
        ("x" * 100, "x" * 59 + "…"),
        ("你" * 60, "你" * 60),
        ("\u202eabc\u202c \u2066d\u2069", "abc d"),
        ("\u202e\n\u2067\nsecond", "second"),
    ],
)
def test_titles_come_from_the_first_line(text: str, title: str) -> None:
    assert title_of(text) == title


async def _only(gateway: FakeGateway) -> str:
    await _until(lambda: len(gateway.state.conversations) == 1)
    return next(iter(gateway.state.conversations))


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)
