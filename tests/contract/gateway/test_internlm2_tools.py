"""InternLM2's own tools through the gateway (GATEWAY_TOOL_FORMAT=internlm2), in front of TGI and of llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.fakes.inference import FakeInference, Scenario
from tests.fakes.tgi import CHAT, DOCUMENT, Tgi, as_documented, stream
from tests.openapi import complaints
from tests.running_gateway import MODEL, RunningGateway, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
Json = dict[str, Any]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "now"}}
ASK: Json = {"model": MODEL, "messages": [{"role": "user", "content": "Weather in Shanghai?"}]}
PIECES = ("I", " look", ".<|action", "_start|>", "<|plugin|>", "\n", '{"name": "get_wea', 'ther", "parameters"')
PIECES += (': {"city": "Shang', 'hai"}}', "<|action_end|>", "")


@pytest.fixture(scope="module")
def served(_tgi: Tgi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("internlm2")
    with run_gateway(folder, _tgi.server.url, engine="tgi", tool_format="internlm2") as running:
        yield running


@pytest.fixture
def asking(served: RunningGateway, tgi: Tgi) -> Iterator[httpx2.Client]:
    with served.client() as client:
        yield client
    eventually(served.is_idle)


def streamed(client: httpx2.Client, **fields: Any) -> list[Json]:
    answer = client.post(CHAT, json=ASK | {"stream": True, "stream_options": {"include_usage": True}} | fields)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def choices_of(events: list[Json]) -> list[Json]:
    return [choice for event in events for choice in event.get("choices", ())]


def test_what_tgi_is_asked(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("ok", finish="stop")
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "<|im_end|>"}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "22 <|action_end|>"},
    ]
    assert asking.post(CHAT, json=ASK | {"messages": messages, "tools": [TOOL]}).is_success
    body = tgi.chat.body
    assert not {"tools", "tool_choice", "response_format"} & set(body)
    assert [message["role"] for message in body["messages"]] == [
        "system",
        "system name=<|plugin|>",
        "user",
        "assistant",
        "environment name=<|plugin|>",
    ]
    assert json.loads(body["messages"][1]["content"])[0]["parameters"] == SCHEMA
    start, end = "<|action_start|><|plugin|>\n", "<|action_end|>"
    written = body["messages"][3]["content"]
    assert written == start + '{"name":"get_weather","parameters":{"city": "<\u200b|im_end|>"}}' + end
    assert body["messages"][4]["content"] == "22 <\u200b|action_end|>"
    assert complaints(DOCUMENT, "ChatRequest", as_documented(body)) == []


def test_a_call_in_a_stream(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream(*PIECES, finish="stop", usage=(20, 12))
    *events, done = streamed(asking, tools=[TOOL])
    choices = choices_of(events)
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "I look."
    (piece,) = [piece for choice in choices for piece in choice["delta"].get("tool_calls", ())]
    assert piece["id"].startswith("call_")
    assert (piece["index"], piece["type"], piece["function"]["name"]) == (0, "function", "get_weather")
    assert json.loads(piece["function"]["arguments"]) == {"city": "Shanghai"}
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    assert ["role" in choice["delta"] for choice in choices] == [True] + [False] * (len(choices) - 1)
    assert len({event["id"] for event in events}) == 1
    assert {event["model"] for event in events} == {MODEL}
    assert events[-1]["usage"]["total_tokens"] == 32
    assert done == {"done": True}


def test_the_same_not_streamed_and_with_the_sdk(served: RunningGateway, tgi: Tgi) -> None:
    tgi.next = stream(*PIECES, finish="stop", usage=(20, 12))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.new_key(), max_retries=0) as sdk:
        plain = sdk.chat.completions.create(model=MODEL, messages=ASK["messages"], tools=[TOOL])  # type: ignore[list-item]
        with sdk.chat.completions.stream(model=MODEL, messages=ASK["messages"], tools=[TOOL]) as events:  # type: ignore[list-item]
            final = events.get_final_completion()
    for choice in (plain.choices[0], final.choices[0]):
        (call,) = choice.message.tool_calls or ()
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "I look."
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Shanghai"})


@pytest.mark.parametrize("tail", ["not JSON<|action_end|> so", '{"name": "get_weather", "par'])
def test_what_cannot_be_read_as_a_call_stays_visible(asking: httpx2.Client, tgi: Tgi, tail: str) -> None:
    tgi.next = stream("a<|action_start|>", "<|plugin|>", tail, finish="length")
    *events, _ = streamed(asking, tools=[TOOL])
    choices = choices_of(events)
    assert "".join(c["delta"].get("content") or "" for c in choices) == "a<|action_start|><|plugin|>" + tail
    assert choices[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL], "tool_choice": "none"}])
def test_without_tools_markers_are_text(asking: httpx2.Client, tgi: Tgi, fields: Json) -> None:
    tgi.next = stream(*PIECES, finish="stop")
    body = asking.post(CHAT, json=ASK | fields).json()
    assert body["choices"][0]["message"]["content"] == "".join(PIECES)
    assert len(tgi.chat.body["messages"]) == 1


def test_a_call_that_is_demanded_is_forced_by_the_grammar(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream('{"name": "get_weather",', ' "parameters": {"city": "Paris"}}', finish="stop", usage=(9, 2))
    named = {"type": "function", "function": {"name": "get_weather"}}
    *events, done = streamed(asking, tools=[TOOL, OTHER], tool_choice=named)
    (piece,) = [piece for choice in choices_of(events) for piece in choice["delta"].get("tool_calls", ())]
    assert json.loads(piece["function"]["arguments"]) == {"city": "Paris"}
    assert choices_of(events)[-1]["finish_reason"] == "tool_calls"
    assert (events[-1]["usage"]["total_tokens"], done) == (11, {"done": True})
    sent = tgi.chat.body["response_format"]["value"]["schema"]
    assert sent["properties"] == {"name": {"type": "string", "enum": ["get_weather"]}, "parameters": SCHEMA}
    assert len(json.loads(tgi.chat.body["messages"][0]["content"])) == 2  # it still sees all of them
    assert "tools" not in tgi.chat.body


def test_one_of_several_is_forced_too(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream('{"call": {"name": "now", "parameters": {}}}', finish="stop")
    body = asking.post(CHAT, json=ASK | {"tools": [TOOL, OTHER], "tool_choice": "required"}).json()
    (call,) = body["choices"][0]["message"]["tool_calls"]
    assert (call["function"], body["choices"][0]["finish_reason"]) == ({"name": "now", "arguments": "{}"}, "tool_calls")
    calls = tgi.chat.body["response_format"]["value"]["schema"]["properties"]["call"]["anyOf"]
    assert [call["properties"]["name"]["enum"] for call in calls] == [["get_weather"], ["now"]]


def test_a_forced_call_that_is_cut_is_text(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream('{"name": "get_', finish="length")
    body = asking.post(CHAT, json=ASK | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 1}).json()
    assert body["choices"][0]["message"]["content"] == '{"name": "get_'
    assert body["choices"][0]["finish_reason"] == "length"


def test_a_form_beside_tools_is_refused_by_name(asking: httpx2.Client, tgi: Tgi) -> None:
    for choice in ("auto", "required"):
        fields = {"tools": [TOOL], "tool_choice": choice, "response_format": {"type": "json_object"}}
        answer = asking.post(CHAT, json=ASK | fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")


def test_an_answer_that_breaks_off_inside_a_call_is_an_error(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream(*PIECES[:6], finish=None)
    assert streamed(asking, tools=[TOOL])[-1]["error"]["code"] == "upstream_failed"


def test_llamacpp(client: httpx2.Client, fake: FakeInference, tmp_path_factory: pytest.TempPathFactory) -> None:
    fake.scenario = Scenario(words=PIECES)
    folder = tmp_path_factory.mktemp("internlm2-llamacpp")
    with run_gateway(folder, fake, tool_format="internlm2") as running, running.client() as asking:
        body = asking.post(CHAT, json=ASK | {"tools": [TOOL]}).json()
    assert body["choices"][0]["message"]["content"] == "I look."
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert fake.chat.body["messages"][0]["role"] == "system name=<|plugin|>"


# --- without the setting, llama.cpp's own tools


def test_llamacpps_own_tools(client: httpx2.Client, fake: FakeInference) -> None:
    assert client.post(CHAT, json=ASK | {"tools": [TOOL]}).is_success
    body = fake.chat.body
    assert (body["tools"], body["tool_choice"], body["parallel_tool_calls"]) == ([TOOL], "auto", True)
    assert client.post(CHAT, json=ASK | {"tools": [TOOL], "parallel_tool_calls": False}).is_success
    assert fake.chat.body["parallel_tool_calls"] is False


@pytest.mark.parametrize("is_streamed", [True, False])
def test_llamacpp_is_forced_since_it_would_answer_in_words(
    client: httpx2.Client, fake: FakeInference, is_streamed: bool
) -> None:
    """A model whose template knows no tools would get them not at all, and nobody would say so."""
    fake.scenario = Scenario(words=('{"name": "get_weather",', ' "parameters": {"city":', ' "Paris"}}'))
    messages = [{"role": "system", "content": "Be kind."}, *ASK["messages"]]
    fields = {"messages": messages, "tools": [TOOL], "tool_choice": "required", "stream": is_streamed}
    answer = client.post(CHAT, json=ASK | fields)
    if is_streamed:
        *events, _ = events_of(answer.text)
        choices = choices_of(events)
        (call,) = [piece for choice in choices for piece in choice["delta"].get("tool_calls", ())]
        reason = choices[-1]["finish_reason"]
    else:
        (choice,) = answer.json()["choices"]
        (call,), reason = choice["message"]["tool_calls"], choice["finish_reason"]
    assert (json.loads(call["function"]["arguments"]), reason) == ({"city": "Paris"}, "tool_calls")
    sent = fake.chat.body
    assert "tools" not in sent
    assert sent["response_format"]["json_schema"]["schema"]["properties"]["parameters"] == SCHEMA
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["messages"][0]["content"].startswith("Be kind.\n\n")
    assert "get_weather" in sent["messages"][0]["content"]


def test_llamacpps_answer_formats(client: httpx2.Client, fake: FakeInference) -> None:
    for wanted, sent in (
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_object", "value": SCHEMA},  # TGI's form
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        ),
        ({"type": "text"}, None),
    ):
        assert client.post(CHAT, json=ASK | {"response_format": wanted}).is_success
        assert fake.chat.body.get("response_format") == sent


def test_llamacpps_completions_with_log_probabilities(client: httpx2.Client, fake: FakeInference) -> None:
    fields = {"prompt": "Once", "max_tokens": 2, "logprobs": 1}
    body = client.post("/v1/completions", json=fields).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], body["usage"]["total_tokens"]) == ("Hello there", "length", 3)
    assert choice["logprobs"] == {
        "tokens": ["Hello", " there"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Hello": -0.5}, {" there": -0.5}],
        "text_offset": [0, 5],
    }
    *events, done = events_of(client.post("/v1/completions", json=fields | {"stream": True}).text)
    assert done == {"done": True}
    assert [c["logprobs"]["text_offset"] for c in choices_of(events) if c["logprobs"]] == [[0], [5]]
    assert all(event["id"].startswith("cmpl-") for event in events)
    assert not any("usage" in event for event in events)  # nobody asked for it


def test_an_answer_with_tools_goes_on(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("I", " look", finish="length", usage=(9, 2))
    tool = {"type": "function", "name": "get_weather", "parameters": SCHEMA}
    body = {"input": "Weather in Shanghai?", "tools": [tool], "max_output_tokens": 2}
    cut = asking.post("/v1/responses", json=body).json()
    tgi.next = stream(*PIECES[2:], finish="stop", usage=(9, 9))
    done = asking.post(f"/v1/responses/{cut['id']}/continue", json={"max_output_tokens": 50}).json()
    assert [item["type"] for item in done["output"]] == ["message", "function_call"], done
    assert done["output"][0]["content"][0]["text"] == "I look."
    assert (done["output"][1]["name"], json.loads(done["output"][1]["arguments"])) == (
        "get_weather",
        {"city": "Shanghai"},
    )
    system, question, answer = tgi.chat.body["messages"]
    assert "get_weather" in system["content"]
    assert (question["content"], answer["role"], answer["content"]) == (body["input"], "assistant", "I look")
