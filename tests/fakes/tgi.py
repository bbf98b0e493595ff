"""A stand-in for TGI, which answers with what a real one sent (tests/recorded/tgi), and as its parser would refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.scripted import Answer, Asked, ScriptedServer, scripted_server
from tests.openapi import complaints

RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "tgi"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
NATIVE = {
    "/": "generate/root",
    "/generate": "generate/minimal",
    "/generate_stream": "generate/stream",
    "/invocations": "generate/invocations",
    "/info": "http/info",
}
DOCUMENT = json.loads((RECORDED / "openapi.json").read_text())
_SCHEMAS = {CHAT: "ChatRequest", COMPLETIONS: "CompletionRequest", "/": "CompatGenerateRequest"}
_SCHEMAS |= dict.fromkeys(("/generate", "/generate_stream", "/tokenize"), "GenerateRequest")
KEY = "engine-key"


def exchange(name: str) -> dict[str, Any]:
    """A recorded exchange."""
    read: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return read


def recorded(name: str, **fields: Any) -> Answer:
    """Its answer; `fields` replace those of Answer."""
    response = exchange(name)["response"]
    pieces = response.get("pieces_ms_text")
    answer = {
        "status": response["status"],
        "headers": response["headers"],
        "body": response.get("body", "").encode(),
        "pieces": None if pieces is None else [text.encode() for _, text in pieces],
    }
    return Answer(**(answer | fields))


def stream(*texts: str, finish: str | None = "stop", usage: tuple[int, int] | None = None, **fields: Any) -> Answer:
    """An answer of these tokens, in the recorded form. The last one carries the reason to finish."""
    common = {"object": "chat.completion.chunk", "id": "", "created": 1795365490, "model": "/models/smollm2"}
    common["system_fingerprint"] = "3.3.6-dev0-native"
    pieces = []
    for n, text in enumerate(texts):
        reason = finish if n == len(texts) - 1 else None
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": text},
            "logprobs": None,
            "finish_reason": reason,
        }
        pieces.append(_event(common | {"created": 1795365490 + n, "choices": [choice], "usage": None}))
    if usage is not None:
        counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        pieces.append(_event(common | {"choices": [], "usage": counted}))
    if finish is not None:
        pieces.append(b"data: [DONE]\n\n")
    return recorded("chat/natural-end-stream", **({"pieces": pieces} | fields))


class Tgi:
    """The stand-in's mind: `next` is the answer to the next chats that TGI would accept."""

    def __init__(self) -> None:
        self.server: ScriptedServer
        self.next = recorded("chat/usage-stream")
        self.next_text = recorded("completions/stream-usage")
        self.next_native: Answer | None = None

    @property
    def chat(self) -> Asked:
        """The last chat that was asked for."""
        return self.server.of(CHAT)[-1]

    def reset(self) -> None:
        self.next = recorded("chat/usage-stream")
        self.next_text = recorded("completions/stream-usage")
        self.next_native = None
        self.server.asked.clear()

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/health":
            return recorded("http/health")
        if asked.path == "/chat_tokenize":
            return recorded("internlm2-random/chat-tokenize")
        if asked.path == "/info":
            return recorded("http/info")
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return recorded("internlm2-random/api-key-wrong-stream")
        if asked.method == "POST" and asked.headers.get("content-type") != "application/json":
            return recorded("http/no-content-type")
        if asked.path in _SCHEMAS and complaints(DOCUMENT, _SCHEMAS[asked.path], as_documented(asked.body)):
            return recorded("chat/tools-no-parameters")  # what the parser does not take: plain text
        if asked.path == "/tokenize":
            return recorded("http/tokenize", body=tokenized(asked.body["inputs"]))
        if asked.path in NATIVE:
            return self.next_native or recorded(NATIVE[asked.path])
        if asked.path == COMPLETIONS:
            return recorded("completions/suffix") if asked.body.get("suffix") else self.next_text
        if asked.path != CHAT:
            return recorded("http/not-found")
        complaint = complaint_about(asked.body)
        return recorded(complaint) if complaint else self.next


def as_documented(body: Any) -> Any:
    """The body in the words of TGI's document: a tool's parameters are `arguments`, and prompts are always lists."""
    if isinstance(body, list):
        return [as_documented(entry) for entry in body]
    if not isinstance(body, dict):
        return body
    named = {key: as_documented(value) for key, value in body.items()}
    if isinstance(named.get("prompt"), str):
        named["prompt"] = [named["prompt"]]
    if isinstance(named.get("function"), dict) and "parameters" in named["function"]:
        named["function"]["arguments"] = named["function"].pop("parameters")
    if isinstance(named.get("response_format"), dict) and named["response_format"].get("type") == "json_object":
        named["response_format"]["type"] = "json"
    return named


def tokenized(text: str) -> bytes:
    """A token for each word, in the form of TGI, which puts a bos in front that has no place in the text."""
    tokens = [{"id": 1, "text": "", "start": 0, "stop": 0}]
    for n, word in enumerate(text.split()):
        tokens.append({"id": n + 2, "text": word, "start": n, "stop": n + 1})
    return json.dumps(tokens).encode()


def complaint_about(body: dict[str, Any]) -> str | None:
    """The recorded refusal of a request that TGI does not take, or takes for something else; None when it is fine."""
    if not 0 < body.get("top_p", 0.5) < 1:
        return "chat/top-p-1-stream"
    if body.get("presence_penalty", 0) <= -2:
        return "chat/presence-penalty-minus-2-stream"
    if isinstance(body.get("stop"), str):
        return "chat/stop-as-string-stream"
    if len(body.get("stop", [])) > 4:
        return "chat/stop-five-stream"
    if "stream_options" in body and body["stream_options"] is None:
        return "chat/stream-options-null"
    if not isinstance(body.get("stream", False), bool):
        return "chat/stream-null"
    if "max_tokens" in body and "max_completion_tokens" in body:
        return "chat/max-tokens-and-max-completion-tokens"
    if body.get("max_tokens", 1) < 1:
        return "chat/max-tokens-0-stream"
    if body.get("seed", 0) < 0:
        return "chat/seed-negative-stream"
    if body.get("temperature", 1) < 0:
        return "chat/temperature-negative-stream"
    if "logit_bias" in body:
        return "chat/logit-bias-empty-map"
    if body.get("top_logprobs", 0) > 5:
        return "chat/top-logprobs-6-stream"
    return complaint_about_format(body) or complaint_about_tools(body)


def complaint_about_format(body: dict[str, Any]) -> str | None:
    wanted = body.get("response_format")
    if wanted is None:
        return None
    if "value" not in wanted:
        return "chat/format-openai-json-schema-stream"
    if "tools" in body:
        return "chat/format-and-tools-stream"
    schema = wanted["value"].get("schema") if wanted["type"] == "json_schema" else wanted["value"]
    if wanted["type"] != "regex" and (not isinstance(schema, dict) or "properties" not in schema):
        return "chat/format-bad-schema-stream"
    return None


def complaint_about_tools(body: dict[str, Any]) -> str | None:
    if "tools" not in body:
        return None
    if not body["tools"]:
        return "chat/tools-empty-list-stream"
    choice = body.get("tool_choice", "auto")
    names = [tool["function"]["name"] for tool in body["tools"]]
    if isinstance(choice, dict) and choice["function"]["name"] not in names:
        return "chat/tools-unknown-name-stream"
    return None


@contextmanager
def fake_tgi() -> Iterator[Tgi]:
    """Runs the stand-in."""
    tgi = Tgi()
    with scripted_server(tgi.answer) as tgi.server:
        yield tgi


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
