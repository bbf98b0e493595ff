"""The form of llama.cpp's answers, as recorded: what the stand-in and the real server are both held to."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RECORDED = Path(__file__).resolve().parent / "recorded" / "llamacpp"
MODEL = "smollm2-135m-instruct"
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say hi."}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0,
}
LONG = [{"role": "user", "content": "word " * 5000}]
STREAMS = {"chat_stream": CHAT | {"max_tokens": 4}, "chat_stop": CHAT | {"max_tokens": 64}}
OTHERS: dict[str, tuple[str, str, Any]] = {
    "tokenize": ("POST", "/tokenize", {"content": "Hello, world"}),
    "health": ("GET", "/health", None),
    "bad_request": ("POST", "/v1/chat/completions", CHAT | {"messages": "x"}),
    "not_found": ("POST", "/nope", {}),
    "context_exceeded": ("POST", "/v1/chat/completions", CHAT | {"messages": LONG}),
}


def recorded(name: str) -> bytes:
    """One recorded answer, byte for byte."""
    return (RECORDED / f"{name}.http").read_bytes()


def asked(url: str, method: str, path: str, body: Any = None, *, key: str = "none") -> bytes:
    """What the server at `url` (`http://…` or `unix:/…`) answers, byte for byte."""
    content = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\nContent-Length: {len(content)}\r\n\r\n"
    with _connected(url) as connection:
        connection.sendall(head.encode() + content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def form_of(raw: bytes) -> tuple[list[str], list[Any]]:
    """The head without its length and its values of CORS, and the events (or the one body) without their values."""
    head, _, body = raw.partition(b"\r\n\r\n")
    skipped = ("content-length", "access-control")
    lines = [line for line in head.decode().split("\r\n") if not line.lower().startswith(skipped)]
    if b"chunked" not in head:
        return lines, [_shape(json.loads(body))]
    events = [event.removeprefix(b"data: ") for event in unchunked(body).split(b"\n\n") if event.strip()]
    return lines, [event.decode() if event == b"[DONE]" else _shape(json.loads(event)) for event in events]


def unchunked(body: bytes) -> bytes:
    """The content of a body in HTTP chunks."""
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        content, body = content + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return content


def assert_streams_as_recorded(url: str, name: str, *, key: str = "none") -> None:
    """Head, role, first words, finish, usage and `[DONE]` are as in the recording `name`."""
    raw = asked(url, "POST", "/v1/chat/completions", STREAMS[name], key=key)
    (head, events), (recorded_head, recorded_events) = form_of(raw), form_of(recorded(name))
    assert head == recorded_head
    for place in (0, 1, 2, -3, -2, -1):
        assert events[place] == recorded_events[place]
    assert {str(event) for event in events} == {str(event) for event in recorded_events}
    reason = b'"finish_reason":"length"' if name == "chat_stream" else b'"finish_reason":"stop"'
    assert reason in raw


def assert_answers_as_recorded(url: str, name: str, *, key: str = "none") -> None:
    """Another answer than a stream has the form of the recording `name`."""
    assert form_of(asked(url, *OTHERS[name], key=key)) == form_of(recorded(name))


def _connected(url: str) -> socket.socket:
    if url.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        try:
            connection.connect(url.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60)


def _shape(value: Any) -> Any:
    """A JSON value with only its keys, their order and the kinds of its values."""
    if isinstance(value, dict):
        return [(name, _shape(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
