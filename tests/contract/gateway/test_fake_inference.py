"""The stand-in keeps to what the real llama.cpp server sent when it was recorded."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.inference import FakeInference, Scenario

pytestmark = pytest.mark.contract
RECORDED = Path(__file__).resolve().parents[2] / "recorded" / "llamacpp"
CHAT = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hi."}], "stream": True}


def asked(fake: FakeInference, method: str, path: str, body: Any = None) -> bytes:
    content = json.dumps(body).encode() if body is not None else b""
    with socket.create_connection(("127.0.0.1", int(fake.url.rsplit(":", 1)[1])), timeout=5) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.http").read_bytes()


def shape(value: Any) -> Any:
    """A JSON value with only its keys, their order and the kinds of values left."""
    if isinstance(value, dict):
        return [(name, shape(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def exchange(raw: bytes) -> tuple[list[str], list[list[Any]]]:
    """The head without lengths, and for each HTTP chunk the shapes of its events."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [line for line in head.decode().split("\r\n") if not line.lower().startswith("content-length")]
    if b"chunked" not in head:
        return lines, [[shape(json.loads(body))]]
    chunks = []
    while body:
        size, _, body = body.partition(b"\r\n")
        data, body = body[: int(size, 16)], body[int(size, 16) + 2 :]
        events = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event]
        chunks.append([event.decode() if event == b"[DONE]" else shape(json.loads(event)) for event in events])
    return lines, chunks


@pytest.mark.parametrize(("file", "limit"), [("chat_stream", 4), ("chat_stop", 64)])
def test_a_stream_has_the_recorded_form(fake: FakeInference, file: str, limit: int) -> None:
    ours = exchange(asked(fake, "POST", "/v1/chat/completions", CHAT | {"max_tokens": limit}))
    theirs = exchange(recorded(file))
    assert ours[0] == theirs[0]
    for place in (0, 1, -3, -2, -1):  # role and first word, a word, finish and usage, [DONE], the end
        assert ours[1][place] == theirs[1][place]
    for recording, reason in (("chat_stream", b'"length"'), ("chat_stop", b'"stop"')):
        assert (reason in asked(fake, "POST", "/v1/chat/completions", CHAT | {"max_tokens": limit})) == (
            recording == file
        )


@pytest.mark.parametrize(
    ("file", "scenario", "method", "path", "body"),
    [
        ("tokenize", "plain", "POST", "/tokenize", {"content": "Hello, world"}),
        ("health", "plain", "GET", "/health", None),
        ("loading_health", "loading", "GET", "/health", None),
        ("loading", "loading", "POST", "/v1/chat/completions", CHAT),
        ("bad_request", "plain", "POST", "/v1/chat/completions", CHAT | {"messages": "x"}),
        ("not_found", "plain", "POST", "/nope", {}),
        (
            "context_exceeded",
            "plain",
            "POST",
            "/v1/chat/completions",
            CHAT | {"messages": [{"role": "user", "content": "word " * 5000}]},
        ),
    ],
)
def test_other_answers_have_the_recorded_form(
    fake: FakeInference, file: str, scenario: str, method: str, path: str, body: Any
) -> None:
    fake.scenario = Scenario(scenario)
    assert exchange(asked(fake, method, path, body)) == exchange(recorded(file))
