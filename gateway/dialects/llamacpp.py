"""llama.cpp's server. What it swallows (unknown roles, temperature -1, no max_tokens …) is refused before, in schemas.

Its wire form: https://github.com/ggml-org/llama.cpp/tree/master/tools/server#readme
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects import Chunk, Prompt, Usage
from gateway.errors import ContextTooLong, GatewayError, InvalidRequest, UpstreamFailed, UpstreamNotReady

CHAT_PATH = "/v1/chat/completions"
TOKENIZE_PATH = "/tokenize"
HEALTH_PATH = "/health"
_SEEDS = (1 << 32) - 1  # 2**32 - 1 itself means "random" to llama.cpp


def chat_body(prompt: Prompt, model: str) -> bytes:
    """The request. Always streamed, since llama.cpp runs a plain request to its end after the caller has gone."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": text} for role, text in prompt.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": prompt.max_tokens,
        # OpenAI's defaults; llama.cpp's own are 0.8, 0.95, 40 and 0.05.
        "temperature": 1.0 if prompt.temperature is None else prompt.temperature,
        "top_p": 1.0 if prompt.top_p is None else prompt.top_p,
        "top_k": prompt.top_k or 0,
        "min_p": prompt.min_p or 0.0,
    }
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.seed is not None:
        body["seed"] = prompt.seed % _SEEDS
    if prompt.repetition_penalty is not None:
        body["repeat_penalty"] = prompt.repetition_penalty
    if prompt.presence_penalty:
        body["presence_penalty"] = prompt.presence_penalty
    if prompt.frequency_penalty:
        body["frequency_penalty"] = prompt.frequency_penalty
    return msgspec.json.encode(body)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


def decode(payload: bytes) -> Chunk:
    """One event of the stream.

    Raises:
        GatewayError: the event reports an error, or is not what llama.cpp sends.
    """
    try:
        event = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamFailed("The inference server sent an event that cannot be read. Try again.") from None
    if event.error is not None:
        raise error_of(event.error, None)
    usage = None
    if event.usage is not None:
        details = event.usage.prompt_tokens_details
        usage = Usage(
            input_tokens=event.usage.prompt_tokens,
            output_tokens=event.usage.completion_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
        )
    if not event.choices:
        return Chunk(usage=usage)
    choice = event.choices[0]
    return Chunk(text=choice.delta.content or "", finish_reason=choice.finish_reason, usage=usage)


def is_plain_delta(payload: bytes) -> bool:
    """Whether an event surely adds text only: no end, no usage, no error. Cheap, and never wrongly true.

    `"finish_reason":null` stands unescaped only as a key of the event itself, since quotes in texts are escaped.
    """
    return b'"finish_reason":null' in payload and b'"usage":{' not in payload and b'"error":' not in payload


def error_of(error: Any, status: int | None) -> GatewayError:
    """Our error for one of llama.cpp's, from a body's or an event's `error` and the answer's status."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    kind, message = fields.get("type"), str(fields.get("message", ""))[:500]
    code = status or fields.get("code")
    if kind == "exceed_context_size_error":
        return ContextTooLong(
            f"The messages have {fields.get('n_prompt_tokens')} tokens, and the model's context takes "
            f"{fields.get('n_ctx')} for messages and answer together. Shorten them.",
            param="messages",
        )
    if code == 503 or kind == "unavailable_error":
        return UpstreamNotReady("The model is still being loaded. Try again in a moment.", retry_after_s=2)
    if code == 400:
        return InvalidRequest(f"The inference server refused the request: {message}")
    return UpstreamFailed("The inference server failed while answering. Try again.")
