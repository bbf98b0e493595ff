"""What must not get in: each gets a 4xx in OpenAI's form that names what is wrong, and loses nothing."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.fakes.inference import FakeInference
from tests.running_gateway import MODEL, RunningGateway

pytestmark = pytest.mark.contract
JSON = {"content-type": "application/json"}
HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
ASK = {"model": MODEL, "input": "hi"}


def refusal(answer: httpx2.Response, status: int, code: str, param: str | None = "any") -> dict[str, Any]:
    """The error object; asserts OpenAI's form and that it carries the answer's request id."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["code"] == code, error
    assert error["request_id"] == answer.headers["x-request-id"]
    if param != "any":
        assert error["param"] == param, error
    assert len(error["message"]) > 10
    assert not any(leak in error["message"] for leak in ("Traceback", "gateway/", "pydantic", "127.0.0.1", "sk-"))
    return error


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | ({"parameters": parameters} if parameters else {})}


DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000
DEEPISH = '{"a":' * 100 + "1" + "}" * 100


def calling(arguments: str) -> dict[str, Any]:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


FLAT = {"type": "function", "name": "f"}
CALLED = {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}
NAMED = {"type": "function", "function": {"name": "g"}}
ASKING = {"role": "user", "content": "hi"}
CALLING = calling("{}")
RESULT = {"role": "tool", "content": "y"}
CHAT_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no messages", {"messages": []}, "messages"),
    ("messages absent", {"messages": None}, "messages"),
    ("a text for messages", {"messages": "hi"}, "messages"),
    ("an empty message", user(""), "messages.0"),
    ("white space only", user(" \n"), "messages.0"),
    ("null content", user(None), "messages.0"),
    ("a number for content", user(5), "messages.0.content"),
    ("no parts", user([]), "messages.0.content"),
    ("an image", user([{"type": "image_url", "image_url": {"url": "data:x"}}]), "messages.0.content"),
    ("a control character", user("a\x00b"), "messages.0.content"),
    ("a control character in a part", user([{"type": "text", "text": "a\x00b"}]), "messages.0.content.0.text"),
    ("an escape sequence", user("\x1b[31m"), "messages.0.content"),
    ("half a pair", user("\ud800"), "messages.0.content"),
    ("a kind with half a pair", user([{"type": "\udc00", "text": "x"}]), "messages.0.content"),
    ("an invented role", {"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role"),
    ("a tool's result to no call", {"messages": [{"role": "tool", "content": "hi"}]}, "messages.0"),
    ("a role with half a pair", {"messages": [{"role": "\udc00", "content": "hi"}]}, "messages.0.role"),
    ("a role that is a list", {"messages": [{"role": ["user"], "content": "hi"}]}, "messages.0.role"),
    ("no role", {"messages": [{"content": "hi"}]}, "messages.0.role"),
    ("a mistyped field", {"messages": [{"role": "user", "content": "hi", "nmae": "x"}]}, "messages.0.nmae"),
    ("temperature -1", {"temperature": -1}, "temperature"),
    ("temperature 3", {"temperature": 3}, "temperature"),
    ("temperature as text", {"temperature": "1"}, "temperature"),
    ("temperature true", {"temperature": True}, "temperature"),
    ("temperature NaN", {"temperature": float("nan")}, "temperature"),
    ("temperature infinite", {"temperature": float("inf")}, "temperature"),
    ("top_p 0", {"top_p": 0}, "top_p"),
    ("top_p 2", {"top_p": 2}, "top_p"),
    ("max_tokens 0", {"max_tokens": 0}, "max_tokens"),
    ("max_tokens 1.5", {"max_tokens": 1.5}, "max_tokens"),
    ("seed too large", {"seed": 10**30}, "seed"),
    ("stream as text", {"stream": "true"}, "stream"),
    ("five stops", {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ("an empty stop", {"stop": ""}, "stop"),
    ("two answers", {"n": 2}, "n"),
    ("a function's role", {"messages": [{"role": "function", "content": "hi"}]}, "messages.0.role"),
    (
        "a result to a call nobody made",
        {"messages": [ASKING, {**RESULT, "tool_call_id": "y"}]},
        "messages.1.tool_call_id",
    ),
    ("a user who calls", {"messages": [{**CALLING, "role": "user"}]}, "messages.0"),
    ("arguments that are no object", {"messages": [calling("[1]")]}, "messages.0.tool_calls.0.function.arguments"),
    ("arguments without a bottom", {"messages": [calling(DEEP)]}, "messages.0.tool_calls.0.function.arguments"),
    ("a schema without a bottom", {"tools": [tool("f", json.loads(DEEPISH))]}, "tools.0.function.parameters"),
    ("a form without a bottom", {"response_format": {"type": "json", "value": json.loads(DEEPISH)}}, "any"),
    ("arguments that are no JSON", {"messages": [calling("{")]}, "messages.0.tool_calls.0.function.arguments"),
    ("a tool without a name", {"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
    ("a tool with an odd name", {"tools": [tool("a b")]}, "tools.0.function.name"),
    ("a tool that is no function", {"tools": [{"type": "web_search"}]}, "any"),
    ("two tools of one name", {"tools": [tool("f"), tool("f")]}, "tools"),
    ("129 tools", {"tools": [tool(f"f{n}") for n in range(129)]}, "tools"),
    ("a choice of no tool", {"tools": [tool("f")], "tool_choice": NAMED}, "tool_choice"),
    ("a choice nobody knows", {"tools": [tool("f")], "tool_choice": "any"}, "any"),
    ("tool_choice required", {"tool_choice": "required"}, "tool_choice"),
    ("a format nobody knows", {"response_format": {"type": "xml"}}, "response_format.type"),
    ("json_schema without one", {"response_format": {"type": "json_schema"}}, "response_format"),
    ("a regex without one", {"response_format": {"type": "regex"}}, "response_format"),
    ("a regex for llama.cpp", {"response_format": {"type": "regex", "value": "a+"}}, "response_format"),
    ("21 top_logprobs", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("top_logprobs without logprobs", {"top_logprobs": 2}, "top_logprobs"),
    ("logprobs as a number", {"logprobs": 1}, "logprobs"),
    ("logit_bias", {"logit_bias": {"1": 5}}, "logit_bias"),
    ("audio", {"modalities": ["text", "audio"]}, "modalities"),
    ("a field nobody knows", {"temprature": 1}, "temprature"),
    ("a field with half a pair", {"\udc00x": 1}, "any"),
    ("model with half a pair", {"model": "\udc00"}, "model"),
    ("metadata with half a pair", {"metadata": {"\udc00": "x"}}, "any"),
    ("metadata that is long", {"metadata": {"a": "x" * 513}}, "metadata.a"),
    ("17 pairs of metadata", {"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    ("stream_options alone", {"stream_options": {"include_usage": True}}, "any"),
    ("an unknown stream option", {"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
]


@pytest.mark.parametrize(("_name", "fields", "param"), CHAT_CASES, ids=[case[0] for case in CHAT_CASES])
def test_a_chat_that_is_refused_by_name(
    client: httpx2.Client, fake: FakeInference, _name: str, fields: dict[str, Any], param: str
) -> None:
    answer = client.post("/v1/chat/completions", content=json.dumps(HI | fields), headers=JSON)
    refusal(answer, 400, "invalid_request", param)
    assert not fake.asked  # the engine never hears of it


RESPONSE_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no input", {"input": None}, "input"),
    ("empty input", {"input": ""}, "any"),
    ("no items", {"input": []}, "input"),
    ("an empty item", {"input": [{"role": "user", "content": ""}]}, "input.0"),
    (
        "an output of no call",
        {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
        "input.0.call_id",
    ),
    (
        "an output without its call's id",
        {"input": [{"type": "function_call_output", "output": "y"}]},
        "input.0.call_id",
    ),
    ("a call without a name", {"input": [CALLED | {"name": ""}]}, "input.0.name"),
    ("a call with odd arguments", {"input": [CALLED | {"arguments": "{"}]}, "input.0.arguments"),
    ("an item nobody knows", {"input": [{"type": "reasoning", "summary": []}]}, "any"),
    ("a tool as in chats", {"tools": [tool("f")]}, "any"),
    ("a tool that OpenAI hosts", {"tools": [{"type": "web_search"}]}, "any"),
    ("a choice without tools", {"tool_choice": "required"}, "tool_choice"),
    ("a choice of no tool", {"tools": [FLAT], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ("top_logprobs without include", {"top_logprobs": 2}, "top_logprobs"),
    ("an image", {"input": user([{"type": "input_image", "image_url": "x"}])["messages"]}, "input.0.content"),
    ("background that is not stored", {"background": True, "store": False}, "any"),
    ("both kinds of history", {"conversation": "conv_1", "previous_response_id": "resp_1"}, "any"),
    ("a conversation that is not stored", {"conversation": "conv_1", "store": False}, "any"),
    ("conversation 5", {"conversation": 5}, "conversation"),
    ("a conversation without id", {"conversation": {}}, "conversation.id"),
    ("truncation sometimes", {"truncation": "sometimes"}, "truncation"),
    ("max_output_tokens 0", {"max_output_tokens": 0}, "max_output_tokens"),
    ("max_total_tokens 1", {"max_total_tokens": 1}, "max_total_tokens"),
    ("no schema", {"text": {"format": {"type": "json_schema", "name": "p"}}}, "text.format"),
    ("a verbosity", {"text": {"verbosity": "low"}}, "text.verbosity"),
    ("reasoning", {"reasoning": {"effort": "high"}}, "reasoning"),
    ("include", {"include": ["reasoning.encrypted_content"]}, "include.0"),
    ("a prompt template", {"prompt": {"id": "x"}}, "prompt"),
    ("a field of the other API", {"max_tokens": 5}, "max_tokens"),
    ("control characters in instructions", {"instructions": "a\x07"}, "instructions"),
]


@pytest.mark.parametrize(("_name", "fields", "param"), RESPONSE_CASES, ids=[case[0] for case in RESPONSE_CASES])
def test_a_response_that_is_refused_by_name(
    client: httpx2.Client, fake: FakeInference, _name: str, fields: dict[str, Any], param: str
) -> None:
    refusal(client.post("/v1/responses", json=ASK | fields), 400, "invalid_request", param)
    assert not fake.asked


BODIES = {
    "none": b"",
    "cut": b"{",
    "cut later": b'{"messages": [',
    "a word": b"hello",
    "a list": b"[]",
    "a text": b'"text"',
    "null": b"null",
    "too deep": b"[" * 100_000,
    "no UTF-8": b'{"messages": "\xff\xfe"}',
    "no utf-8": b"\xff\xfe{",
    "deep": b'{"a":' * 100_000,
    "deep lists": b"[" * 200_000,
    "deep and whole": b"[" * 100_000 + b"]" * 100_000,
    "digits": b'{"messages": [{"role": "user", "content": "hi"}], "seed": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_bodies_that_are_no_json_objects(client: httpx2.Client, path: str, content: bytes) -> None:
    message = refusal(client.post(path, content=content, headers=JSON), 400, "invalid_request")["message"]
    assert any(word in message for word in ("JSON", "body", "object", "required")), message


def test_deep_json_inside_a_known_field(client: httpx2.Client) -> None:
    for name in ("tools", "messages", "metadata", "text", "response_format"):
        body = b'{"messages": [{"role": "user", "content": "hi"}], "%b": %b}' % (name.encode(), b"[" * 900 + b"]" * 900)
        refusal(client.post("/v1/chat/completions", content=body, headers=JSON), 400, "invalid_request")


def test_a_message_of_one_megabyte(client: httpx2.Client, fake: FakeInference) -> None:
    """Fits through the limit on bodies, and is far beyond the context: nobody spends time on counting it."""
    text = "word " * 209_000
    refusal(client.post("/v1/chat/completions", json=user(text)), 400, "context_length_exceeded", "messages")
    refusal(client.post("/v1/responses", json=ASK | {"input": text}), 400, "context_length_exceeded", "input")
    items = {"items": user(text)["messages"]}
    refusal(client.post("/v1/conversations", json=items), 400, "context_length_exceeded", "items")
    assert not fake.asked


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("megabytes", [2, 30])
def test_a_body_over_the_limit(client: httpx2.Client, is_chunked: bool, megabytes: int) -> None:
    piece = b"x" * (1 << 20)
    content: Any = (piece for _ in range(megabytes)) if is_chunked else piece * megabytes
    refusal(client.post("/v1/chat/completions", content=content, headers=JSON), 413, "request_too_large")
    assert client.get("/v1/models").is_success


def test_a_prompt_longer_than_the_context(client: httpx2.Client, fake: FakeInference) -> None:
    text = "word " * 5000
    for stream in (False, True):
        answer = client.post("/v1/chat/completions", json=user(text) | {"stream": stream})
        assert "4096" in refusal(answer, 400, "context_length_exceeded", "messages")["message"]
        answer = client.post("/v1/responses", json=ASK | {"input": text, "stream": stream})
        assert "4,096" in refusal(answer, 400, "context_length_exceeded", "input")["message"]
    assert len(fake.chats) == 2  # the responses were counted before


def test_an_unknown_model(client: httpx2.Client, fake: FakeInference) -> None:
    for path, body in (("/v1/chat/completions", HI), ("/v1/responses", ASK)):
        error = refusal(client.post(path, json=body | {"model": "gpt-4"}), 404, "model_not_found", "model")
        assert MODEL in error["message"]
    assert not fake.asked


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_is_not_declared_as_json(client: httpx2.Client, kind: str) -> None:
    answer = client.post("/v1/chat/completions", content=json.dumps(HI), headers={"content-type": kind} if kind else {})
    refusal(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1", 405, "method_not_allowed"),
        ("GET", "/v1/nope", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/conversations/conv_1", 405, "method_not_allowed"),
        ("PATCH", "/v1/responses/resp_1", 405, "method_not_allowed"),
        ("POST", "/v1/responses/resp_1/cancel", 404, "not_found"),
        ("GET", "/v1/responses/resp_1/input_items", 404, "not_found"),
        ("GET", "/v1/conversations/conv_1/export", 404, "not_found"),
        ("POST", "/v1/conversations/", 404, "not_found"),
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_are_not_there(
    client: httpx2.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path, json={} if method != "GET" else None)
    refusal(answer, status, code)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/conversations?limit=0", "limit"),
        ("/v1/conversations?limit=101", "limit"),
        ("/v1/conversations?limit=x", "limit"),
        ("/v1/conversations?q=a%00b", "q"),
        ("/v1/conversations/conv_1/items?order=random", "order"),
        ("/v1/conversations/conv_1/items?include%5B%5D=message.output_text.logprobs", "include"),
        ("/v1/responses/resp_1?stream=true&starting_after=-3", "starting_after"),
    ],
)
def test_query_parameters_that_are_refused(client: httpx2.Client, path: str, param: str) -> None:
    refusal(client.get(path), 400, "invalid_request", param)


@pytest.mark.parametrize(
    "raw",
    [b"GARBAGE\r\n\r\n", b"POST /v1/models HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01"],
    ids=["no http", "length x", "a TLS hello"],
)
def test_what_is_not_http(gateway: RunningGateway, client: httpx2.Client, raw: bytes) -> None:
    url = urlsplit(gateway.url)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert b" 500 " not in connection.recv(65536)
    assert client.get("/v1/models").is_success


def test_odd_paths(client: httpx2.Client) -> None:
    for path in ("/v1/conversations/%00", "/v1/responses/%ED%A0%80", "/v1/conversations/" + "x" * 8000, "/v1/%2e%2e/x"):
        assert client.get(path).status_code == 404, path
    assert client.get("/v1/conversations", params={"after": "\x00"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"input": [{"role": "user", "content": []}]}, "input.0.content"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stop": ["a"] * 5}, "stop"),
    ],
)
def test_a_list_that_is_wrong_is_not_told_to_be_a_text(
    client: httpx2.Client, path: str, body: dict[str, Any], param: str
) -> None:
    error = client.post(path, json=body).json()["error"]
    assert error["param"] == param
    assert "List should have" in error["message"], error


def test_a_response_that_is_not_there_is_named_as_its_caller_named_it(client: httpx2.Client) -> None:
    missing = client.post("/v1/responses", json={"input": "hi", "previous_response_id": "resp_none"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "previous_response_id")
    assert client.get("/v1/responses/resp_none").json()["error"]["param"] == "response_id"
