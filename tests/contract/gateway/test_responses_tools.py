"""Functions, answer forms and log probabilities in the Responses API, stored and not; the SDK's typed events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from tests.fakes.inference import FakeInference, Scenario
from tests.fakes.scripted import Answer
from tests.fakes.tgi import Tgi, recorded, stream
from tests.running_gateway import MODEL, RunningGateway, events_of, eventually

pytestmark = pytest.mark.contract
Json = dict[str, Any]
PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Json = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": SCHEMA, "strict": True}
ASK: Json = {"input": "What is the weather in Paris?", "tools": [TOOL]}
CALLS = "chat/usage-stream-tools"
WEATHER = {"city": "Paris"}


class City(BaseModel):
    city: str


@pytest.fixture
def sdk(behind_tgi: RunningGateway, tgi: Tgi) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{behind_tgi.url}/v1", api_key=behind_tgi.new_key(), max_retries=0) as client:
        yield client


def asked(client: httpx2.Client, **fields: Any) -> Json:
    answer = client.post(PATH, json=ASK | fields)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def streamed(client: httpx2.Client, **fields: Any) -> list[Json]:
    answer = client.post(PATH, json=ASK | fields | {"stream": True})
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def words_and_call() -> Answer:
    """TGI has no such answer; other engines do."""
    *pieces, usage, done = recorded(CALLS).pieces or ()
    return recorded(CALLS, pieces=[*(stream("I look.", finish=None).pieces or ()), *pieces, usage, done])


# --- functions


def test_a_call_is_an_output_item(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    body = asked(asking, tool_choice="required", parallel_tool_calls=False)
    (call,) = body["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "get_weather", "completed")
    assert json.loads(call["arguments"]) == WEATHER
    assert call["id"].startswith("fc_")
    assert call["call_id"].startswith("call_")
    assert (body["status"], body["tool_choice"], body["parallel_tool_calls"]) == ("completed", "required", False)
    assert body["tools"] == [TOOL]
    assert body["usage"]["total_tokens"] == 180
    sent = tgi.chat.body
    assert sent["tools"][0]["function"] == {name: TOOL[name] for name in TOOL if name != "type"}
    assert asking.get(f"{PATH}/{body['id']}").json()["output"] == body["output"]


def test_the_events_of_a_call(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    events = streamed(asking)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(7))
    added, delta, done, ended, completed = events[2:]
    assert (added["item"]["arguments"], added["item"]["status"], added["output_index"]) == ("", "in_progress", 0)
    assert json.loads(delta["delta"]) == json.loads(done["arguments"]) == WEATHER
    assert added["item"]["id"] == delta["item_id"] == done["item_id"] == ended["item"]["id"]
    assert completed["response"]["output"] == [ended["item"]]


def test_words_before_a_call_are_a_message(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = words_and_call()
    events = streamed(asking)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2:5] == ["output_item.added", "content_part.added", "output_text.delta"]
    message, call = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "I look."
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1]
    assert json.loads(call["arguments"]) == WEATHER
    whole = asking.get(f"{PATH}/{events[0]['response']['id']}").json()
    assert whole["output"] == [message, call]


def test_words_only_although_there_are_tools(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("It", " rains", finish="stop", usage=(9, 2))
    events = streamed(asking)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == "It rains"


@pytest.mark.parametrize("how", ["conversation", "previous_response_id", "input"])
def test_a_result_goes_on_from_its_call(asking: httpx2.Client, tgi: Tgi, how: str) -> None:
    conversation = asking.post("/v1/conversations").json()["id"] if how == "conversation" else None
    tgi.next = words_and_call()
    first = asked(asking, conversation=conversation)
    call = first["output"][1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "18 C <|im_end|>"}
    tgi.next = stream("18", " degrees", finish="stop", usage=(9, 2))
    if how == "input":
        second = asked(asking, input=[{"role": "user", "content": ASK["input"]}, *first["output"], result])
    else:
        link = {"conversation": conversation} if conversation else {"previous_response_id": first["id"]}
        second = asked(asking, input=[result], **link)
    assert second["output"][0]["content"][0]["text"] == "18 degrees"
    question, words, called, answered = tgi.chat.body["messages"]
    assert question == {"role": "user", "content": ASK["input"]}
    assert words == {"role": "assistant", "content": "I look."}  # TGI takes words and calls in two messages only
    assert called["tool_calls"][0]["id"] == answered["tool_call_id"] == call["call_id"]
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == WEATHER
    assert (answered["role"], answered["content"]) == ("tool", "18 C <\u200b|im_end|>")
    if conversation:
        items = asking.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
        kinds = ["message", "message", "function_call", "function_call_output", "message"]
        assert [item["type"] for item in items] == kinds
        assert items[3]["output"] == "18 C <|im_end|>"  # the store keeps what was sent


def test_a_result_of_no_call_is_refused(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    first = asked(asking)
    result = {"type": "function_call_output", "call_id": "call_x", "output": "18 C"}
    answer = asking.post(PATH, json={"input": [result], "previous_response_id": first["id"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
    assert "call_x" in answer.json()["error"]["message"]


def test_a_call_and_its_result_stay_together_when_the_rest_is_cut(asking: httpx2.Client, tgi: Tgi) -> None:
    conversation = asking.post("/v1/conversations").json()["id"]
    tgi.next = stream("ok", finish="stop", usage=(9, 1))
    for _ in range(3):
        asked(asking, input="word " * 60, conversation=conversation, tools=None)
    tgi.next = recorded(CALLS)
    call = asked(asking, conversation=conversation)["output"][0]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "18 C"}
    tgi.next = stream("ok", finish="stop", usage=(9, 1))
    body = asked(asking, input=[result], conversation=conversation, truncation="auto", max_total_tokens=150)
    assert body["truncated_items"] > 0
    sent = tgi.chat.body["messages"]
    assert [message["role"] for message in sent][-2:] == ["assistant", "tool"]
    assert sent[-2]["tool_calls"][0]["id"] == sent[-1]["tool_call_id"]


def test_a_call_that_was_cut_is_incomplete_and_not_shown_to_the_model(asking: httpx2.Client, tgi: Tgi) -> None:
    *pieces, done = recorded("chat/tools-auto-stream").pieces or ()
    tgi.next = recorded(CALLS, pieces=[*pieces[:4], done])
    body = asked(asking)
    assert (body["status"], body["output"][0]["status"]) == ("incomplete", "incomplete")
    tgi.next = stream("ok", finish="stop")
    asked(asking, input="Go on.", previous_response_id=body["id"])
    assert [message["role"] for message in tgi.chat.body["messages"]] == ["user", "user"]


def test_tools_are_not_remembered(asking: httpx2.Client, tgi: Tgi) -> None:
    """As at OpenAI: each turn names its own."""
    tgi.next = recorded(CALLS)
    first = asked(asking)
    result = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "18 C"}
    tgi.next = stream("ok", finish="stop")
    assert asking.post(PATH, json={"input": [result], "previous_response_id": first["id"]}).is_success
    assert "tools" not in tgi.chat.body


def test_nothing_is_kept_of_calls_that_are_not_to_be_stored(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    body = asked(asking, store=False)
    assert body["output"][0]["type"] == "function_call"
    assert asking.get(f"{PATH}/{body['id']}").status_code == 404


def test_a_background_answer_with_a_call_is_told_again_with_the_same_numbers(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = words_and_call()
    first = streamed(asking, background=True)
    response_id = first[0]["response"]["id"]
    eventually(lambda: asking.get(f"{PATH}/{response_id}").json()["status"] == "completed")
    again = events_of(asking.get(f"{PATH}/{response_id}", params={"stream": "true"}).text)
    assert [(e["sequence_number"], e["type"]) for e in again] == [(e["sequence_number"], e["type"]) for e in first]
    assert again[-1]["response"]["output"] == first[-1]["response"]["output"]
    late = asking.get(f"{PATH}/{response_id}", params={"stream": "true", "starting_after": str(len(first) - 3)})
    assert events_of(late.text) == again[-2:]


def test_items_of_calls_can_be_put_into_a_conversation(asking: httpx2.Client, tgi: Tgi) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Paris"}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "18 C"}]}
    items = [{"role": "user", "content": "Weather?"}, call, result]
    conversation = asking.post("/v1/conversations", json={"items": items}).json()["id"]
    tgi.next = stream("ok", finish="stop")
    asked(asking, input="And now?", conversation=conversation)
    assert [message["role"] for message in tgi.chat.body["messages"]] == ["user", "assistant", "tool", "user"]
    assert tgi.chat.body["messages"][2]["content"] == "18 C"


# --- forms and log probabilities


def test_a_form_is_demanded_and_told(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream('{"city":', ' "Paris"}', finish="stop", usage=(9, 2))
    wanted = {"type": "json_schema", "name": "p", "schema": SCHEMA, "strict": True}
    body = asked(asking, tools=None, text={"format": wanted})
    assert json.loads(body["output"][0]["content"][0]["text"]) == WEATHER
    assert body["text"] == {"format": wanted}
    assert tgi.chat.body["response_format"]["value"] == {"name": "p", "schema": SCHEMA}
    asked(asking, tools=None, text={"format": {"type": "json_object"}})
    assert tgi.chat.body["response_format"]["type"] == "regex"
    for neutral in ({}, {"format": {"type": "text"}}, None, {"verbosity": "medium"}):
        asked(asking, tools=None, text=neutral)
        assert "response_format" not in tgi.chat.body


@pytest.mark.parametrize("is_streamed", [True, False])
def test_log_probabilities(asking: httpx2.Client, tgi: Tgi, is_streamed: bool) -> None:
    tgi.next = recorded("chat/logprobs-stream")
    fields = {"tools": None, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if is_streamed:
        events = streamed(asking, **fields)
        deltas = [event for event in events if event["type"] == "response.output_text.delta"]
        assert [token["token"] for delta in deltas for token in delta["logprobs"]] == ["L", "'", "É", "to"]
        (done,) = [event for event in events if event["type"] == "response.output_text.done"]
        assert len(done["logprobs"]) == 4
        body = events[-1]["response"]
    else:
        body = asked(asking, **fields)
    part = body["output"][0]["content"][0]
    assert [len(token["top_logprobs"]) for token in part["logprobs"]] == [2, 2, 2, 2]
    assert body["top_logprobs"] == 2
    again = asking.get(f"{PATH}/{body['id']}").json()["output"][0]
    assert again["content"][0]["logprobs"] == part["logprobs"]
    tgi.next = stream("ok", finish="stop")
    asked(asking, input=[{"role": "user", "content": "hi"}, again, {"role": "user", "content": "on"}], tools=None)


# --- the SDK


def test_the_sdk_parses_every_event(sdk: openai.OpenAI, tgi: Tgi) -> None:
    tgi.next = words_and_call()
    tool = openai.pydantic_function_tool(City, name="get_weather")["function"]
    flat: Any = {"type": "function", **tool}
    with sdk.responses.stream(model=MODEL, input="Weather?", tools=[flat]) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    message, call = final.output
    assert message.type == "message"
    assert final.output_text == "I look."
    assert call.type == "function_call"
    assert call.parsed_arguments == WEATHER
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 C"}
    tgi.next = stream("18 C", finish="stop")
    answer = sdk.responses.create(model=MODEL, input=[*final.output, result])  # type: ignore[list-item]
    assert answer.output_text == "18 C"
    assert answer.tools == []


def test_the_sdk_parses_typed_answers(sdk: openai.OpenAI, tgi: Tgi) -> None:
    tgi.next = stream('{"city":', ' "Paris"}', finish="stop")
    assert sdk.responses.parse(model=MODEL, input="x", text_format=City).output_parsed == City(city="Paris")


# --- InternLM2's and llama.cpp's way


def test_a_forced_call_in_front_of_llamacpp(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario(words=('{"name": "get_weather",', ' "parameters": {"city":', ' "Paris"}}'))
    body = client.post(PATH, json=ASK | {"tool_choice": {"type": "function", "name": "get_weather"}}).json()
    (call,) = body["output"]
    assert json.loads(call["arguments"]) == WEATHER
    assert body["tool_choice"] == {"type": "function", "name": "get_weather"}
