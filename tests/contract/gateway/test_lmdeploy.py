"""The gateway in front of LMDeploy. Nothing was recorded here: the form is that of its serializer (0.18), as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.fakes.scripted import Answer, Asked, ScriptedServer, scripted_server
from tests.running_gateway import MODEL, RunningGateway, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
CHAT = "/v1/chat/completions"
HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
SSE = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
Json = dict[str, Any]


def event(text: str = "", reason: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    delta = {"role": "assistant", "content": text, "reasoning_content": None, "gen_tokens": None, "tool_calls": []}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    counted = None
    if usage:
        counted = {"prompt_tokens": usage[0], "total_tokens": sum(usage), "completion_tokens": usage[1]}
    fields = {"id": "17", "object": "chat.completion.chunk", "created": 1795374291, "model": MODEL}
    fields |= {"choices": [] if usage else [choice], "usage": counted}
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
END = (event(), event(reason="stop"), event(usage=(7, 3)), DONE)  # the end token is an event of its own


def flat(message: str, kind: str, code: int) -> Json:
    return {"message": message, "type": kind, "code": code, "param": None, "object": "error"}


def refused(message: str, kind: str, code: int) -> Answer:
    return Answer(code, JSON, json.dumps(flat(message, kind, code)).encode())


def streaming(*pieces: bytes, end: str = "clean") -> Answer:
    return Answer(200, SSE, pieces=pieces, end=end)


TOO_LONG = "Input length (80011) must be smaller than the model context length (32768)."
PLAIN = streaming(event("Hel"), event("lo"), *END)


class Script:
    """What LMDeploy does next."""

    def __init__(self) -> None:
        self.server: ScriptedServer
        self.next = PLAIN
        self.health = {"status": "healthy", "message": "ok"}

    @property
    def chat(self) -> Asked:
        return self.server.of(CHAT)[-1]

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/health":
            return Answer(200, JSON, json.dumps(self.health).encode())
        if asked.path == "/v1/encode":
            ids = list(range(len(asked.body["input"].split()) + bool(asked.body.get("add_bos", True))))
            return Answer(200, JSON, json.dumps({"input_ids": ids, "length": len(ids)}).encode())
        return self.next


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    script = Script()
    with scripted_server(script.answer) as script.server:
        yield script


@pytest.fixture(scope="module")
def served(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("lmdeploy"), script.server.url + "/v1", engine="lmdeploy") as running:
        yield running


@pytest.fixture
def asking(served: RunningGateway, script: Script) -> Iterator[httpx2.Client]:
    script.next = PLAIN
    script.health = {"status": "healthy", "message": "ok"}
    script.server.asked.clear()
    with served.client() as client:
        yield client
    eventually(served.is_idle)


def streamed(client: httpx2.Client, **fields: Any) -> list[Json]:
    answer = client.post(CHAT, json=HI | {"stream": True, "stream_options": {"include_usage": True}} | fields)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def text_of(events: list[Json]) -> str:
    return "".join(c["delta"].get("content") or "" for event in events for c in event.get("choices", ()))


def test_openais_defaults_are_said_since_lmdeploys_are_others(asking: httpx2.Client, script: Script) -> None:
    assert asking.post(CHAT, json=HI | {"presence_penalty": 0, "seed": -1}).is_success
    asked = script.chat.body
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["min_p"]) == (1, 1, 0, 0)
    assert asked["seed"] == (1 << 64) - 1  # negative ones are a 500
    assert asked["model"] == MODEL
    assert asked["stream"] is True  # a plain request in the queue runs on when its caller has gone
    assert 0 < asked["max_tokens"] < 1 << 31
    assert not {"presence_penalty", "frequency_penalty", "skip_special_tokens", "stop"} & set(asked)
    assert script.chat.headers["authorization"] == "Bearer engine-key"


def test_what_lmdeploy_knows_of_ours_is_passed_on(asking: httpx2.Client, script: Script) -> None:
    assert asking.post(CHAT, json=HI | {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}).is_success
    asked = script.chat.body
    assert (asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (5, 0.1, 1.1)


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_that_lmdeploy_ignores_are_refused(asking: httpx2.Client, script: Script, name: str) -> None:
    answer = asking.post(CHAT, json=HI | {name: 0.5})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert script.server.asked == []


def test_a_stream_in_openais_form(asking: httpx2.Client) -> None:
    *events, done = streamed(asking)
    assert (text_of(events), done) == ("Hello", {"done": True})
    assert ["role" in c["delta"] for event in events for c in event["choices"]] == [True, False, False, False]
    assert events[0]["id"].startswith("chatcmpl-")
    assert events[-1]["usage"]["completion_tokens"] == 3


def test_stop_texts_are_cut_here_and_free_the_engine(asking: httpx2.Client, script: Script) -> None:
    """LMDeploy takes only those that are one token, and drops the template's own for them."""
    script.next = streaming(event("Hi"), event(" Hu"), event("man: x"), *[event("y")] * 5, end="held")
    *events, done = streamed(asking, stop="Human:")
    assert (text_of(events), done) == ("Hi ", {"done": True})
    assert [c["finish_reason"] for event in events for c in event["choices"]][-1] == "stop"
    assert "stop" not in script.chat.body
    assert eventually(lambda: script.chat.was_left)
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert events[-1]["usage"]["prompt_tokens"] > 1


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (refused(TOO_LONG, "invalid_request_error", 400), 400, "context_length_exceeded"),
        (refused("The top_p `0` must be in (0, 1].", "invalid_request_error", 400), 400, "invalid_request"),
        (refused("Unauthorized", "authentication_error", 401), 502, "upstream_failed"),
        (refused("The model 'x' does not exist.", "not_found_error", 404), 502, "upstream_failed"),
        (refused("An internal server error occurred.", "server_error", 500), 502, "upstream_failed"),
        (refused("sleeping", "server_error", 503), 503, "upstream_not_ready"),
        (Answer(404, JSON, b'{"detail":"Not Found"}'), 502, "upstream_failed"),
        (streaming(b'data: {"error":%b}\n\n' % json.dumps(flat("x", "server_error", 500)).encode(), DONE), 502,
         "upstream_failed"),
        (streaming(b'data: {"error":%b}\n\n' % json.dumps(flat(TOO_LONG, "x", 400)).encode(), DONE), 400,
         "context_length_exceeded"),
        (streaming(event(reason="error"), DONE), 502, "upstream_failed"),
        (streaming(DONE), 502, "upstream_failed"),
    ],
)  # fmt: skip
def test_flat_errors_have_honest_codes(
    asking: httpx2.Client, script: Script, answer: Answer, status: int, code: str
) -> None:
    script.next = answer
    for is_streamed in (True, False):
        got = asking.post(CHAT, json=HI | {"stream": is_streamed})
        assert (got.status_code, got.json()["error"]["code"]) == (status, code)
        assert "80011" in got.text or code != "context_length_exceeded"


@pytest.mark.parametrize(
    "tail",
    [
        (b'data: {"error":%b}\n\n' % json.dumps(flat("x", "server_error", 500)).encode(), DONE),
        (event(reason="abort"), DONE),
        (event(reason="length"),),  # what a second SIGINT makes of a stream: a reason, and no [DONE]
        (DONE,),
        (),
    ],
)
def test_a_cut_answer_never_passes_as_a_whole_one(
    asking: httpx2.Client, script: Script, tail: tuple[bytes, ...]
) -> None:
    script.next = streaming(event("Hel"), event("lo"), *tail)
    events = streamed(asking)
    assert text_of(events) == "Hello"
    assert events[-1]["error"]["code"] == "upstream_failed"
    assert {"done": True} not in events
    answer = asking.post("/v1/responses", json={"input": "hi"})
    assert answer.status_code == 502


def test_tokens_are_counted_without_the_bos(asking: httpx2.Client, script: Script) -> None:
    conversation = asking.post("/v1/conversations").json()["id"]
    assert asking.post("/v1/responses", json={"input": "one two three", "conversation": conversation}).is_success
    assert script.server.of("/v1/encode")[0].body == {"input": "one two three", "add_bos": False}


def test_a_server_that_sleeps_is_not_ready(asking: httpx2.Client, script: Script, served: RunningGateway) -> None:
    def is_ready() -> bool:
        return asking.get("/readyz").status_code == 200

    assert eventually(is_ready)
    script.health = {"status": "sleeping", "message": "x"}
    assert eventually(lambda: not is_ready())


# --- tools, forms, log probabilities, completions


def call_piece(arguments: str, name: str | None = None, reason: str | None = None) -> bytes:
    """LMDeploy makes an id for each piece, and names what it has not as null."""
    call = {"id": f"chatcmpl-tool-{len(arguments)}", "index": 0, "type": "function"}
    call |= {"function": {"name": name, "arguments": arguments}}
    delta = {"role": "assistant", "content": None, "reasoning_content": None, "gen_tokens": None, "tool_calls": [call]}
    fields = {"id": "17", "object": "chat.completion.chunk", "created": 1795374291, "model": MODEL}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return (
        b"data: " + json.dumps(fields | {"choices": [choice], "usage": None}, separators=(",", ":")).encode() + b"\n\n"
    )


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("is_streamed", [True, False])
def test_calls_have_one_id_each(asking: httpx2.Client, script: Script, is_streamed: bool) -> None:
    script.next = streaming(
        call_piece("", "f"),
        call_piece('{"a":'),
        call_piece("1}"),
        event(reason="tool_calls"),
        event(usage=(7, 3)),
        DONE,
    )
    if is_streamed:
        *events, done = streamed(asking, tools=[TOOL])
        pieces = [p for e in events for c in e["choices"] for p in c["delta"].get("tool_calls", ())]
        assert ["id" in piece for piece in pieces] == [True, False, False]
        assert ["name" in piece["function"] for piece in pieces] == [True, False, False]
        assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"a":1}'
        assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
        assert done == {"done": True}
    else:
        (choice,) = asking.post(CHAT, json=HI | {"tools": [TOOL]}).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert script.chat.body["tools"] == [TOOL]


def test_forms_are_openais_and_a_regex_has_its_own(asking: httpx2.Client, script: Script) -> None:
    schema = {"type": "object", "properties": {}}
    for wanted, sent in (
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_object", "value": schema},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        ),
        ({"type": "regex", "value": "a+"}, {"type": "regex_schema", "regex_schema": "a+"}),
    ):
        assert asking.post(CHAT, json=HI | {"response_format": wanted}).is_success
        assert script.chat.body["response_format"] == sent


def test_log_probabilities_are_handed_on(asking: httpx2.Client, script: Script) -> None:
    token = {"token": "Hel", "bytes": [72, 101, 108], "logprob": -0.1, "top_logprobs": []}
    piece = event("Hel").replace(b'"logprobs":null', b'"logprobs":' + json.dumps({"content": [token]}).encode())
    script.next = streaming(piece, *END)
    (choice,) = asking.post(CHAT, json=HI | {"logprobs": True}).json()["choices"]
    assert choice["logprobs"]["content"] == [token]
    assert (script.chat.body["logprobs"], script.chat.body["top_logprobs"]) == (True, 0)


def test_legacy_completions(asking: httpx2.Client, script: Script) -> None:
    common = {"id": "-1", "object": "text_completion", "created": 5, "model": MODEL}

    def text_event(text: str, reason: str | None = None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "gen_tokens": None, "finish_reason": reason}
        return b"data: " + json.dumps(common | {"choices": [choice], "usage": None}).encode() + b"\n\n"

    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    counted = b"data: " + json.dumps(common | {"choices": [], "usage": usage}).encode() + b"\n\n"
    script.next = streaming(text_event("Once"), text_event(" upon"), text_event("", "length"), counted, DONE)
    body = asking.post("/v1/completions", json={"prompt": "x"}).json()
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("Once upon", "length")
    assert body["usage"]["total_tokens"] == 10
    assert script.server.of("/v1/completions")[-1].body["max_tokens"] == 16  # OpenAI's default; LMDeploy's is the rest
    answer = asking.post("/v1/completions", json={"prompt": "x", "logprobs": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")


def test_an_answer_goes_on_as_it_was_asked_for(asking: httpx2.Client, script: Script) -> None:
    script.next = streaming(event("One"), event(" two"), event(reason="length"), event(usage=(7, 2)), DONE)
    asked = {"input": "Count", "max_output_tokens": 2, "seed": -3, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}
    cut = asking.post("/v1/responses", json=asked).json()
    first = script.chat.body
    assert cut["status"] == "incomplete", cut
    script.next = PLAIN
    done = asking.post(f"/v1/responses/{cut['id']}/continue").json()
    assert done["output"][0]["content"][0]["text"] == "One twoHello"
    assert [message["content"] for message in script.chat.body["messages"]] == ["Count", "One two"]
    assert script.chat.body | {"messages": first["messages"]} == first
