"""Turns of `Chat` against the scripted gateway: nothing typed or stored is lost, and a stop frees the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes.gateway import KEY, FakeGateway, Scenario, error, fake_gateway, serve
from webui.chat import LARGEST_MESSAGE_CHARS, SHOWN_MESSAGES, Chat, title_of
from webui.client import GatewayClient, Options
from webui.errors import GatewayError
from webui.identity import Person
from webui.presence import Presence
from webui.settings import Settings
from webui.turn import BUSY_TRIES
from webui.view import Notice, View

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


async def seen(chat: Chat, begun: View) -> list[View]:
    """All views of a turn, the last one when everything is in order; only the first of one that has not begun."""
    views = [begun]
    if begun.running:
        views += [view async for view in chat.watch(ANN, begun.conversation_id, SHOWN_MESSAGES)]
        views.append(await chat.ended(ANN, begun.conversation_id, views[-1]))
    return views


async def say(chat: Chat, conversation_id: str, text: str) -> View:
    """The closing view of a turn."""
    return (await seen(chat, await chat.send(ANN, conversation_id, text, Options())))[-1]


async def again(chat: Chat, conversation_id: str) -> View:
    return (await seen(chat, await chat.retry(ANN, conversation_id, Options())))[-1]


async def change(chat: Chat, conversation_id: str, place: int, text: str) -> View:
    begun = await chat.edit(ANN, conversation_id, SHOWN_MESSAGES, lambda shown: shown[place], text, Options())
    return (await seen(chat, begun))[-1]


async def stopped(chat: Chat, begun: View) -> View:
    """The closing view of a turn that is stopped with its first words."""
    views = [begun]
    async for view in chat.watch(ANN, begun.conversation_id, SHOWN_MESSAGES):
        views.append(view)
        if view.running and view.messages[-1].text:
            await chat.stop(ANN, begun.conversation_id)
    return await chat.ended(ANN, begun.conversation_id, views[-1])


def texts(view: View) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in view.messages]


def test_views_come_about_ten_times_a_second_however_fast_the_words(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 200, delay_s=0.002)

    async def use(chat: Chat) -> None:
        began = time.monotonic()
        views = await seen(chat, await chat.send(ANN, "", "Hi", Options()))
        assert len(views) <= (time.monotonic() - began) * 10 + 12
        assert all(view.running for view in views[:-2])
        assert texts(views[-1]) == [("user", "Hi"), ("assistant", "word " * 200)]
        assert not views[-1].running
        lengths = [len(view.messages[-1].text) for view in views]
        assert lengths == sorted(lengths)
        assert len(views) > 3

    chat_with(gateway, use)


def test_a_stop_keeps_the_text_and_frees_the_model(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(chat: Chat) -> None:
        view = await stopped(chat, await chat.send(ANN, "", "Hi", Options()))
        assert view.messages[-1].mark == "mark_stopped"
        assert view.messages[-1].text.startswith("word ")
        assert view.messages[-1].can_go_on
        assert not view.error
        assert len(gateway.state.stopped_at) == 1
        gateway.state.scenario = Scenario(words=["Next."])
        after = await say(chat, view.conversation_id, "More")
        assert [message.mark for message in after.messages] == ["", "mark_stopped", "", ""]
        assert after.messages[1].text == view.messages[-1].text

    chat_with(gateway, use)


def test_a_page_that_leaves_finds_the_answer_again(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(100)], delay_s=0.02)

    async def use(chat: Chat) -> None:
        begun = await chat.send(ANN, "", "Hi", Options())
        async with aclosing(chat.watch(ANN, begun.conversation_id, SHOWN_MESSAGES)) as views:
            async for view in views:
                if view.messages[-1].text:
                    break
        opened = await chat.open(ANN, begun.conversation_id)
        assert opened.running
        assert texts(opened)[0] == ("user", "Hi")
        assert opened.messages[-1].text.startswith("w0 ")
        end = (await seen(chat, opened))[-1]
        assert texts(end) == [("user", "Hi"), ("assistant", "".join(gateway.state.scenario.words))]
        assert not gateway.state.stopped_at

    chat_with(gateway, use)


def test_another_web_ui_finds_the_answer_again(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(100)], delay_s=0.02)
    conversations: list[str] = []

    async def begin(chat: Chat) -> None:
        conversations.append((await chat.send(ANN, "", "Hi", Options())).conversation_id)
        await _until(lambda: any(c["items"] for c in gateway.state.conversations.values()))

    async def go_on(chat: Chat) -> None:
        opened = await chat.open(ANN, conversations[0])
        assert opened.running
        views = await seen(chat, opened)
        assert texts(views[-1]) == [("user", "Hi"), ("assistant", "".join(gateway.state.scenario.words))]
        assert all("".join(gateway.state.scenario.words).startswith(view.messages[-1].text) for view in views)

    chat_with(gateway, begin)
    chat_with(gateway, go_on)
    assert not gateway.state.stopped_at


@pytest.mark.parametrize("cut_after", [0, 3])
def test_a_lost_connection_costs_no_word_and_doubles_none(gateway: FakeGateway, cut_after: int) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(30)], delay_s=0.02, cut_after=cut_after)

    async def use(chat: Chat) -> None:
        views = await seen(chat, await chat.send(ANN, "", "Hi", Options()))
        whole = "".join(gateway.state.scenario.words)
        assert texts(views[-1]) == [("user", "Hi"), ("assistant", whole)]
        assert all(whole.startswith(view.messages[-1].text) for view in views)
        assert views[-1].error is None
        assert any(view.messages[-1].mark == "mark_reconnecting" for view in views)

    chat_with(gateway, use)
    watches = [r for r in gateway.state.requests if r["method"] == "GET" and "/v1/responses/" in r["path"]]
    assert watches


def test_an_answer_that_died_with_its_gateway_can_go_on(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["One ", "two ", "three "], dies_after=2, delay_s=0.02)

    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Count")
        assert view.messages[-1].mark == "mark_incomplete"
        assert view.messages[-1].can_go_on
        gateway.state.scenario = Scenario(words=["three ", "four"])
        begun = await chat.go_on(ANN, view.conversation_id, Options())
        assert begun.running
        assert begun.messages[-1].text == "One two "
        views = await seen(chat, begun)
        assert texts(views[-1]) == [("user", "Count"), ("assistant", "One two three four")]
        assert all(view.messages[-1].text.startswith("One two ") for view in views)
        assert len(gateway.state.conversations) == 1

    chat_with(gateway, use)


def test_what_cannot_go_on_is_said(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        refused = await chat.go_on(ANN, view.conversation_id, Options())
        assert refused.notice == Notice("nothing_to_go_on")
        assert not refused.running

    chat_with(gateway, use)


def test_a_place_in_the_line_is_shown(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(places=[2, 1])

    async def use(chat: Chat) -> None:
        views = await seen(chat, await chat.send(ANN, "", "Hi", Options()))
        places = [view.messages[-1].place for view in views if view.messages[-1].mark == "mark_queued"]
        assert sorted(set(places), reverse=True) == [2, 1]
        assert views[-1].messages[-1].mark == ""

    chat_with(gateway, use)


def test_people_who_are_gone_have_their_answers_ended(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(chat: Chat) -> None:
        presence = Presence(0.3, chat.turns.stop_all_of)
        with presence.here(ANN.id):
            await chat.send(ANN, "", "Hi", Options())
            with presence.here(ANN.id):
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            assert not gateway.state.stopped_at, "one of two pages is still here"
        await _until(lambda: bool(gateway.state.stopped_at))

    chat_with(gateway, use)


def test_who_is_back_in_time_loses_nothing(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(chat: Chat) -> None:
        presence = Presence(0.5, chat.turns.stop_all_of)
        with presence.here(ANN.id):
            await chat.send(ANN, "", "Hi", Options())
        await asyncio.sleep(0.1)
        with presence.here(ANN.id):
            await asyncio.sleep(0.7)
            assert not gateway.state.stopped_at
        presence.close()

    chat_with(gateway, use)


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "upstream_not_ready", "overloaded", "context_length_exceeded"])
def test_a_refused_first_message_goes_back_and_leaves_no_empty_conversation(gateway: FakeGateway, code: str) -> None:
    gateway.state.scenario = Scenario(error=(503, code, "no", {"retry-after": "3"}))

    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        assert view.error is not None
        assert view.error.code == code
        assert (view.refused_text, view.messages, view.conversation_id) == ("Hi", (), "")

    chat_with(gateway, use)
    assert gateway.state.conversations == {}


def test_a_refused_later_message_goes_back_and_the_conversation_stays(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        first = await say(chat, "", "Hi")
        gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "no", {"retry-after": "3"}))
        view = await say(chat, first.conversation_id, "More")
        assert view.refused_text == "More"
        assert texts(view) == texts(first)
        assert view.conversation_id == first.conversation_id

    chat_with(gateway, use)


def test_a_broken_answer_is_kept_with_its_error_beside_it(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(fails_after=2)

    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        assert view.error is not None
        assert view.error.code == "upstream_failed"
        assert texts(view) == [("user", "Hi"), ("assistant", "Hello, ")]
        assert view.messages[-1].mark == "mark_failed"
        assert not view.refused_text

    chat_with(gateway, use)


def test_a_stop_before_the_first_word_is_one(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(first_delay_s=30, words=["never"])

    async def use(chat: Chat) -> None:
        begun = await chat.send(ANN, "", "Hi", Options())
        watching = asyncio.create_task(seen(chat, begun))
        await _until(lambda: any(c["items"] for c in gateway.state.conversations.values()))
        assert await chat.stop(ANN, begun.conversation_id)
        view = (await watching)[-1]
        assert texts(view) == [("user", "Hi"), ("assistant", "")]
        assert view.messages[-1].mark == "mark_stopped"
        assert not view.refused_text
        assert not await chat.stop(ANN, begun.conversation_id), "it runs no more"

    chat_with(gateway, use)


def test_a_second_message_waits_for_the_first_answer(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 100, delay_s=0.01)

    async def use(chat: Chat) -> None:
        begun = await chat.send(ANN, "", "Hi", Options())
        await _until(lambda: bool(gateway.state.answers))
        second = await chat.send(ANN, begun.conversation_id, "More", Options())
        assert second.running
        assert second.refused_text == "More"
        assert len(gateway.state.answers) == 1

    chat_with(gateway, use)


def test_truncated_history_and_the_token_limit_are_told(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(truncated_items=4, incomplete=True)

    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        assert view.notice is not None
        assert view.notice.key == "truncated"
        assert view.notice.values == {"n": 4}
        assert view.messages[-1].mark == "mark_length"

    chat_with(gateway, use)


def test_an_answer_that_the_server_broke_off_is_not_called_cut_at_the_limit(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(incomplete=True, incomplete_reason="interrupted")

    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        assert view.messages[-1].mark == "mark_incomplete"

    chat_with(gateway, use)


@pytest.mark.parametrize("words", [0, 2])
def test_an_error_knows_whether_some_of_the_answer_had_come(gateway: FakeGateway, words: int) -> None:
    async def use(chat: Chat) -> None:
        gateway.state.scenario = Scenario(fails_after=words)
        view = await say(chat, "", "Hi")
        assert view.error is not None
        assert view.has_kept_text == bool(words)

    chat_with(gateway, use)


def test_retry_replaces_the_last_turn_only_when_the_new_answer_is_there(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        await say(chat, "", "One")
        old = await say(chat, (await _only(gateway)), "Two")
        gateway.state.scenario = Scenario(words=["New."])
        new = await again(chat, old.conversation_id)
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
        Scenario(fails_after=0),
    ],
)
def test_a_failed_retry_loses_nothing(gateway: FakeGateway, scenario: Scenario) -> None:
    async def use(chat: Chat) -> None:
        old = await say(chat, "", "One")
        gateway.state.scenario = scenario
        view = await again(chat, old.conversation_id)
        await chat.close()
        assert view.error is not None
        assert view.conversation_id == old.conversation_id
        assert texts(view) == texts(old)
        assert await _only(gateway) == old.conversation_id

    chat_with(gateway, use)


def test_a_stopped_retry_with_some_text_counts_as_the_new_answer(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await say(chat, "", "One")
        gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)
        view = await stopped(chat, await chat.retry(ANN, old.conversation_id, Options()))
        await chat.close()
        assert view.messages[-1].mark == "mark_stopped"
        assert await _only(gateway) == view.conversation_id != old.conversation_id

    chat_with(gateway, use)


def test_a_retry_that_nobody_watches_ends_well(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await say(chat, "", "One")
        gateway.state.scenario = Scenario(words=["New."], delay_s=0.05)
        begun = await chat.retry(ANN, old.conversation_id, Options())
        assert begun.running
        assert await _only_after(gateway, old.conversation_id) == begun.conversation_id

    chat_with(gateway, use)


def test_a_changed_message_begins_a_branch_and_the_old_one_is_kept(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        await say(chat, "", "One")
        old = await say(chat, await _only(gateway), "Two")
        gateway.state.scenario = Scenario(words=["Other."])
        new = await change(chat, old.conversation_id, 2, "Two, but better")
        assert texts(new)[:2] == texts(old)[:2]
        assert texts(new)[2:] == [("user", "Two, but better"), ("assistant", "Other.")]
        assert new.conversation_id != old.conversation_id == new.earlier_id
        kept = await chat.open(ANN, old.conversation_id)
        assert texts(kept) == texts(old)
        assert kept.earlier_id == ""
        assert (await chat.open(ANN, new.conversation_id)).earlier_id == old.conversation_id
        titles = {c["id"]: c["metadata"]["title"] for c in gateway.state.conversations.values()}
        assert titles == {old.conversation_id: "One", new.conversation_id: "One"}

    chat_with(gateway, use)


def test_a_changed_first_message_names_its_branch(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await say(chat, "", "One")
        new = await change(chat, old.conversation_id, 0, "Uno")
        assert gateway.state.conversations[new.conversation_id]["metadata"]["title"] == "Uno"

    chat_with(gateway, use)


def test_a_refused_change_leaves_everything_and_gives_the_text_back(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await say(chat, "", "One")
        gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "no", {"retry-after": "3"}))
        view = await change(chat, old.conversation_id, 0, "Uno")
        await chat.close()
        assert (view.refused_text, view.conversation_id) == ("Uno", old.conversation_id)
        assert texts(view) == texts(old)
        assert view.error is not None
        assert await _only(gateway) == old.conversation_id

    chat_with(gateway, use)


def test_a_message_that_is_not_there_any_more_cannot_be_changed(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        old = await say(chat, "", "One")
        view = await chat.edit(ANN, old.conversation_id, SHOWN_MESSAGES, lambda _: None, "Uno", Options())
        assert view.notice == Notice("conversation_changed")
        assert view.refused_text == "Uno"

    chat_with(gateway, use)


def test_only_the_newest_messages_are_shown_and_older_ones_on_request(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "", "q0")
        conversation = gateway.state.conversations[view.conversation_id]
        for n in range(1, 60):
            for role, text in (("user", f"q{n}"), ("assistant", f"a{n}")):
                item = {**conversation["items"][0], "id": f"msg_x{role}{n}", "role": role, "response_id": None}
                conversation["items"].append(item | {"content": [{"type": "output_text", "text": text}]})
        newest = await chat.open(ANN, view.conversation_id)
        assert (len(newest.messages), newest.has_older, newest.messages[-1].text) == (SHOWN_MESSAGES, True, "a59")
        more = await chat.open(ANN, view.conversation_id, 2 * SHOWN_MESSAGES)
        assert (len(more.messages), more.has_older) == (2 * SHOWN_MESSAGES, True)
        everything = await chat.open(ANN, view.conversation_id, 3 * SHOWN_MESSAGES)
        assert (len(everything.messages), everything.has_older) == (120, False)
        assert everything.messages[0].text == "q0"
        after = await say(chat, view.conversation_id, "and now")
        assert (len(after.messages), after.has_older) == (SHOWN_MESSAGES, True)

    chat_with(gateway, use)


def test_a_rating_is_stored_and_shown_again(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        for rating, shown in (("up", "up"), ("down", "down"), (None, "")):
            rated = await chat.rate(ANN, view.conversation_id, SHOWN_MESSAGES, lambda m: m[1], rating)
            assert rated.error is None
            assert (await chat.open(ANN, view.conversation_id)).messages[1].rating == shown

    chat_with(gateway, use)


def test_in_a_changed_copy_earlier_answers_keep_their_rating_and_can_be_rated(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "", "One")
        await chat.rate(ANN, view.conversation_id, SHOWN_MESSAGES, lambda m: m[1], "up")
        await say(chat, view.conversation_id, "Two")
        copy = await change(chat, view.conversation_id, 2, "Three")
        assert [(m.text, m.rating) for m in copy.messages[1:3]] == [("Hello, this is an answer.", "up"), ("Three", "")]
        assert copy.messages[1].counts is not None
        rated = await chat.rate(ANN, copy.conversation_id, SHOWN_MESSAGES, lambda m: m[1], "down")
        assert (rated.error, rated.notice) == (None, Notice("rated"))
        assert (await chat.open(ANN, copy.conversation_id)).messages[1].rating == "down"
        assert (await chat.open(ANN, view.conversation_id)).messages[1].rating == "up"

    chat_with(gateway, use)


def test_what_an_answer_took_is_known_at_once_and_later(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "", "Hi")
        assert view.messages[-1].counts is not None
        assert view.messages[-1].counts.total_tokens == 41 + 5
        assert (await chat.open(ANN, view.conversation_id)).messages[-1].counts == view.messages[-1].counts

    chat_with(gateway, use)


def test_of_a_stopped_answer_the_seconds_are_known_and_no_tokens_are_made_up(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(chat: Chat) -> None:
        view = await stopped(chat, await chat.send(ANN, "", "Hi", Options()))
        counts = view.messages[-1].counts
        assert counts is not None
        assert (counts.total_tokens, counts.first_token_s) == (None, 0.12)
        assert counts.answer_s is not None
        assert (await chat.open(ANN, view.conversation_id)).messages[-1].counts == counts

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
        view = await say(chat, "", typed)
        assert view.notice is not None
        assert view.notice.key == notice
        assert view.refused_text == typed

    chat_with(gateway, use)
    assert gateway.state.conversations == {}


def test_invisible_control_characters_are_left_out(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "", "a\x00b\r\nc\x1b[31m\td\x9f")
        assert view.messages[0].text == "ab\nc[31m\td"

    chat_with(gateway, use)


def test_a_conversation_that_is_gone_is_said_and_the_text_kept(gateway: FakeGateway) -> None:
    async def use(chat: Chat) -> None:
        view = await say(chat, "conv_gone", "Hi")
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


async def _only_after(gateway: FakeGateway, old: str) -> str:
    await _until(lambda: old not in gateway.state.conversations)
    return await _only(gateway)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)
