"""A mock upstream that speaks TGI's wire form, cheap enough that the proxies in front of it are what is measured.

`python -m bench.mock PORT`. What an answer is to be stands in its prompt (bench/script.py). `GET /bench/counts` tells
what was made so far, `GET /bench/kept` the times of the answers whose scripts had an id, once.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from typing import Any, cast

import uvloop

from bench import tgi_form as form
from bench.script import Script

_LIMIT = re.compile(rb'"max_(?:completion_)?tokens":\s?(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: ?close", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream":\s?true')
_WANTS_USAGE = re.compile(rb'"include_usage":\s?true')
_TEXT = (
    b" The",
    b" ship",
    b" went",
    b" over",
    b" seven",
    b" seas",
    b" and",
    b" back",
)  # LiteLLM ends what repeats itself
_FIRST_BYTES = ("refuses", "overloaded")


class Mock:
    """What all connections share: counts, and the times of the answers that are kept."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault  # of every chat, whatever its script says: a server that is down
        self.tokens = 0
        self.begun = 0
        self.left = 0
        self.running = 0
        self.kept: list[dict[str, Any]] = []
        self._busy_s = 0.0
        self._changed_at = time.monotonic()
        self._second = 0
        self._around = (b"", b"")

    def enter(self) -> None:
        """An answer begins."""
        self.begun += 1
        self._change(1)

    def leave(self) -> None:
        """An answer has ended, in whatever way."""
        self._change(-1)

    def _change(self, by: int) -> None:
        now = time.monotonic()
        self._busy_s += self.running * (now - self._changed_at)
        self._changed_at = now
        self.running += by

    def around(self) -> tuple[bytes, bytes]:
        """The event around a token's text, made anew each second."""
        second = int(time.time())
        if second != self._second:
            self._second, self._around = second, form.event_around_text(second)
        return self._around

    def counts(self) -> dict[str, float]:
        """`busy_s` is the sum of the seconds of all answers so far, the running ones too."""
        self._change(0)
        return {
            "at": self._changed_at,
            "tokens": self.tokens,
            "begun": self.begun,
            "left": self.left,
            "running": self.running,
            "busy_s": self._busy_s,
        }


class Answer:
    """One answer on its way, streamed or whole."""

    def __init__(self, mock: Mock, transport: asyncio.Transport, body: bytes, *, is_last: bool) -> None:
        self.script = Script.last_in(body)
        self.is_over = False
        self._mock = mock
        self._transport = transport
        self._is_last = is_last
        self._loop = asyncio.get_running_loop()
        limit = _LIMIT.search(body)
        self._total = min(self.script.tokens, int(limit[1])) if limit else self.script.tokens
        self._finish = "length" if self._total < self.script.tokens else "stop"
        self._is_stream = _STREAMS.search(body) is not None
        self._wants_usage = _WANTS_USAGE.search(body) is not None
        self._prompt_tokens = form.tokens_of(body)
        self._fault = mock.fault or self.script.fault
        self._made = 0
        self._is_paused = False
        self._is_waiting = False
        self._stamps: list[float] = []
        self._begun_at = time.monotonic()
        spread_ms = random.random() * self.script.spread_ms
        self._due_at = self._loop.time() + (self.script.first_ms + spread_ms) / 1000
        self._timer: asyncio.Handle | None = None

    def start(self) -> None:
        self._mock.enter()
        if self._fault in _FIRST_BYTES:
            self._fail_at_once()
        elif self._is_stream:
            self._timer = self._loop.call_at(self._due_at, self._begin)
        else:
            self._due_at += (self._total - 1) * self.script.pace_ms / 1000
            self._timer = self._loop.call_at(self._due_at, self._send_whole)

    def abandon(self) -> None:
        """The caller has left."""
        if not self.is_over:
            self._mock.left += 1
            self._end("left")

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if self._is_waiting and not self.is_over:
            self._is_waiting = False
            self._step()

    def _begin(self) -> None:
        self._transport.write(form.STREAM_HEAD)
        self._step()

    def _step(self) -> None:
        """One write: `batch` tokens, or what is left of the answer."""
        if self._is_paused:
            self._is_waiting = True
            return
        script = self.script
        until = min(self._made + script.batch, self._total - 1)
        if self._fault:
            until = min(until, script.after)
        before, after = self._mock.around()
        frames = []
        while self._made < until:
            frames.append(form.framed(before + self._text() + after))
        if self._fault and self._made >= script.after:
            self._transport.write(b"".join(frames))
            self._fail()
            return
        if self._made < self._total - 1 or script.batch == len(frames):
            self._transport.write(b"".join(frames))
            if script.pace_ms:
                self._due_at += script.pace_ms / 1000
                self._timer = self._loop.call_at(self._due_at, self._step)
            else:
                self._timer = self._loop.call_soon(self._step)
            return
        self._transport.write(b"".join(frames) + self._closing())
        self._end("done")

    def _text(self) -> bytes:
        self._made += 1
        self._mock.tokens += 1
        if self.script.id:
            self._stamps.append(time.monotonic())
        return b" t%d" % time.monotonic_ns() if self.script.stamp else _TEXT[self._made & 7]

    def _closing(self) -> bytes:
        created = int(time.time())
        events = [form.last_event(self._text(), self._finish.encode(), created)] if self._total else []
        if self._wants_usage:
            events.append(form.usage_event(self._prompt_tokens, self._total, created))
        return b"".join(form.framed(event) for event in [*events, form.DONE]) + form.LAST_FRAME

    def _send_whole(self) -> None:
        text = b"".join(self._text() for _ in range(self._total)).decode()
        body = form.completion(text, self._finish, self._prompt_tokens, self._total, int(time.time()))
        self._transport.write(form.plain(body, is_chat=True))
        self._end("done")

    def _fail_at_once(self) -> None:
        if self._fault == "refuses":
            self._transport.abort()
        elif self._is_stream:
            events = (form.OVERLOADED_EVENT, form.DONE)
            self._transport.write(form.STREAM_HEAD + b"".join(map(form.framed, events)) + form.LAST_FRAME)
        else:
            self._transport.write(form.plain(form.OVERLOADED, 429))
        self._end("fault")

    def _fail(self) -> None:
        if self._fault == "ends":
            self._transport.write(form.LAST_FRAME)
        elif self._fault == "engine_died":
            self._transport.write(form.framed(form.ENGINE_DIED) + form.framed(form.DONE) + form.LAST_FRAME)
        elif self._fault == "half":
            self._transport.write(form.framed(b"".join(self._mock.around()))[:100])
            self._transport.close()
        else:
            self._transport.abort()
        self._end("fault")

    def _end(self, how: str) -> None:
        self.is_over = True
        self._mock.leave()
        if self._is_last:
            self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        if self.script.id:
            times = {"begun_at": self._begun_at, "ended_at": time.monotonic(), "token_times": self._stamps}
            self._mock.kept.append({"id": self.script.id, "how": how, **times})


class Connection(asyncio.Protocol):
    """One caller: a request at a time, kept alive between them."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._transport: asyncio.Transport
        self._received = b""
        self._answer: Answer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if len(rest) >= size:
            self._received = rest[size:]
            self._answer_to(head.split(b" ", 2)[1], rest[:size], is_last=_CLOSES.search(head) is not None)

    def _answer_to(self, path: bytes, body: bytes, *, is_last: bool) -> None:
        if path.endswith(b"/chat/completions"):
            self._answer = Answer(self._mock, self._transport, body, is_last=is_last)
            self._answer.start()
            return
        self._transport.write(self._plain(path, body))
        if is_last:
            self._transport.close()

    def _plain(self, path: bytes, body: bytes) -> bytes:
        if path == b"/health":
            return form.plain(b"")
        if path == b"/info":
            return form.plain(form.info())
        if path == b"/tokenize":
            return form.plain(form.tokenized(json.loads(body)["inputs"]))
        if path == b"/chat_tokenize":
            return form.plain(form.chat_tokenized([message["content"] for message in json.loads(body)["messages"]]))
        if path == b"/bench/counts":
            return form.plain(json.dumps(self._mock.counts()).encode())
        if path == b"/bench/kept":
            kept, self._mock.kept = self._mock.kept, []
            return form.plain(json.dumps(kept).encode())
        return form.plain(b"", 404)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None:
            self._answer.abandon()

    def pause_writing(self) -> None:
        if self._answer is not None:
            self._answer.pause()

    def resume_writing(self) -> None:
        if self._answer is not None:
            self._answer.resume()


async def serve(port: int, fault: str = "") -> None:
    """Answers on 127.0.0.1 until it is cancelled."""
    mock = Mock(fault)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(mock), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), *sys.argv[2:3]))
