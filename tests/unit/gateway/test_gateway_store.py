"""How turns are opened, kept, closed and reopened in the store. tests/database runs the same on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.database import Database
from gateway.errors import ConversationBusy, GatewayError, InvalidRequest, NotFound
from gateway.store import Item, Store, new_id

pytestmark = pytest.mark.unit
OWNER = "key_1"


def message(role: str = "user") -> Item:
    return Item(new_id("msg"), role, "completed", [{"type": "input_text", "text": "x"}], is_output=role == "assistant")


def an_answer(text: str = "", status: str = "in_progress") -> Item:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return Item(new_id("msg"), "assistant", status, content, is_output=True)


def a_call(name: str, status: str = "completed") -> Item:
    data = {"call_id": f"call_{name}", "name": name, "arguments": '{"x": "你好"}'}
    return Item(new_id("fc"), "assistant", status, [], is_output=True, kind="function_call", data=data)


async def begun(
    store: Store, *, conversation: str | None = None, previous: str | None = None, status: str = "in_progress"
) -> tuple[dict[str, Any], Item]:
    """A turn that is open: its response object and its answer."""
    body = {
        "id": new_id("resp"),
        "status": status,
        "created_at": 0,
        "conversation": {"id": conversation} if conversation else None,
    }
    history = await store.history(OWNER, conversation, previous)
    answer = an_answer()
    await store.begin_turn(
        OWNER,
        body,
        conversation_id=conversation,
        previous_id=previous,
        last_item_id=history[-1].id if history else None,
        question=[message()],
        answer=answer,
    )
    return body, answer


def answered(item: Item, text: str, status: str = "completed") -> Item:
    return replace(item, status=status, content=[item.content[0] | {"text": text}])


async def ended(store: Store, body: dict[str, Any], answers: Sequence[Item], status: str = "completed") -> None:
    details = {"reason": "interrupted"} if status == "incomplete" else None
    await store.finish_turn(body | {"status": status, "incomplete_details": details}, answers)


async def error_of(work: Coroutine[Any, Any, Any]) -> type[BaseException]:
    with pytest.raises(GatewayError) as caught:
        await work
    return caught.type


def test_checkpoints_leave_closed_answers_alone(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        body, answer = await begun(store, conversation=conversation)
        await ended(store, body, [answered(answer, "whole")])
        await store.checkpoint([answered(answer, "late")])
        assert [item.text for item in (await store.response(OWNER, body["id"])).output] == ["whole"]

    asyncio.run(run())


def test_a_checkpoint_keeps_text_and_cuts(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        one, first = await begun(store)
        two, second = await begun(store)
        answers = [answered(first, "so far", "in_progress"), answered(second, "你好", "in_progress")]
        await store.checkpoint(answers, {one["id"]: [2, 6]})
        await store.checkpoint([])
        stored = await store.response(OWNER, one["id"])
        assert (stored.status, stored.output[0].text, stored.cuts) == ("in_progress", "so far", [2, 6])
        stored = await store.response(OWNER, two["id"])
        assert (stored.output[0].text, stored.cuts) == ("你好", None)
        await store.finish_turn(one | {"status": "completed"}, [answered(first, "so far so good")], cuts=[2, 6, 14])
        assert (await store.response(OWNER, one["id"])).cuts == [2, 6, 14]

    asyncio.run(run())


@pytest.mark.parametrize("status", ["in_progress", "queued"])
def test_what_a_crash_left_open_is_closed_once(database: Database, status: str) -> None:
    store = Store(database)

    async def run() -> None:
        body, answer = await begun(store, status=status)
        await store.checkpoint([answered(answer, "so far", "in_progress")])
        assert await store.close_open_turns() == 1
        assert await store.close_open_turns() == 0
        stored = await store.response(OWNER, body["id"])
        assert (stored.status, stored.body["incomplete_details"]) == ("incomplete", {"reason": "interrupted"})
        assert [(item.status, item.text) for item in stored.output] == [("incomplete", "so far")]

    asyncio.run(run())


def test_only_the_turns_of_the_named_gateways_are_closed(database: Database) -> None:
    here, there = Store(database, "gw_here"), Store(database, "gw_there")

    async def run() -> None:
        (one, _), (two, _) = await begun(here), await begun(there)
        assert await here.close_open_turns(["gw_there", "gw_other"]) == 1
        assert (await here.response(OWNER, one["id"])).status == "in_progress"
        assert (await here.response(OWNER, two["id"])).status == "incomplete"

    asyncio.run(run())


def test_a_queued_turn_is_open_and_gets_its_place_once(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        body, answer = await begun(store, conversation=conversation, status="queued")
        assert (await store.response(OWNER, body["id"])).status == "queued"
        assert await error_of(store.history(OWNER, conversation, None)) is ConversationBusy
        assert await error_of(store.history(OWNER, None, body["id"])) is ConversationBusy
        assert await error_of(store.add_items(OWNER, conversation, [message()])) is ConversationBusy
        assert await error_of(store.delete_conversation(OWNER, conversation)) is ConversationBusy
        assert await error_of(store.delete_response(OWNER, body["id"])) is ConversationBusy
        started = body | {"status": "in_progress"}
        assert await store.start_turn(started)
        assert not await store.start_turn(started)
        assert (await store.response(OWNER, body["id"])).body["status"] == "in_progress"
        await ended(store, body, [answered(answer, "x")])
        assert not await store.start_turn(started)
        await store.history(OWNER, conversation, None)

    asyncio.run(run())


def test_an_answer_of_several_items(database: Database) -> None:
    """The message that was opened is updated, calls are added after it; an opened item that came to nothing goes."""
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        body, answer = await begun(store, conversation=conversation)
        call, other = a_call("weather"), a_call("time")
        await ended(store, body, [answered(answer, "I look."), call, other])
        output = (await store.response(OWNER, body["id"])).output
        assert [(item.id, item.kind, item.text, item.data) for item in output] == [
            (answer.id, "message", "I look.", None),
            (call.id, "function_call", "", call.data),
            (other.id, "function_call", "", other.data),
        ]
        result = Item(
            new_id("fco"), "user", "completed", [], kind="function_call_output", data={"call_id": "1", "output": "sun"}
        )
        await store.add_items(OWNER, conversation, [result])
        assert (await store.history(OWNER, conversation, None))[-1].data == result.data
        body, answer = await begun(store, conversation=conversation)
        await ended(store, body, [a_call("weather")])
        assert [item.kind for item in (await store.response(OWNER, body["id"])).output] == ["function_call"]
        last = (await store.history(OWNER, conversation, None))[-1]
        fork = await store.fork_conversation(OWNER, conversation, last.id)
        assert [(i.kind, i.data) for i in await store.history(OWNER, fork.id, None)] == [
            (i.kind, i.data) for i in await store.history(OWNER, conversation, None)
        ]

    asyncio.run(run())


def test_a_turn_that_was_taken_back_is_not_brought_back_by_its_end(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        body, answer = await begun(store)
        await store.abandon_turn(body["id"])
        await ended(store, body, [answered(answer, "x"), a_call("y")])
        assert await error_of(store.response(OWNER, body["id"])) is NotFound

    asyncio.run(run())


def test_a_cut_answer_is_opened_again_and_goes_on(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        body, answer = await begun(store, conversation=conversation)
        assert await error_of(store.reopen_turn(OWNER, body["id"])) is ConversationBusy
        await ended(store, body, [answered(answer, "half", "incomplete")], "incomplete")
        assert await error_of(store.reopen_turn("another", body["id"])) is NotFound
        stored = await store.reopen_turn(OWNER, body["id"])
        assert (stored.status, stored.body["status"], stored.body["incomplete_details"]) == (
            "in_progress",
            "in_progress",
            None,
        )
        assert [(item.id, item.status, item.text) for item in stored.output] == [(answer.id, "in_progress", "half")]
        assert await error_of(store.reopen_turn(OWNER, body["id"])) is ConversationBusy
        assert await error_of(store.add_items(OWNER, conversation, [message()])) is ConversationBusy
        await ended(store, stored.body, [answered(answer, "half and whole")])
        assert [item.text for item in await store.history(OWNER, conversation, None)] == ["x", "half and whole"]
        assert await error_of(store.reopen_turn(OWNER, body["id"])) is InvalidRequest

    asyncio.run(run())


def test_an_answer_that_something_came_after_does_not_go_on(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        conversation = (await store.create_conversation(OWNER, {}, [])).id
        body, answer = await begun(store, conversation=conversation)
        await ended(store, body, [answered(answer, "half", "incomplete")], "incomplete")
        await store.add_items(OWNER, conversation, [message()])
        assert await error_of(store.reopen_turn(OWNER, body["id"])) is ConversationBusy
        first, answer = await begun(store)
        await ended(store, first, [answered(answer, "half", "incomplete")], "incomplete")
        await begun(store, previous=first["id"])
        assert await error_of(store.reopen_turn(OWNER, first["id"])) is ConversationBusy

    asyncio.run(run())


def test_a_turn_that_another_gateway_goes_on_with_is_not_ended_by_the_first(database: Database) -> None:
    """A gateway that stood still, and whose turns were closed by another, comes back."""
    slow, quick = Store(database), Store(database)

    async def run() -> None:
        body, answer = await begun(slow)
        await quick.close_open_turns([slow.holder])
        await quick.reopen_turn(OWNER, body["id"])
        await ended(slow, body, [answered(answer, "from the first")])
        assert (await quick.response(OWNER, body["id"])).status == "in_progress"
        await ended(quick, body, [answered(answer, "from the second")])
        assert (await quick.response(OWNER, body["id"])).output[0].text == "from the second"

    asyncio.run(run())


def test_text_that_no_database_takes_is_mended(database: Database) -> None:
    store = Store(database)

    async def run() -> None:
        body, answer = await begun(store)
        await store.checkpoint([answered(answer, "a\0b", "in_progress")])
        assert (await store.response(OWNER, body["id"])).output[0].text == "a\ufffdb"
        await ended(store, body, [answered(answer, "你\ud83d好\0 \\u0000 😀")])
        text = (await store.response(OWNER, body["id"])).output[0].text
        assert text.replace("\ufffd\ufffd\ufffd", "\ufffd") == "你\ufffd好\ufffd \\u0000 😀"

    asyncio.run(run())


def test_a_conversation_takes_one_of_many_turns_at_once(database: Database) -> None:
    """Of two gateways on one database too."""
    stores = [Store(database), Store(database)]

    async def run() -> None:
        conversation = (await stores[0].create_conversation(OWNER, {}, [])).id
        outcomes = await asyncio.gather(
            *(begun(stores[n % 2], conversation=conversation) for n in range(16)), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConversationBusy"] * 15 + ["tuple"]

    asyncio.run(run())
