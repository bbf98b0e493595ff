"""A stand-in for TGI, which answers with what a real one sent (tests/recorded/tgi), and as its parser would refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.scripted import Answer, Asked, ScriptedServer, scripted_server

RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "tgi"
CHAT = "/v1/chat/completions"
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

    @property
    def chat(self) -> Asked:
        """The last chat that was asked for."""
        return self.server.of(CHAT)[-1]

    def reset(self) -> None:
        self.next = recorded("chat/usage-stream")
        self.server.asked.clear()

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/health":
            return recorded("http/health")
        if asked.path == "/chat_tokenize":
            return recorded("internlm2-random/chat-tokenize")
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return recorded("internlm2-random/api-key-wrong-stream")
        if asked.headers.get("content-type") != "application/json":
            return recorded("http/no-content-type")
        if asked.path == "/tokenize":
            return recorded("http/tokenize", body=tokenized(asked.body["inputs"]))
        if asked.path != CHAT:
            return recorded("http/not-found")
        complaint = complaint_about(asked.body)
        return recorded(complaint) if complaint else self.next


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
    if "response_format" in body:
        return "chat/format-openai-text-stream"
    if "tools" in body:
        return "chat/tools-empty-list-stream"
    return None


@contextmanager
def fake_tgi() -> Iterator[Tgi]:
    """Runs the stand-in."""
    tgi = Tgi()
    with scripted_server(tgi.answer) as tgi.server:
        yield tgi


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
