"""The dialect of llama.cpp: its events in our words, ours in its."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects import Chunk, Prompt, PromptMessage, Usage
from gateway.dialects.llamacpp import chat_body, decode, error_of, is_plain_delta, refusal, repair
from gateway.errors import ContextTooLong, GatewayError, InvalidRequest, UpstreamFailed, UpstreamNotReady
from gateway.sse import DONE, EventSplitter

pytestmark = pytest.mark.unit
RECORDED = Path(__file__).resolve().parents[2] / "recorded" / "llamacpp"


def recorded_payloads(name: str) -> list[bytes]:
    body = (RECORDED / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2]
    stream = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        stream, body = stream + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return EventSplitter().feed(stream)


def recorded_error(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(("name", "reason"), [("chat_stream", "length"), ("chat_stop", "stop")])
def test_the_recorded_streams(name: str, reason: str) -> None:
    *payloads, done = recorded_payloads(name)
    assert done == DONE
    chunks = [decode(payload) for payload in payloads]
    assert chunks[0] == Chunk()
    assert chunks[1].text == "Hello"
    assert chunks[-2] == Chunk(finish_reason=reason)
    assert chunks[-1].usage is not None
    words = sum(bool(chunk.text) for chunk in chunks)
    assert chunks[-1].usage.output_tokens == words + (reason == "stop")  # the token that ends the answer counts
    assert [is_plain_delta(payload) for payload in payloads] == [True] * (len(payloads) - 2) + [False] * 2


def event(content: str | None, **fields: Any) -> bytes:
    choice = {"finish_reason": None, "index": 0, "delta": {"content": content}}
    return json.dumps({"choices": [choice], **fields}, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "text",
    [
        '"usage":{',
        '"finish_reason":null',
        '"error":',
        '{"error":{"code":500}}',
        "[DONE]",
        "\\",
        '\\"error":',
        "你好🙂",
        "\u2028",
    ],
)
def test_text_like_the_protocol_is_only_text(text: str) -> None:
    assert decode(event(text)) == Chunk(text=text)
    assert is_plain_delta(event(text))
    ended = event(text).replace(b'"finish_reason":null', b'"finish_reason":"stop"', 1)
    assert decode(ended).finish_reason == "stop"
    assert not is_plain_delta(ended)


def test_what_is_not_plain() -> None:
    for payload in (
        event("x", usage={"prompt_tokens": 1, "completion_tokens": 2}),
        b'{"error":{"code":500}}',
        b"{}",
        b"",
    ):
        assert not is_plain_delta(payload)


def test_usage() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 3}}
    usage = decode(
        b'{"choices":[],"usage":%b}' % json.dumps({"prompt_tokens": 5, "completion_tokens": 2} | details).encode()
    )
    assert usage == Chunk(usage=Usage(5, 2, 3))
    assert usage.usage is not None
    assert usage.usage.total_tokens == 7
    without = decode(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":null}}')
    assert without.usage == Usage(5, 2, 0)


@pytest.mark.parametrize(
    "payload",
    [b"", b"garbage", b"{", b"[]", b"5", b'"x"', b'{"choices":5}', b'{"choices":[{}]}',
     b'{"choices":[{"delta":{"content":5}}]}', b'{"choices":[],"usage":{}}',
     b'{"choices":[{"delta":{"content":"\xff\xfe"}}]}', b"<html>"],
)  # fmt: skip
def test_what_cannot_be_read_is_a_failure_of_the_engine(payload: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        decode(payload)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (recorded_error("loading"), 503, UpstreamNotReady),
        (recorded_error("context_exceeded"), 400, ContextTooLong),
        (recorded_error("bad_request"), 400, InvalidRequest),
        (recorded_error("not_found"), 404, UpstreamFailed),
        ({"code": 500, "message": "Compute error.", "type": "server_error"}, None, UpstreamFailed),
        ({"code": 503, "type": "unavailable_error"}, None, UpstreamNotReady),
        ({}, 500, UpstreamFailed),
        (None, 502, UpstreamFailed),
        ("text", None, UpstreamFailed),
        ([1], 500, UpstreamFailed),
        ({"code": "400"}, 401, UpstreamFailed),
    ],
)
def test_errors_in_our_words(error: Any, status: int | None, kind: type[GatewayError]) -> None:
    ours = error_of(error, status)
    assert type(ours) is kind
    assert len(ours.message) > 20


def test_numbers_of_a_context_that_was_exceeded() -> None:
    message = error_of(recorded_error("context_exceeded"), 400).message
    assert "731" in message
    assert "512" in message


def test_an_error_event_is_raised() -> None:
    with pytest.raises(UpstreamFailed):
        decode(b'{"error":{"code":500,"message":"Compute error.","type":"server_error"}}')


def test_a_seed_never_means_random() -> None:
    for seed in (0, -1, 2**32 - 1, 2**32, 2**63 - 1):
        body = json.loads(chat_body(Prompt(messages=[PromptMessage("user", "hi")], max_tokens=1, seed=seed), "m"))
        assert 0 <= body["seed"] < 2**32 - 1
    assert "seed" not in json.loads(chat_body(Prompt(messages=[PromptMessage("user", "hi")], max_tokens=1), "m"))


def test_the_recorded_stream_needs_no_repair_and_one_without_an_alias_does() -> None:
    *payloads, _ = recorded_payloads("chat_stream")
    prompt = Prompt(messages=[PromptMessage("user", "hi")], max_tokens=1)
    named = repair(prompt, "smollm2-135m-instruct")
    assert [named.patched(payload) for payload in payloads] == payloads
    assert named.is_done
    unnamed = repair(prompt, "smollm2-135m-instruct")
    paths = [payload.replace(b'"smollm2-135m-instruct"', b'"/srv/x.gguf"') for payload in payloads]
    assert [unnamed.patched(payload) for payload in paths] == payloads
    assert not unnamed.is_done


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"5", b'{"error":"x"}', b'{"message":"flat"}'])
def test_bodies_that_are_no_errors_of_llama_cpp(body: bytes) -> None:
    assert type(refusal(502, body)) is UpstreamFailed
    assert type(refusal(503, body)) is UpstreamNotReady
