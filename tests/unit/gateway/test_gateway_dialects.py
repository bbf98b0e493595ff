"""The parts that the dialects share: stop texts, repairs, faults, estimates; and the table that chooses among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects import Dialect, Prompt, PromptMessage, openai, tgi
from gateway.dialects.chunks import Fault, parse_fault
from gateway.dialects.repair import ChunkRepair, NameRepair
from gateway.dialects.stops import StopTexts
from gateway.errors import ContextTooLong, Overloaded, UpstreamFailed
from gateway.settings import ENGINES
from gateway.upstream import DIALECTS

pytestmark = pytest.mark.unit
RECORDED = Path(__file__).resolve().parents[2] / "recorded" / "tgi"


def test_every_engine_of_the_settings_has_a_dialect() -> None:
    assert set(DIALECTS) == set(ENGINES)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_always_streams_and_says_what_it_is_asked(dialect: Dialect) -> None:
    body = json.loads(dialect.chat_body(Prompt([PromptMessage("user", "hi")], 5, temperature=0.5), "m"))
    assert (body["model"], body["stream"], body["max_tokens"], body["temperature"]) == ("m", True, 5, 0.5)
    assert body["messages"] == [{"role": "user", "content": "hi"}]


STOPS = [
    ("abcEND", ["END"], "abc", True),
    ("abcENxEND", ["END"], "abcENx", True),
    ("abcEN", ["END"], "abcEN", False),
    ("aab", ["ab"], "a", True),
    ("aaab", ["aab"], "a", True),
    ("one two", ["two", "one"], "", True),
    ("one two", ["o t", "e t"], "on", True),
    ("你好，再见", ["，再"], "你好", True),
    ("x", [], "x", False),
    ("", ["a"], "", False),
    ("END", ["END"], "", True),
]


@pytest.mark.parametrize(("text", "stops", "kept", "is_found"), STOPS)
def test_stop_texts_at_every_cut(text: str, stops: list[str], kept: str, is_found: bool) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            cutter = StopTexts(stops)
            shown = "".join(cutter.feed(piece) for piece in (text[:first], text[first:second], text[second:]))
            assert (shown + cutter.flush(), cutter.is_found) == (kept, is_found), (first, second)
    cutter = StopTexts(stops)
    shown = "".join(cutter.feed(letter) for letter in text)
    assert (shown + cutter.flush(), cutter.is_found) == (kept, is_found)


def test_after_a_stop_text_nothing_is_shown() -> None:
    cutter = StopTexts(["b"])
    assert cutter.feed("ab") == "a"
    assert cutter.feed("c") + cutter.flush() == ""


def tgi_event(text: str, reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": reason}
    head = {"object": "chat.completion.chunk", "id": "", "created": 5, "model": "/models/x", "system_fingerprint": "3"}
    return json.dumps(head | {"choices": [choice], "usage": None} | fields, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "text",
    ['"choices":[', '"delta":{"role":"assistant",', '\\"choices\\":[', "[DONE]", '"finish_reason":"stop"', "\\", "你"],
)
def test_texts_like_the_protocol_survive_the_repair(text: str) -> None:
    for stops in ([], ["never"]):
        repair = ChunkRepair("m", Prompt([], 5, stop=stops))
        for n in range(2):
            patched = json.loads(repair.patched(tgi_event(text)) or b"")
            assert patched["choices"][0]["delta"].get("content") == text
            assert ("role" in patched["choices"][0]["delta"]) == (n == 0)
            assert patched["model"] == "m"


def test_errors_and_garbage_pass_the_repair_for_whoever_decodes_them() -> None:
    for payload in (b'{"error":{"message":"x","http_status_code":422}}', b"garbage", b'{"choices":[{}]}', b"\xff", b""):
        for stops in ([], ["x"]):
            repair = ChunkRepair("m", Prompt([], 5, stop=stops))
            assert repair.patched(payload) == payload
            with pytest.raises(UpstreamFailed):
                tgi.decode(payload)


def test_a_repair_that_has_nothing_to_do_says_so() -> None:
    fine = b'{"id":"chatcmpl-1","model":"m","choices":[]}'
    repair = NameRepair("m")
    assert not repair.is_done
    assert repair.patched(b"garbage") == b"garbage"
    assert repair.patched(b'{"error":{}}') == b'{"error":{}}'
    assert not repair.is_done  # nothing to learn from yet
    assert repair.patched(fine) is fine
    assert repair.patched(fine) is fine
    assert repair.is_done


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', Fault("Model is overloaded", "overloaded")),
        (b'{"error":{"message":"x","http_status_code":422}}', Fault("x", "", 422)),
        (b'{"message":"x","type":"t","code":400,"param":null,"object":"error"}', Fault("x", "t", 400)),
        (b'{"detail":"Not Found"}', Fault("Not Found")),
        (b"Failed to deserialize\n", Fault("Failed to deserialize")),
        (b"", Fault("")),
        (b"[]", Fault("")),
        (b"\xff\xfe", Fault("\ufffd\ufffd")),
        (b'{"error":{"error":{"message":"x"}}}', Fault("x")),
    ],
)
def test_faults_of_all_shapes(body: bytes, fault: Fault) -> None:
    assert parse_fault(body) == fault


def test_tgis_errors_are_told_apart_by_their_words() -> None:
    text = "`inputs` tokens + `max_new_tokens` must be <= 8192. Given: 8000 `inputs` tokens and 1024 `max_new_tokens`"
    both = Fault(f"Input validation error: {text}", "validation", 422)
    assert isinstance(tgi.error_of(both, None), ContextTooLong)
    assert "8000" in tgi.error_of(both, 422).message
    assert isinstance(tgi.error_of(Fault("Model is overloaded", "", 422), None), Overloaded)
    assert isinstance(tgi.error_of(Fault("Template error: template not found", "template_error"), 422), UpstreamFailed)
    generation = Fault("Request failed during generation: Server error: transport error", "", 422)
    assert isinstance(tgi.error_of(generation, None), UpstreamFailed)
    assert isinstance(tgi.error_of(generation, 424), UpstreamFailed)


@pytest.mark.parametrize("name", ["http/tokenize", "internlm2-random/tokenize-zh-emoji", "http/tokenize-empty"])
def test_tgis_tokens_are_counted_by_entry_and_without_the_bos(name: str) -> None:
    exchange = json.loads((RECORDED / f"{name}.json").read_text())
    count = tgi.count(exchange["request"]["body"]["inputs"], "m")
    assert json.loads(count.body) == exchange["request"]["body"]
    assert count.read(exchange["response"]["body"].encode()) == len(json.loads(exchange["response"]["body"])) - 1


def test_the_estimate_is_above_what_tokenizers_say() -> None:
    for name in ("http/tokenize", "internlm2-random/tokenize-zh-emoji"):
        exchange = json.loads((RECORDED / f"{name}.json").read_text())
        text = exchange["request"]["body"]["inputs"]
        assert openai.count(text, "m") >= tgi.count(text, "m").read(exchange["response"]["body"].encode())
    for name in ("http/chat-tokenize", "internlm2-random/chat-tokenize"):
        exchange = json.loads((RECORDED / f"{name}.json").read_text())
        answer = json.loads(exchange["response"]["body"])
        typed = answer["templated_text"]
        assert openai.count(typed, "m") >= len(answer["tokenize_response"]) * 0.9
    assert openai.count("The quick brown fox jumps over the lazy dog.", "m") <= 25
    assert openai.count("", "m") == 0
    assert openai.count("   ", "m") == 1
