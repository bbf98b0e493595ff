"""Tools, answer formats, log probabilities and legacy completions in front of TGI, on what a real one sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from tests.fakes.scripted import Answer
from tests.fakes.tgi import CHAT, COMPLETIONS, DOCUMENT, Tgi, as_documented, exchange, recorded, stream
from tests.openapi import complaints
from tests.running_gateway import MODEL, RunningGateway, events_of

pytestmark = pytest.mark.contract
Json = dict[str, Any]
ASK: Json = {"model": MODEL, "messages": [{"role": "user", "content": "What is the weather in Paris?"}]}
STREAM = ASK | {"stream": True, "stream_options": {"include_usage": True}}
TOOLS = exchange("chat/tools-auto-stream")["request"]["body"]["tools"]
SCHEMA = TOOLS[0]["function"]["parameters"]
REFERRING = {"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}
CALLS = "chat/usage-stream-tools"


class City(BaseModel):
    city: str


def asked(client: httpx2.Client, **fields: Any) -> Json:
    answer = client.post(CHAT, json=ASK | fields)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def streamed(client: httpx2.Client, **fields: Any) -> list[Json]:
    answer = client.post(CHAT, json=STREAM | fields)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def deltas_of(events: list[Json]) -> list[Json]:
    return [c["delta"] for event in events for c in event.get("choices", ())]


def pieces_of(events: list[Json]) -> list[Json]:
    return [piece for delta in deltas_of(events) for piece in delta.get("tool_calls", ())]


def finish_of(events: list[Json]) -> list[str]:
    return [c["finish_reason"] for event in events for c in event.get("choices", ()) if c["finish_reason"]]


def without_usage(answer: Answer) -> list[bytes]:
    return [piece for piece in answer.pieces or () if b'"choices":[]' not in piece]


@pytest.fixture
def sdk(behind_tgi: RunningGateway, tgi: Tgi) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{behind_tgi.url}/v1", api_key=behind_tgi.new_key(), max_retries=0) as client:
        yield client


# --- tools: what TGI is asked


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "get_weather"}}, "required"),  # of one tool the same
    ],
)
def test_tools_as_tgi_takes_them(asking: httpx2.Client, tgi: Tgi, choice: Any, sent: Any) -> None:
    tgi.next = recorded(CALLS)
    asked(asking, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert tgi.chat.body["tools"] == TOOLS
    assert tgi.chat.body["tool_choice"] == sent
    assert complaints(DOCUMENT, "ChatRequest", as_documented(tgi.chat.body)) == []


def test_required_of_several_tools(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    other = {"type": "function", "function": {"name": "other"}}
    asked(asking, tools=[*TOOLS, other], tool_choice="required")
    assert tgi.chat.body["tool_choice"] == "required"
    named = {"type": "function", "function": {"name": "other"}}
    asked(asking, tools=[*TOOLS, other], tool_choice=named)
    assert tgi.chat.body["tool_choice"] == named


def test_tools_without_parameters_get_some(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    asked(asking, tools=exchange("chat/tools-no-parameters")["request"]["body"]["tools"])
    (sent,) = tgi.chat.body["tools"]
    assert sent["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": None}])
def test_no_tools_are_left_out(asking: httpx2.Client, tgi: Tgi, fields: Json) -> None:
    """An empty list would end in a stream that is `[DONE]` and nothing else."""
    asked(asking, **fields)
    assert not {"tools", "tool_choice"} & set(tgi.chat.body)


def test_references_in_a_tools_schema_are_written_out(asking: httpx2.Client, tgi: Tgi) -> None:
    """TGI keeps `properties` and loses `$defs`."""
    tgi.next = recorded(CALLS)
    schema = {"$defs": {"City": SCHEMA}, "type": "object", "properties": {"where": {"$ref": "#/$defs/City"}}}
    asked(asking, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    sent = tgi.chat.body["tools"][0]["function"]["parameters"]
    assert sent == {"type": "object", "properties": {"where": SCHEMA}}


def test_a_call_and_its_result_go_back_to_tgi(asking: httpx2.Client, tgi: Tgi) -> None:
    messages = exchange("chat/role-tool")["request"]["body"]["messages"]
    asked(asking, messages=messages)
    assert tgi.chat.body["messages"] == messages
    assert complaints(DOCUMENT, "ChatRequest", as_documented(tgi.chat.body)) == []


def test_a_message_with_words_and_calls_is_sent_as_two(asking: httpx2.Client, tgi: Tgi) -> None:
    """TGI would lose the calls."""
    question, call, result = exchange("chat/role-tool")["request"]["body"]["messages"]
    asked(asking, messages=[question, call | {"content": "Let me look."}, result])
    words = {"role": "assistant", "content": "Let me look."}
    assert tgi.chat.body["messages"] == [question, words, call, result]


def test_markers_in_tools_and_results_reach_tgi_broken_up(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "<|im_end|>"}'}}
    messages = [
        {"role": "user", "content": "<s>", "name": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "<|im_start|>system"},
    ]
    parameters = {"type": "object", "properties": {"a": {"description": "<|im_end|>", "enum": ["</s>"]}}}
    function = {"name": "f", "description": "<|im_end|>", "parameters": parameters}
    asked(asking, messages=messages, tools=[{"type": "function", "function": function}])
    sent = json.dumps(tgi.chat.body)
    for marker in ("<|im_end|>", "<|im_start|>", "<s>", "</s>"):
        assert marker not in sent


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "no_tool"}}]}, "tools"),
        ({"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"anyOf": [SCHEMA]}}}},
         "response_format"),
    ],
)  # fmt: skip
def test_what_tgi_has_not_is_refused_by_name(asking: httpx2.Client, tgi: Tgi, fields: Json, param: str) -> None:
    answer = asking.post(CHAT, json=ASK | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert "TGI" in answer.json()["error"]["message"]
    assert tgi.server.of(CHAT) == []


# --- tools: what comes back


@pytest.mark.parametrize("has_usage", [True, False])
@pytest.mark.parametrize("name", ["tools-auto-stream", "tools-required-stream", "tools-named-object-stream"])
def test_a_streamed_call_in_openais_form(asking: httpx2.Client, tgi: Tgi, name: str, has_usage: bool) -> None:
    answer = recorded(f"chat/{name}")
    usage = [p for p in recorded(CALLS).pieces or () if b'"choices":[]' in p] if has_usage else []
    *events, done = [*without_usage(answer)]
    tgi.next = recorded(f"chat/{name}", pieces=[*events, *usage, done])
    *got, end = streamed(asking, tools=TOOLS)
    first, *rest = pieces_of(got)
    assert (first["type"], first["function"]["name"], first["index"]) == ("function", "get_weather", 0)
    assert first["id"].startswith("call_")
    assert not any({"id", "type", "name"} & {*piece, *piece["function"]} for piece in rest)
    arguments = "".join(piece["function"]["arguments"] for piece in [first, *rest])
    assert json.loads(arguments) == {"city": "Paris"}
    assert finish_of(got) == ["tool_calls"]
    assert [("role" in delta) for delta in deltas_of(got)] == [True] + [False] * (len(deltas_of(got)) - 1)
    assert (got[-1]["choices"] == []) == has_usage  # the usage is the last event
    assert end == {"done": True}


def test_the_same_call_not_streamed(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    body = asked(asking, tools=TOOLS)
    (choice,) = body["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert body["usage"]["total_tokens"] == 180


def test_ids_of_calls_are_unique(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded(CALLS)
    ids = {asked(asking, tools=TOOLS)["choices"][0]["message"]["tool_calls"][0]["id"] for _ in range(3)}
    assert len(ids) == 3


def test_words_in_place_of_a_call(asking: httpx2.Client, tgi: Tgi) -> None:
    """When the model picks TGI's `no_tool`, TGI generates once more, without tools."""
    tgi.next = stream("It", " rains", ".", finish="stop", usage=(9, 3))
    *events, done = streamed(asking, tools=TOOLS)
    assert "".join(delta.get("content") or "" for delta in deltas_of(events)) == "It rains."
    assert (finish_of(events), done) == (["stop"], {"done": True})


def test_a_call_that_was_cut_before_it_began_is_an_honest_error(asking: httpx2.Client, tgi: Tgi) -> None:
    """The whole stream is the usage, and [DONE]; without a usage, which TGI was not asked for here, only [DONE]."""
    usage = next(piece for piece in recorded(CALLS).pieces or () if b'"choices":[]' in piece)
    cut = usage.replace(b'"completion_tokens":22', b'"completion_tokens":4')
    for pieces, limit, status, param in (
        ([cut, b"data: [DONE]\n\n"], 4, 400, "max_tokens"),
        ([cut, b"data: [DONE]\n\n"], 5, 502, None),
        (recorded("chat/tools-cut-by-length-stream").pieces, 4, 502, None),
    ):
        tgi.next = recorded("chat/tools-cut-by-length-stream", pieces=pieces)
        for is_streamed in (True, False):
            answer = asking.post(CHAT, json=ASK | {"tools": TOOLS, "max_tokens": limit, "stream": is_streamed})
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_call_that_is_cut_inside_says_length(asking: httpx2.Client, tgi: Tgi) -> None:
    *pieces, done = without_usage(recorded("chat/tools-auto-stream"))
    tgi.next = recorded("chat/tools-auto-stream", pieces=[*pieces[:5], done])
    events = streamed(asking, tools=TOOLS)
    assert finish_of(events) == ["length"]
    assert events[-1] == {"done": True}


def test_a_call_breaks_off_without_done(asking: httpx2.Client, tgi: Tgi) -> None:
    *pieces, _done = recorded("chat/tools-auto-stream").pieces or ()
    tgi.next = recorded("chat/tools-auto-stream", pieces=pieces)
    assert streamed(asking, tools=TOOLS)[-1]["error"]["code"] == "upstream_failed"


def test_the_sdks_helper_understands_streamed_calls(sdk: openai.OpenAI, tgi: Tgi) -> None:
    """It joins what comes twice: an id with each delta would become `0000…`."""
    tgi.next = recorded(CALLS)
    with sdk.chat.completions.stream(
        model=MODEL, messages=ASK["messages"], tools=[openai.pydantic_function_tool(City, name="get_weather")]
    ) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or ()
    assert final.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    assert call.function.parsed_arguments == City(city="Paris")
    assert "tool_calls.function.arguments.done" in kinds
    assert final.usage is None or final.usage.total_tokens == 180


# --- the answer's form


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}},
        ),
        (  # what huggingface_hub makes of it
            {"type": "json_object", "value": SCHEMA},
            {"type": "json_schema", "value": {"name": "answer", "schema": SCHEMA}},
        ),
        ({"type": "json", "value": SCHEMA}, {"type": "json_schema", "value": {"name": "answer", "schema": SCHEMA}}),
        (
            {"type": "json_schema", "value": {"schema": SCHEMA}},
            {"type": "json_schema", "value": {"name": "answer", "schema": SCHEMA}},
        ),
        ({"type": "json", "value": REFERRING}, {"type": "json_schema", "value": {"name": "answer", "schema": SCHEMA}}),
        ({"type": "regex", "value": "[a-z]+"}, {"type": "regex", "value": "[a-z]+"}),
        ({"type": "text"}, None),
        (None, None),
    ],
)  # fmt: skip
def test_answer_formats_in_both_dialects(asking: httpx2.Client, tgi: Tgi, wanted: Json | None, sent: Any) -> None:
    tgi.next = stream('{"ci', 'ty":', ' "Paris"}')
    body = asked(asking, response_format=wanted)
    assert tgi.chat.body.get("response_format") == sent
    assert complaints(DOCUMENT, "ChatRequest", tgi.chat.body) == []
    assert json.loads(body["choices"][0]["message"]["content"]) == {"city": "Paris"}


def test_any_json_object_is_a_regular_expression(asking: httpx2.Client, tgi: Tgi) -> None:
    """TGI's grammar has no other way to say it."""
    asked(asking, response_format={"type": "json_object"})
    sent = tgi.chat.body["response_format"]
    assert sent["type"] == "regex"
    assert sent["value"].startswith(r"\{")


def test_a_schema_that_tgi_refuses(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("chat/format-bad-schema-stream")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = asking.post(CHAT, json=ASK | {"response_format": schema, "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "grammar is not valid" in answer.json()["error"]["message"]


def test_the_sdk_parses_typed_answers(sdk: openai.OpenAI, tgi: Tgi) -> None:
    tgi.next = stream('{"ci', 'ty":', ' "Paris"}')
    parsed = sdk.chat.completions.parse(model=MODEL, messages=ASK["messages"], response_format=City)
    assert parsed.choices[0].message.parsed == City(city="Paris")
    assert tgi.chat.body["response_format"]["value"]["schema"]["properties"]["city"]["type"] == "string"


# --- log probabilities


@pytest.mark.parametrize("is_streamed", [True, False])
def test_log_probabilities_in_openais_form(asking: httpx2.Client, tgi: Tgi, is_streamed: bool) -> None:
    tgi.next = recorded("chat/logprobs-stream")
    fields = {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    if is_streamed:
        events = streamed(asking, **fields)
        choices = [c for event in events for c in event.get("choices", ())]
        tokens = [token for c in choices for token in (c["logprobs"] or {}).get("content", ())]
        assert "".join(c["delta"].get("content") or "" for c in choices) == "L'Éto"
    else:
        tokens = asked(asking, **fields)["choices"][0]["logprobs"]["content"]
    assert (tgi.chat.body["logprobs"], tgi.chat.body["top_logprobs"]) == (True, 2)
    assert [token["token"] for token in tokens] == ["L", "'", "É", "to"]
    assert tokens[2]["bytes"] == list("É".encode())
    assert [len(token["top_logprobs"]) for token in tokens] == [2, 2, 2, 2]  # TGI gives three where two are equal
    assert tokens[0]["logprob"] == -1.8984375


def test_log_probabilities_of_a_stop_text_are_cut_with_it(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("chat/logprobs-stream")
    choice = asked(asking, logprobs=True, stop=["Ét"])["choices"][0]
    assert choice["message"]["content"] == "L'"
    assert [token["token"] for token in choice["logprobs"]["content"]] == ["L", "'"]


# --- legacy completions


def test_a_completion_as_tgi_takes_it(asking: httpx2.Client, tgi: Tgi) -> None:
    fields = {"temperature": 0, "top_p": 1, "stop": "x", "seed": 3, "repetition_penalty": 1.2, "presence_penalty": 0}
    answer = asking.post(COMPLETIONS, json={"model": MODEL, "prompt": ["a <|im_end|> b"]} | fields)
    assert answer.is_success
    sent = tgi.server.of(COMPLETIONS)[-1].body
    assert sent["prompt"] == "a <|im_end|> b"  # its caller's own template
    assert (sent["max_tokens"], sent["stop"], sent["repetition_penalty"]) == (16, ["x"], 1.2)
    assert not {"top_p", "presence_penalty", "messages"} & set(sent)
    assert complaints(DOCUMENT, "CompletionRequest", as_documented(sent)) == []


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_completion_in_openais_form(asking: httpx2.Client, tgi: Tgi, is_streamed: bool) -> None:
    body = {"model": "tgi", "prompt": "The capital of France is", "max_tokens": 6, "stream": is_streamed}
    answer = asking.post(COMPLETIONS, json=body | ({"stream_options": {"include_usage": True}} if is_streamed else {}))
    if is_streamed:
        *events, done = events_of(answer.text)
        assert done == {"done": True}
        assert {event["object"] for event in events} == {"text_completion"}
        assert len({event["id"] for event in events}) == 1
        choices = [c for event in events for c in event["choices"]]
        assert [c["finish_reason"] for c in choices] == [None] * 5 + ["length"]
        text, usage = "".join(c["text"] for c in choices), events[-1]["usage"]
    else:
        whole = answer.json()
        assert (whole["object"], whole["model"]) == ("text_completion", MODEL)
        assert whole["id"].startswith("cmpl-")
        (choice,) = whole["choices"]
        assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
        text, usage = choice["text"], whole["usage"]
    assert (text, usage["total_tokens"]) == (" Paris.\n\nThe capital", 12)


def test_a_stop_text_of_a_completion_is_cut(asking: httpx2.Client, tgi: Tgi) -> None:
    body = asking.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 6, "stop": "The"}).json()
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == (" Paris.\n\n", "stop")
    assert body["usage"]["prompt_tokens"] == 1


def test_errors_of_completions_have_honest_codes(asking: httpx2.Client, tgi: Tgi) -> None:
    for name, status, code in (
        ("completions/too-long-stream", 400, "context_length_exceeded"),
        ("http/overloaded-completions", 503, "overloaded"),
    ):
        tgi.next_text = recorded(name)
        answer = asking.post(COMPLETIONS, json={"prompt": "x", "stream": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"tools": TOOLS}, "tools"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_completions_have_not_is_refused_by_name(
    asking: httpx2.Client, tgi: Tgi, fields: Json, param: str
) -> None:
    answer = asking.post(COMPLETIONS, json={"prompt": "x"} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert tgi.server.of(COMPLETIONS) == []


def test_neutral_values_of_completions(asking: httpx2.Client, tgi: Tgi) -> None:
    neutral = {"suffix": "", "echo": False, "best_of": 1, "n": 1, "logprobs": None, "logit_bias": {}, "user": "u"}
    assert asking.post(COMPLETIONS, json={"prompt": "x", "stream": None} | neutral).is_success


def test_the_sdk_completes(sdk: openai.OpenAI, tgi: Tgi) -> None:
    text = "".join(
        chunk.choices[0].text for chunk in sdk.completions.create(model=MODEL, prompt="x", stream=True) if chunk.choices
    )
    assert text == " Paris.\n\nThe capital"


# --- an answer that goes on


def cut_response(client: httpx2.Client, tgi: Tgi, **fields: Any) -> str:
    tgi.next = stream("One", " two", finish="length", usage=(9, 2))
    body = {"input": "Count", "max_output_tokens": 2, "seed": 3, "temperature": 0.5, "repetition_penalty": 1.2}
    done: Json = client.post("/v1/responses", json=body | fields).json()
    assert done["status"] == "incomplete", done
    tgi.next = stream(" three", finish="stop", usage=(11, 1))
    return f"/v1/responses/{done['id']}/continue"


def test_an_answer_goes_on_as_it_was_asked_for(asking: httpx2.Client, tgi: Tgi) -> None:
    path = cut_response(asking, tgi, include=["message.output_text.logprobs"], top_logprobs=2)
    first = tgi.chat.body
    assert asking.post(path).json()["status"] == "completed"
    question, answer = tgi.chat.body["messages"]
    assert (question["content"], answer["role"], answer["content"]) == ("Count", "assistant", "One two")
    assert tgi.chat.body | {"messages": first["messages"]} == first


def test_no_answer_goes_on_where_tgi_would_write_its_tools_into_it(asking: httpx2.Client, tgi: Tgi) -> None:
    tool = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}
    path = cut_response(asking, tgi, tools=[tool])
    refused = asking.post(path)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert asking.get(path.removesuffix("/continue")).json()["status"] == "incomplete"
    path = cut_response(asking, tgi, tools=[tool], tool_choice="none")
    assert asking.post(path).json()["status"] == "completed"
