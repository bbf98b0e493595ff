"""The gateway in front of TGI: every trap of its chat completions, on what a real one sent (tests/recorded/tgi)."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway.settings import Timeouts
from tests.fakes.tgi import CHAT, RECORDED, Tgi, exchange, recorded, stream
from tests.openapi import complaints
from tests.running_gateway import MODEL, RunningGateway, client_of, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
STREAM = HI | {"stream": True, "stream_options": {"include_usage": True}}
DOCUMENT = json.loads((RECORDED / "openapi.json").read_text())
Json = dict[str, Any]


def chat(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post(CHAT, json=HI | fields)


def streamed(client: httpx2.Client, **fields: Any) -> list[Json]:
    answer = client.post(CHAT, json=STREAM | fields)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def text_of(events: list[Json]) -> str:
    return "".join(c["delta"].get("content") or "" for event in events for c in event.get("choices", ()))


def finish_of(events: list[Json]) -> list[str]:
    return [c["finish_reason"] for event in events for c in event.get("choices", ()) if c["finish_reason"]]


# --- what TGI is asked


def test_neutral_values_that_tgi_refuses_or_misreads_are_not_sent(asking: httpx2.Client, tgi: Tgi) -> None:
    neutral = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "n": 1, "logit_bias": {}, "logprobs": False}
    neutral |= {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "u", "top_k": 0}
    assert chat(asking, **neutral, stream=None, stream_options=None, stop=None, seed=None).is_success
    assert set(tgi.chat.body) == {"model", "messages", "stream", "stream_options", "temperature"}
    assert tgi.chat.body["stream"] is True
    assert tgi.chat.body["stream_options"] == {"include_usage": True}
    assert tgi.chat.body["temperature"] == 1


def test_what_tgi_is_asked(asking: httpx2.Client, tgi: Tgi) -> None:
    fields = {"temperature": 0, "top_p": 0.5, "frequency_penalty": -0.5, "seed": -1, "stop": "END", "max_tokens": 9}
    assert chat(asking, **fields, max_completion_tokens=7, repetition_penalty=1.25).is_success
    asked = tgi.chat.body
    assert asked["max_tokens"] == 7
    assert "max_completion_tokens" not in asked  # both at once are a duplicate field
    assert asked["stop"] == ["END"]
    assert asked["seed"] == (1 << 64) - 1
    assert asked["presence_penalty"] == -0.75  # TGI adds two and takes it for its repetition penalty
    assert (asked["temperature"], asked["top_p"], asked["frequency_penalty"]) == (0, 0.5, -0.5)
    assert complaints(DOCUMENT, "ChatRequest", asked) == []
    assert tgi.chat.headers["content-type"] == "application/json"


def test_all_that_the_context_leaves_is_tgis_own_default(asking: httpx2.Client, tgi: Tgi) -> None:
    """A max_tokens of the whole context would be refused as soon as the prompt leaves less than 1024."""
    assert chat(asking).is_success
    assert "max_tokens" not in tgi.chat.body


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", 5), ("min_p", 0.1), ("presence_penalty", 0.5), ("presence_penalty", -2)]
)
def test_what_tgi_cannot_do_is_refused_by_name(asking: httpx2.Client, tgi: Tgi, name: str, value: float) -> None:
    answer = chat(asking, **{name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert tgi.server.of(CHAT) == []


@pytest.mark.parametrize(
    "message",
    [
        exchange("chat/content-parts-image")["request"]["body"]["messages"][0],
        exchange("chat/role-invented-stream")["request"]["body"]["messages"][0],
    ],
)
def test_what_tgi_takes_in_silence_is_refused(asking: httpx2.Client, tgi: Tgi, message: Json) -> None:
    assert chat(asking, messages=[message]).status_code == 400
    assert tgi.server.asked == []


def test_markers_that_people_type_reach_tgi_broken_up(asking: httpx2.Client, tgi: Tgi) -> None:
    assert chat(asking, messages=[{"role": "user", "content": "a <|im_end|> b"}]).is_success
    assert tgi.chat.body["messages"] == [{"role": "user", "content": "a <\u200b|im_end|> b"}]


# --- what comes back


def test_a_stream_gets_an_id_a_date_and_the_public_model(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("chat/usage-stream")
    *events, done = streamed(asking)
    assert done == {"done": True}
    assert text_of(events) == "L'Étoile"
    assert len({event["id"] for event in events}) == 1
    assert events[0]["id"].startswith("chatcmpl-")
    assert {event["model"] for event in events} == {MODEL}
    assert len({event["created"] for event in events}) == 1
    assert [("role" in c["delta"]) for event in events for c in event["choices"]] == [True] + [False] * 4
    assert finish_of(events) == ["length"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 37, "completion_tokens": 5, "total_tokens": 42}
    assert "/models" not in str(events)


def test_the_same_not_streamed(asking: httpx2.Client) -> None:
    body = chat(asking).json()
    assert body["choices"][0]["message"]["content"] == "L'Étoile"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["total_tokens"] == 42


def test_characters_that_tokens_split_come_whole(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("internlm2-random/stream-split-characters")
    sent = [json.loads(piece[6:]) for piece in tgi.next.pieces or () if piece[6:7] == b"{"]
    assert text_of(streamed(asking)) == text_of(sent)


def test_the_sdks_stream_helper_understands_it(behind_tgi: RunningGateway, tgi: Tgi) -> None:
    """It would join a role that came with every delta to `assistantassistant…`."""
    tgi.next = recorded("chat/natural-end-stream")
    with openai.OpenAI(base_url=f"{behind_tgi.url}/v1", api_key=behind_tgi.new_key(), max_retries=0) as sdk:
        with sdk.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "hi"}]) as events:
            message = events.get_final_completion().choices[0].message
    assert (message.role, message.content) == ("assistant", "Yes.")


def test_a_response_is_stored_with_the_usage(asking: httpx2.Client, tgi: Tgi) -> None:
    body = asking.post("/v1/responses", json={"input": "Hello there you"}).json()
    assert body["output"][0]["content"][0]["text"] == "L'Étoile"
    assert body["usage"]["total_tokens"] == 42
    assert len(tgi.server.of("/tokenize")) == 1


# --- stop texts and limits


def test_stop_sequence_is_told_as_stop(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("chat/stop-empty-string-stream")
    assert finish_of(streamed(asking)) == ["stop"]


@pytest.mark.parametrize("is_streamed", [True, False])
def test_the_stop_text_is_cut_from_the_answer(asking: httpx2.Client, tgi: Tgi, is_streamed: bool) -> None:
    tgi.next = stream("One", ",", " two", ", thr", "ee", finish="stop_sequence", usage=(9, 5))
    if is_streamed:
        *events, done = streamed(asking, stop=["three"])
        text, finish, usage = text_of(events), finish_of(events), events[-1]["usage"]
        assert done == {"done": True}
    else:
        body = chat(asking, stop=["three"]).json()
        text, finish = body["choices"][0]["message"]["content"], [body["choices"][0]["finish_reason"]]
        usage = body["usage"]
    assert (text, finish, usage["completion_tokens"]) == ("One, two, ", ["stop"], 5)


def test_a_stop_text_that_ends_inside_a_token_is_found_and_ends_the_generation(asking: httpx2.Client, tgi: Tgi) -> None:
    """TGI looks at the end of each token only, and would go on."""
    tgi.next = stream("One", ",", " two, th", "reefold", *[" more"] * 5, finish=None, end="held")
    *events, done = streamed(asking, stop=[", three"])
    assert (text_of(events), finish_of(events), done) == ("One, two", ["stop"], {"done": True})
    assert eventually(lambda: tgi.chat.was_left)
    prompt_tokens = len(json.loads(recorded("internlm2-random/chat-tokenize").body)["tokenize_response"])
    assert events[-1]["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 4,
        "total_tokens": prompt_tokens + 4,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert complaints(DOCUMENT, "ChatRequest", tgi.server.of("/chat_tokenize")[0].body) == []


def test_what_only_begins_like_a_stop_text_is_text(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("a", " th", "e", " thr", finish="length", usage=(1, 4))
    events = streamed(asking, stop=["three"])
    assert (text_of(events), finish_of(events)) == ("a the thr", ["length"])


def test_an_answer_that_begins_with_its_stop_text_is_empty(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("th", "ree", finish="stop_sequence", usage=(1, 2))
    *events, done = streamed(asking, stop=["three"])
    assert (text_of(events), finish_of(events), done) == ("", ["stop"], {"done": True})
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"


def test_no_more_tokens_come_than_were_asked_for(asking: httpx2.Client, tgi: Tgi) -> None:
    asked, came = next(
        (e["max_tokens"], e["stream"]["content_events"]) for e in long_answers() if e["max_tokens"] > 1024
    )
    assert (asked, came) == (1025, 2048)
    tgi.next = stream(*["x"] * came, finish="length", usage=(11, came))
    *events, done = streamed(asking, max_tokens=asked)
    assert (len(text_of(events)), finish_of(events), done) == (asked, ["length"], {"done": True})
    assert events[-1]["usage"]["completion_tokens"] == asked


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_response_that_was_cut_at_its_limit_is_incomplete(asking: httpx2.Client, tgi: Tgi, is_streamed: bool) -> None:
    tgi.next = stream(*["x"] * 9, finish=None, end="held")
    answer = asking.post("/v1/responses", json={"input": "hi", "max_output_tokens": 4, "stream": is_streamed})
    body = events_of(answer.text)[-1]["response"] if is_streamed else answer.json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["content"][0]["text"] == "xxxx"
    assert body["usage"]["output_tokens"] == 4


def test_a_caller_who_leaves_frees_tgi(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("a", "b", finish=None, end="held")
    with asking.stream("POST", CHAT, json=STREAM) as answer:
        next(answer.iter_lines())
    assert eventually(lambda: tgi.chat.was_left)


def long_answers() -> list[Json]:
    read: list[Json] = json.loads((RECORDED / "long-answers.json").read_text())
    return read


def test_usage_is_left_out_when_the_prompt_cannot_be_counted(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = stream("a", "b", "c", finish=None, end="held")
    answer = tgi.server.answer
    tgi.server.answer = lambda asked: recorded("http/not-found") if "tokenize" in asked.path else answer(asked)
    try:
        *events, done = streamed(asking, max_tokens=2)
    finally:
        tgi.server.answer = answer
    assert (text_of(events), finish_of(events), done) == ("ab", ["length"], {"done": True})
    assert not any(event.get("usage") for event in events)


# --- errors


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("http/overloaded-stream", 503, "overloaded"),  # HTTP 200, an event that says 422
        ("http/overloaded", 503, "overloaded"),
        ("chat/prompt-too-long-stream", 400, "context_length_exceeded"),
        ("chat/prompt-too-long", 400, "context_length_exceeded"),
        ("chat/top-p-1-stream", 400, "invalid_request"),
        ("chat/stop-as-string-stream", 400, "invalid_request"),  # a 422 in plain text
        ("http/bad-json", 400, "invalid_request"),
        ("internlm2-random/api-key-wrong-stream", 502, "upstream_failed"),  # an empty 401
        ("http/not-found", 502, "upstream_failed"),
        ("chat/tools-cut-by-length-stream", 502, "upstream_failed"),  # the whole stream is [DONE]
        ("chat/tools-cut-by-length", 400, "invalid_request"),
    ],
)
def test_errors_before_the_first_token_have_honest_codes(
    asking: httpx2.Client, tgi: Tgi, name: str, status: int, code: str, is_streamed: bool
) -> None:
    tgi.next = recorded(name)
    answer = chat(asking, stream=is_streamed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (code == "overloaded")


def test_the_numbers_of_a_prompt_that_is_too_long(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("chat/prompt-too-long-stream")
    message = chat(asking).json()["error"]["message"]
    assert "1531" in message
    assert "1024" in message


def test_a_shard_that_dies_in_mid_stream_is_an_error_without_done(asking: httpx2.Client, tgi: Tgi) -> None:
    """TGI sends the error, and then [DONE] all the same."""
    killed = json.loads((RECORDED / "lifecycle" / "kill.json").read_text())["sigkill-shard-while-streaming"]["stream"]
    pieces = [text.encode() for _, text in killed["last_pieces"]]
    assert pieces[-1] == b"data: [DONE]\n\n"
    tgi.next = recorded("chat/minimal-stream", pieces=pieces)
    events = streamed(asking)
    assert events[-1]["error"]["code"] == "upstream_failed"
    assert {"done": True} not in events


def test_a_router_that_dies_breaks_the_stream_off(asking: httpx2.Client, tgi: Tgi) -> None:
    killed = json.loads((RECORDED / "lifecycle" / "kill.json").read_text())["sigkill-router-while-streaming"]["stream"]
    pieces = [text.encode() for _, text in killed["last_pieces"]]
    tgi.next = recorded("chat/minimal-stream", pieces=pieces, end="broken")
    events = streamed(asking)
    assert events[-1]["error"]["code"] == "upstream_failed"
    assert {"done": True} not in events


@pytest.mark.parametrize("finish", ["stop", None])
def test_a_stream_without_done_is_cut_even_when_http_ends_well(
    asking: httpx2.Client, tgi: Tgi, finish: str | None
) -> None:
    whole = stream("a", "b", finish=finish)
    tgi.next = replace(whole, pieces=[piece for piece in whole.pieces or () if b"[DONE]" not in piece])
    assert streamed(asking)[-1]["error"]["code"] == "upstream_failed"


def test_keep_alive_comments_are_no_part_of_the_answer(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("http/keep-alive-while-hanging")
    answer = asking.post(CHAT, json=STREAM)
    assert finish_of(events_of(answer.text)) == ["length"]
    assert not any(line.startswith(":") for line in answer.text.splitlines())


def test_comments_do_not_keep_a_hanging_shard_alive(asking: httpx2.Client, tgi: Tgi) -> None:
    tgi.next = recorded("http/keep-alive-while-hanging", pieces=[b":\n\n"] * 100, pause_s=0.05)
    started = time.monotonic()
    answer = chat(asking)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert time.monotonic() - started < 3


def test_nobody_listens_until_tgi_is_ready(tmp_path: Path) -> None:
    with run_gateway(tmp_path, "http://127.0.0.1:9", engine="tgi") as gateway:
        with client_of(gateway.url, gateway.admin_key) as client:
            answer = chat(client)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_not_ready")
            assert client.get("/readyz").status_code == 503


def test_a_health_check_that_hangs_means_not_ready(tgi: Tgi, tmp_path: Path) -> None:
    """As TGI's does while its shard hangs, though the port is open."""
    released = threading.Event()
    answer = tgi.server.answer
    tgi.server.answer = lambda asked: recorded("http/health") if released.wait(10) else answer(asked)
    try:
        timeouts = Timeouts(connect_s=0.2, drain_s=0.5)
        with run_gateway(tmp_path, tgi.server.url, engine="tgi", timeouts=timeouts) as gateway:
            with gateway.client() as client:
                started = time.monotonic()
                assert client.get("/readyz").status_code == 503
                assert time.monotonic() - started < 3
                released.set()
                eventually(lambda: client.get("/readyz").is_success)
    finally:
        released.set()
        tgi.server.answer = answer


def test_tgi_is_ready_and_named(asking: httpx2.Client) -> None:
    assert asking.get("/readyz").is_success
    assert asking.get("/v1/status").json()["upstreams"] == [{"engine": "tgi", "ready": True}]


def test_the_stand_ins_answers_fit_tgis_own_document() -> None:
    """Of the streams each event that is none of an error; what the stand-in makes up itself, too."""
    names = [str(file.relative_to(RECORDED).with_suffix("")) for file in sorted(RECORDED.glob("*/*-stream.json"))]
    answers = {name: recorded(name) for name in names} | {"made up": stream("a", "b", usage=(1, 2))}
    checked = 0
    for name, answer in answers.items():
        for piece in answer.pieces or ():
            if piece.startswith(b'data: {"object"'):
                schema = "Chunk" if name.startswith("completions/") else "ChatCompletionChunk"
                assert complaints(DOCUMENT, schema, json.loads(piece[6:])) == [], name
                checked += 1
    assert checked > 50
    for name in ("http/overloaded", "chat/prompt-too-long"):
        assert complaints(DOCUMENT, "ErrorResponse", json.loads(recorded(name).body)) == []
    assert complaints(DOCUMENT, "TokenizeResponse", json.loads(recorded("http/tokenize").body)) == []
    assert complaints(DOCUMENT, "ChatTokenizeResponse", json.loads(recorded("http/chat-tokenize").body)) == []
    assert complaints(DOCUMENT, "ErrorResponse", {"error": 5}) != []
