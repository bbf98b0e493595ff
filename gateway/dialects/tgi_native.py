"""TGI's own generation API, `/generate_stream`, handed on as it is: for clients that speak TGI and not OpenAI.

A Prompt with `native` holds TGI's parameters, and `raw` its inputs. Always streamed with `details`, so that departures
are noticed and the usage is known. As in chats, TGI rounds up what goes beyond 1024 new tokens, so they are counted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects import Chunk, Count, Prompt, Usage, tgi
from gateway.dialects.chunks import fault_of
from gateway.errors import GatewayError, UpstreamFailed

CHAT_PATH = COMPLETIONS_PATH = "/generate_stream"
HEALTH_PATH = tgi.HEALTH_PATH
KEEPS_CONNECTIONS = True
MAY_END_WITHOUT_DONE = True
_PIECE_TOKENS = 1024


class _Token(msgspec.Struct):
    id: int
    text: str
    logprob: float | None = None
    special: bool = False


class _Details(msgspec.Struct):
    finish_reason: str
    generated_tokens: int
    seed: int | None = None
    input_length: int | None = None


class _Counted(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Event(msgspec.Struct):
    token: _Token | None = None
    top_tokens: list[_Token] | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: Any = None
    usage: _Counted | None = None


_read = msgspec.json.Decoder(_Event).decode


def chat_body(prompt: Prompt, model: str) -> bytes:
    return msgspec.json.encode({"inputs": prompt.raw, "parameters": {**(prompt.native or {}), "details": True}})


def decode(payload: bytes) -> Chunk:
    """One event of the stream. Its token, in TGI's form, stands in `logprobs`; that of the last has the `details`.

    Raises:
        GatewayError: the event reports an error, or is none of TGI's.
    """
    try:
        event = _read(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamFailed("The inference server sent an event that cannot be read. Try again.") from None
    if event.error is not None:
        raise tgi.error_of(fault_of(event.error), None)
    if event.usage is not None:
        return Chunk(usage=Usage(event.usage.prompt_tokens, event.usage.completion_tokens))
    if event.token is None:
        raise UpstreamFailed("The inference server sent an event that is none of TGI's. Try again.")
    token = msgspec.to_builtins(event.token)
    if event.top_tokens:
        token["top_tokens"] = msgspec.to_builtins(event.top_tokens)
    text = "" if event.token.special else event.token.text
    if event.generated_text is None:
        return Chunk(text, logprobs=[token])
    details = event.details
    if details is None:
        return Chunk(text, "stop", logprobs=[token | {"generated_text": event.generated_text}])
    usage = None if details.input_length is None else Usage(details.input_length, details.generated_tokens)
    last = {"generated_text": event.generated_text, "details": msgspec.to_builtins(details)}
    return Chunk(text, details.finish_reason, usage, logprobs=[token | last])


def is_plain_delta(payload: bytes) -> bool:
    return b'"generated_text":null' in payload and b'"error":' not in payload


class LimitRepair:
    """Ends an answer at `max_tokens` events, where TGI would go on to the next multiple of 1024."""

    is_done = False

    def __init__(self, max_tokens: int) -> None:
        self.is_over = False
        self._max_tokens = max_tokens
        self._texts: list[str] = []
        self._count = 0

    def patched(self, payload: bytes) -> bytes | None:
        try:
            event = _read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return payload  # whoever decodes it says so
        if event.token is None:
            return payload
        self._count += 1
        self._texts.append("" if event.token.special else event.token.text)
        if self._count < self._max_tokens or event.generated_text is not None:
            return payload
        self.is_over = True
        event.generated_text = "".join(self._texts)
        event.details = _Details("length", self._count)
        written = msgspec.to_builtins(event)
        shown = {name: written[name] for name in ("token", "generated_text", "details")}
        return msgspec.json.encode({"index": self._count, **shown})

    def may_pass(self, events: int) -> bool:
        return False

    def usage_event(self, prompt_tokens: int) -> bytes:
        return msgspec.json.encode({"usage": {"prompt_tokens": prompt_tokens, "completion_tokens": self._count}})

    def ending(self) -> list[bytes]:
        return []


def repair(prompt: Prompt, model: str) -> LimitRepair | None:
    is_long = prompt.is_limited and prompt.max_tokens > _PIECE_TOKENS
    return LimitRepair(prompt.max_tokens) if is_long else None


def count(text: str, model: str) -> Count:
    return tgi.count(text, model)


def count_chat(prompt: Prompt, model: str) -> Count:
    return tgi.count(prompt.raw or "", model)


def is_healthy(body: bytes) -> bool:
    return tgi.is_healthy(body)


def refusal(status: int, body: bytes) -> GatewayError:
    return tgi.refusal(status, body)
