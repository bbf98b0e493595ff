"""A scripted stand-in for llama.cpp's server, on a real socket, in the form recorded in tests/recorded/llamacpp.

`fake.scenario` says how the next answers go; `fake.asked` records every request and when its caller left. A word is a
token here: `/tokenize` counts words, and each word of an answer is one event.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
WORDS = ("Hello", " there", "!", " How", " can", " I", " help", " you", "?")
TEMPLATE_TOKENS = 3
MESSAGE_TOKENS = 5


@dataclass(frozen=True)
class Scenario:
    """How an answer goes.

    Attributes:
        name: plain; slow (a pause before each word); silent_first_token (nothing until released); stalls (half the
            words, then nothing until released); dies_midway (half, then the connection breaks); garbage (half, then
            nonsense in place of an event); garbage_first (nonsense from the start); error_midway (half, then an
            `error:` line); no_done (all but `[DONE]`); no_finish_reason (`[DONE]` without a finish); loading (503);
            failing (500); not_http; no_usage; split_bytes (one byte at a time); endless_event (an event that never
            ends); closes (no answer at all).
        words: the answer.
        delay_s: the pause of `slow`.
    """

    name: str = "plain"
    words: Sequence[str] = WORDS
    delay_s: float = 0.02


@dataclass
class Asked:
    """One request; `left_at` is when its caller closed the connection before the answer was whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float = field(default_factory=time.monotonic)
    left_at: float | None = None
    answered: bool = False
    words_sent: int = 0


class FakeInference:
    """The running stand-in; made by `fake_inference`."""

    def __init__(self, url: str, *, n_ctx: int) -> None:
        self.url = url
        self.n_ctx = n_ctx
        self.scenario = Scenario()
        self.asked: list[Asked] = []
        self.open_connections = 0
        self.most_connections = 0
        self.open_chats = 0
        self.most_chats = 0
        self._released = threading.Event()
        self._ids = itertools.count()

    def reset(self) -> None:
        """Back to `plain`, with nothing recorded; answers that were held go on."""
        self.release()
        self._released = threading.Event()
        self.scenario = Scenario()
        self.asked = []
        self.most_connections = self.open_connections
        self.most_chats = self.open_chats

    def release(self) -> None:
        """Lets the answers that are held (silent_first_token, stalls) go on."""
        self._released.set()

    @property
    def chats(self) -> list[Asked]:
        """The generations that were asked for."""
        return [asked for asked in self.asked if asked.path == "/v1/chat/completions"]

    @property
    def chat(self) -> Asked:
        """The last generation that was asked for."""
        return self.chats[-1]

    # --- the server's side, on its own loop

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        self.most_connections = max(self.most_connections, self.open_connections)
        try:
            asked = await _read_request(reader)
            self.asked.append(asked)
            answering = asyncio.ensure_future(self._answer(asked, writer))
            leaving = asyncio.ensure_future(_departure(reader))
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                asked.left_at = time.monotonic()
            for task in (answering, leaving):
                task.cancel()
            for outcome in await asyncio.gather(answering, leaving, return_exceptions=True):
                if isinstance(outcome, ConnectionError):
                    asked.left_at = asked.left_at or time.monotonic()
                elif isinstance(outcome, Exception):
                    raise outcome
            asked.answered = asked.left_at is None
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = self.scenario.name
        if name == "closes":
            return
        if name == "not_http":
            writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            await writer.drain()
        elif name == "loading":
            await _send_json(writer, 503, error("Loading model", "unavailable_error", 503))
        elif (asked.method, asked.path) == ("GET", "/health"):
            await _send_json(writer, 200, {"status": "ok"})
        elif (asked.method, asked.path) == ("POST", "/tokenize"):
            await _send_json(writer, 200, {"tokens": list(range(count(asked.body["content"])))})
        elif (asked.method, asked.path) == ("POST", "/v1/chat/completions"):
            self.open_chats += 1
            self.most_chats = max(self.most_chats, self.open_chats)
            try:
                await self._chat(asked, writer)
            finally:
                self.open_chats -= 1
        elif (asked.method, asked.path) == ("POST", "/v1/completions"):
            await self._complete(asked, writer)
        else:
            await _send_json(writer, 404, error("File Not Found", "not_found_error", 404))

    async def _chat(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        scenario, request = self.scenario, asked.body
        if not isinstance(request.get("messages"), list):
            message = "Expected 'messages' to be an array"
            await _send_json(writer, 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}})
            return
        prompt_tokens = TEMPLATE_TOKENS + sum(count(m["content"]) + MESSAGE_TOKENS for m in request["messages"])
        if prompt_tokens > self.n_ctx:
            await _send_json(writer, 400, context_exceeded(prompt_tokens, self.n_ctx))
            return
        if scenario.name == "failing":
            await _send_json(writer, 500, error("llama_decode failed at /srv/models/x.gguf", "server_error", 500))
            return
        if scenario.name == "silent_first_token":
            await self._hold()
        writer.write(_HEAD)
        send = _byte_by_byte if scenario.name == "split_bytes" else _chunk
        async for part in self._events(asked, scenario):
            await send(writer, part)
        if scenario.name == "dies_midway":
            writer.transport.abort()
            return
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _complete(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """OpenAI's older completions: usage and end in one event, log probabilities in the form of chats."""
        common = Chunks(f"chatcmpl-fake{next(self._ids):08}", asked.body["model"]).common | {
            "object": "text_completion"
        }
        words = self.scenario.words[: asked.body["max_tokens"]]
        writer.write(_HEAD)
        for word in words:
            token = {"id": 1, "token": word, "bytes": list(word.encode()), "logprob": -0.5}
            logprobs = {"content": [token | {"top_logprobs": [token]}]} if asked.body.get("logprobs") else None
            choice = {"text": word, "index": 0, "logprobs": logprobs, "finish_reason": None}
            await _chunk(writer, _event({"choices": [choice], **common}))
            asked.words_sent += 1
        reason = "length" if len(words) < len(self.scenario.words) else "stop"
        choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": reason}
        usage = usage_of(count(asked.body["prompt"]), len(words))
        await _chunk(writer, _event({"choices": [choice], **common, "usage": usage}))
        await _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _events(self, asked: Asked, scenario: Scenario) -> Any:
        """The answer, HTTP chunk by HTTP chunk: the first holds two events, as llama.cpp's does."""
        chunks = Chunks(f"chatcmpl-fake{next(self._ids):08}", asked.body["model"])
        limit = asked.body.get("max_tokens", -1)
        words = list(scenario.words if limit < 0 else scenario.words[:limit])
        finish = "length" if len(words) < len(scenario.words) else "stop"
        name, half = scenario.name, len(words) // 2
        if name == "garbage_first":
            yield b"data: <html>502 Bad Gateway</html>\n\n"
            return
        head = chunks.role()
        for n, word in enumerate(words):
            if name == "slow":
                await asyncio.sleep(scenario.delay_s)
            if n == half and name in ("stalls", "dies_midway", "garbage", "error_midway", "endless_event"):
                if name == "stalls":
                    await self._hold()
                elif name == "dies_midway":
                    return
                elif name == "garbage":
                    yield b'data: {"choices":[{"delta":{"con\x00\xff\n\n'
                elif name == "error_midway":
                    yield (
                        b"error: "
                        + json.dumps(error("Compute error.", "server_error", 500)["error"]).encode()
                        + b"\n\n"
                    )
                    return
                else:
                    while True:
                        yield b"x" * 65536
            yield head + chunks.content(word, has_logprobs=asked.body.get("logprobs") is True)
            asked.words_sent += 1
            head = b""
        tail = b"" if name == "no_finish_reason" else chunks.finish(finish)
        usage = b"" if name == "no_usage" else chunks.usage(_prompt_tokens(asked.body), len(words))
        if tail + usage:
            yield head + tail + usage
        if name != "no_done":
            yield b"data: [DONE]\n\n"

    async def _hold(self) -> None:
        while not self._released.is_set():
            await asyncio.sleep(0.005)


class Chunks:
    """The events of one answer, with llama.cpp's fields in llama.cpp's order."""

    def __init__(self, answer_id: str, model: str) -> None:
        self.common = {
            "created": int(time.time()),
            "id": answer_id,
            "model": model,
            "system_fingerprint": "b0-unknown",
            "object": "chat.completion.chunk",
        }

    def role(self) -> bytes:
        return self._delta({"role": "assistant", "content": None})

    def content(self, text: str, *, has_logprobs: bool = False) -> bytes:
        if not has_logprobs:
            return self._delta({"content": text})
        token = {"id": 1, "token": text, "bytes": list(text.encode()), "logprob": -0.5}
        choice = {"finish_reason": None, "index": 0, "delta": {"content": text}}
        return _event(
            {"choices": [choice | {"logprobs": {"content": [token | {"top_logprobs": [token]}]}}], **self.common}
        )

    def finish(self, reason: str) -> bytes:
        return self._delta({}, reason)

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        usage = usage_of(prompt_tokens, completion_tokens)
        timings = {
            "cache_n": 0,
            "prompt_n": prompt_tokens,
            "prompt_ms": 1.0,
            "prompt_per_token_ms": 1.0,
            "prompt_per_second": 1.0,
            "predicted_n": completion_tokens,
            "predicted_ms": 1.0,
            "predicted_per_token_ms": 1.0,
            "predicted_per_second": 1.0,
        }
        return _event({"choices": [], **self.common, "usage": usage, "timings": timings})

    def _delta(self, delta: Json, finish_reason: str | None = None) -> bytes:
        return _event({"choices": [{"finish_reason": finish_reason, "index": 0, "delta": delta}], **self.common})


def count(text: str | None) -> int:
    """How many tokens a text has here."""
    return len((text or "").split())


def usage_of(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "completion_tokens": completion_tokens,
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def error(message: str, kind: str, code: int) -> Json:
    return {"error": {"message": message, "type": kind, "code": code}}


def context_exceeded(prompt_tokens: int, n_ctx: int) -> Json:
    message = f"request ({prompt_tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it"
    fields = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt_tokens, "n_ctx": n_ctx}
    return {"error": {"code": 400, "message": message, **fields}}


@contextmanager
def fake_inference(*, unix_path: Path | None = None, n_ctx: int = 4096) -> Iterator[FakeInference]:
    """Runs the stand-in on a free port of 127.0.0.1, or on a Unix socket, in a thread of its own."""
    family = socket.AF_UNIX if unix_path else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(str(unix_path) if unix_path else ("127.0.0.1", 0))
    url = f"unix:{unix_path}" if unix_path else f"http://127.0.0.1:{listener.getsockname()[1]}"
    fake = FakeInference(url, n_ctx=n_ctx)
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        listen: Callable[..., Any] = asyncio.start_unix_server if unix_path else asyncio.start_server
        server = await listen(fake.serve, sock=listener, limit=64 << 20, backlog=1024)
        started.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), name="fake-inference", daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n"
    b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error", 503: "Service Unavailable"}


def _event(fields: Json) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _prompt_tokens(request: Json) -> int:
    return TEMPLATE_TOKENS + sum(count(m["content"]) + MESSAGE_TOKENS for m in request["messages"])


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def _byte_by_byte(writer: asyncio.StreamWriter, data: bytes) -> None:
    for n in range(len(data)):
        await _chunk(writer, data[n : n + 1])
        await asyncio.sleep(0)


async def _send_json(writer: asyncio.StreamWriter, status: int, body: Json) -> None:
    content = json.dumps(body, separators=(",", ":")).encode()
    writer.write(
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
        + content
    )
    await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, json.loads(body) if body else None)


async def _departure(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(4096):
            pass
