"""The gateway in front of any OpenAI-compatible server: what is passed on, what is repaired, what is estimated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from gateway.dialects import openai as dialect
from tests.fakes.scripted import Answer, Asked, ScriptedServer, scripted_server
from tests.running_gateway import MODEL, RunningGateway, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
CHAT = "/v1/chat/completions"
HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
SSE = {"content-type": "text/event-stream"}
DONE = b"data: [DONE]\n\n"
Json = dict[str, Any]


def event(delta: Json, reason: str | None = None, *, spaced: bool = False, **fields: Any) -> bytes:
    """As vLLM writes it, or with the blanks that Python's json puts in."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(chunk | fields, separators=separators, ensure_ascii=False).encode() + b"\n\n"


ROLE = event({"role": "assistant", "content": ""})
USAGE = event({}, choices=[], usage={"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6})
PIECES = (ROLE, event({"content": "Hel"}), event({"content": "lo"}), event({}, "stop"), USAGE, DONE)


class Script:
    """What the server does next."""

    def __init__(self) -> None:
        self.server: ScriptedServer
        self.next = Answer(200, SSE, pieces=PIECES)

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/base/v1/models":
            return Answer(200, {}, b'{"object":"list","data":[]}')
        return self.next if asked.path in (f"/base{CHAT}", "/base/v1/completions") else Answer(404)


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    script = Script()
    with scripted_server(script.answer) as script.server:
        yield script


@pytest.fixture(scope="module")
def served(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    url = script.server.url + "/base/v1"  # an OpenAI base URL, as people write it
    with run_gateway(tmp_path_factory.mktemp("openai"), url, engine="openai") as running:
        yield running


@pytest.fixture
def asking(served: RunningGateway, script: Script) -> Iterator[httpx2.Client]:
    script.next = Answer(200, SSE, pieces=PIECES)
    script.server.asked.clear()
    with served.client() as client:
        yield client
    eventually(served.is_idle)


def raw_stream(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post(CHAT, json=HI | {"stream": True, "stream_options": {"include_usage": True}} | fields)


def test_events_that_need_no_repair_pass_byte_for_byte(asking: httpx2.Client) -> None:
    assert raw_stream(asking).content == b"".join(PIECES)


def test_what_it_is_asked(asking: httpx2.Client, script: Script) -> None:
    fields = {"top_p": 1, "presence_penalty": 0.5, "frequency_penalty": 0.25, "top_k": 3, "min_p": 0.1, "seed": -4}
    assert asking.post(CHAT, json=HI | fields | {"stop": "a", "max_completion_tokens": 3}).is_success
    asked = script.server.asked[-1].body
    assert asked == {
        **HI,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1,
        "top_p": 1,
        "max_tokens": 3,
        "stop": ["a"],
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "top_k": 3,
        "min_p": 0.1,
        "seed": -4,
    }
    assert asking.post(CHAT, json=HI).is_success
    assert "max_tokens" not in script.server.asked[-1].body  # the whole context would leave no room for the prompt


@pytest.mark.parametrize("spaced", [False, True])
def test_an_empty_id_and_another_name_of_the_model_are_repaired(
    asking: httpx2.Client, script: Script, spaced: bool
) -> None:
    typed = '"model":"/srv/x.gguf" "id":""'
    wrong: Json = {"id": "", "model": "/srv/x.gguf", "spaced": spaced}
    pieces = [event({"role": "assistant"}, **wrong), event({"content": typed}, **wrong), event({}, "stop", **wrong)]
    script.next = Answer(200, SSE, pieces=[*pieces, DONE])
    *events, done = events_of(raw_stream(asking).text)
    assert done == {"done": True}
    assert {event["model"] for event in events} == {MODEL}
    assert len({event["id"] for event in events}) == 1
    assert events[0]["id"].startswith("chatcmpl-")
    assert events[1]["choices"][0]["delta"]["content"] == typed


def test_a_role_with_every_delta_is_kept_in_the_first_only(
    asking: httpx2.Client, served: RunningGateway, script: Script
) -> None:
    """As Ollama sends it; the SDK's stream helper would join them."""
    deltas = [{"role": "assistant", "content": text} for text in ("Hel", "lo", "")]
    pieces = [event(deltas[0]), event(deltas[1]), event(deltas[2], "stop"), DONE]
    script.next = Answer(200, SSE, pieces=pieces)
    *events, _ = events_of(raw_stream(asking).text)
    assert ["role" in event["choices"][0]["delta"] for event in events] == [True, False, False]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.new_key(), max_retries=0) as sdk:
        with sdk.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "hi"}]) as stream:
            message = stream.get_final_completion().choices[0].message
    assert (message.role, message.content) == ("assistant", "Hello")


def test_a_whole_answer_may_end_without_done(asking: httpx2.Client, script: Script) -> None:
    script.next = Answer(200, SSE, pieces=PIECES[:-1])
    *events, done = events_of(raw_stream(asking).text)
    assert done == {"done": True}
    assert events[-1]["usage"]["total_tokens"] == 6


@pytest.mark.parametrize("end", ["clean", "broken"])
def test_one_without_a_finish_reason_is_cut(asking: httpx2.Client, script: Script, end: str) -> None:
    script.next = Answer(200, SSE, pieces=PIECES[:2], end=end)
    events = events_of(raw_stream(asking).text)
    assert events[-1]["error"]["code"] == "upstream_failed"
    script.next = Answer(200, SSE, pieces=PIECES[:-1], end="broken")  # HTTP's own end is missing
    assert events_of(raw_stream(asking).text)[-1]["error"]["code"] == "upstream_failed"


VLLM = {
    "object": "error",
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5000.",
}


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, {"error": {"message": "x", "type": "invalid_request_error", "code": "context_length_exceeded"}}, 400,
         "context_length_exceeded"),
        (400, VLLM | {"type": "BadRequestError", "code": 400}, 400, "context_length_exceeded"),
        (400, {"error": {"message": "unknown field", "type": "invalid_request_error"}}, 400, "invalid_request"),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, 400, "invalid_request"),
        (401, {"error": "unauthorized"}, 502, "upstream_failed"),
        (404, {"error": {"message": "model not found"}}, 502, "upstream_failed"),
        (413, {}, 413, "request_too_large"),
        (429, {"error": {"message": "slow down"}}, 503, "overloaded"),
        (500, {"error": {"message": "CUDA error at /srv/x"}}, 502, "upstream_failed"),
        (502, None, 502, "upstream_failed"),
        (503, {"error": {"message": "loading"}}, 503, "upstream_not_ready"),
    ],
)  # fmt: skip
def test_its_errors_in_our_words(
    asking: httpx2.Client, script: Script, status: int, body: Any, expected: int, code: str
) -> None:
    script.next = Answer(status, {}, json.dumps(body).encode() if body is not None else b"<html>Bad Gateway</html>")
    answer = asking.post(CHAT, json=HI)
    assert (answer.status_code, answer.json()["error"]["code"]) == (expected, code)
    assert "/srv" not in answer.text


def test_tokens_are_estimated_and_nobody_is_asked(asking: httpx2.Client, script: Script) -> None:
    assert asking.post("/v1/responses", json={"input": "Hello there", "truncation": "auto"}).is_success
    assert [asked.path for asked in script.server.asked] == [f"/base{CHAT}"]
    assert (
        asking.post("/v1/responses", json={"input": "字" * 5000}).json()["error"]["code"] == "context_length_exceeded"
    )


def test_ready(asking: httpx2.Client) -> None:
    assert asking.get("/readyz").is_success


TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True},
}


def test_tools_forms_and_log_probabilities_are_passed_on_and_back(asking: httpx2.Client, script: Script) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    pieces = (ROLE, event({"tool_calls": [call]}), event({}, "tool_calls"), USAGE, DONE)
    script.next = Answer(200, SSE, pieces=pieces)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
    fields = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "response_format": wanted}
    fields |= {"logprobs": True, "top_logprobs": 20}
    assert raw_stream(asking, **fields).content == b"".join(pieces)
    sent = script.server.of(f"/base{CHAT}")[-1].body
    assert {name: sent[name] for name in fields} == fields
    (choice,) = asking.post(CHAT, json=HI | fields).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert choice["message"]["tool_calls"] == [{k: v for k, v in call.items() if k != "index"}]


def test_no_event_of_a_call_is_taken_for_text(asking: httpx2.Client) -> None:
    call = {"index": 0, "function": {"arguments": "{}"}}
    for payload in (
        event({"tool_calls": [call]}),
        event({"content": "x"}).replace(b'"logprobs":null', b'"logprobs":{"content":[]}'),
    ):
        assert not dialect.is_plain_delta(payload[6:-2])
    for text in ('"tool_calls":[{', '"logprobs":{', '"usage":{', '"error":'):
        assert dialect.is_plain_delta(event({"content": text})[6:-2])


def test_a_regular_expression_is_refused_by_name(asking: httpx2.Client) -> None:
    answer = asking.post(CHAT, json=HI | {"response_format": {"type": "regex", "value": "a"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")


@pytest.mark.parametrize("is_streamed", [True, False])
def test_legacy_completions_pass(asking: httpx2.Client, script: Script, is_streamed: bool) -> None:
    logprobs = {"tokens": ["Once"], "token_logprobs": [-0.5], "top_logprobs": [{"Once": -0.5}], "text_offset": [0]}
    common = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL}

    def piece(text: str, reason: str | None = None, **fields: Any) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason} | fields
        return b"data: " + json.dumps(common | {"choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"

    pieces = (piece("Once", logprobs=logprobs), piece("", "stop"), DONE)
    script.next = Answer(200, SSE, pieces=pieces)
    answer = asking.post("/v1/completions", json={"prompt": "x", "logprobs": 1, "stream": is_streamed})
    if is_streamed:
        assert answer.content == b"".join(pieces)
    else:
        (choice,) = answer.json()["choices"]
        assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("Once", "stop", logprobs)
    assert script.server.of("/base/v1/completions")[-1].body["logprobs"] == 1


@pytest.mark.parametrize("status", [429, 503])
def test_the_engines_retry_after_is_told(asking: httpx2.Client, script: Script, status: int) -> None:
    for told, waited in (("7", "7"), ("soon", "2"), (None, "2")):
        headers = {"content-type": "application/json"} | ({"retry-after": told} if told else {})
        script.next = Answer(status, headers, b'{"error":{"message":"busy"}}')
        answer = asking.post(CHAT, json=HI)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, waited)


def test_an_answer_goes_on_as_it_was_asked_for(asking: httpx2.Client, script: Script) -> None:
    script.next = Answer(200, SSE, pieces=(ROLE, event({"content": "One"}), event({}, "length"), USAGE, DONE))
    tool = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}
    asked = {"input": "Count", "max_output_tokens": 1, "seed": 3, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}
    asked |= {"tools": [tool], "tool_choice": "auto", "parallel_tool_calls": False}
    cut = asking.post("/v1/responses", json=asked).json()
    first = script.server.asked[-1].body
    assert cut["status"] == "incomplete", cut
    script.next = Answer(200, SSE, pieces=PIECES)
    done = asking.post(f"/v1/responses/{cut['id']}/continue").json()
    assert done["output"][0]["content"][0]["text"] == "OneHello"
    second = script.server.asked[-1].body
    assert [message["content"] for message in second["messages"]] == ["Count", "One"]
    # as vLLM and SGLang want it said
    assert second == first | {
        "messages": second["messages"], "add_generation_prompt": False, "continue_final_message": True
    }  # fmt: skip
