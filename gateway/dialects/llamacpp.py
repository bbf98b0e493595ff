"""llama.cpp's server. What it swallows (unknown roles, temperature -1, no max_tokens …) is refused before, in schemas.

Its wire form: https://github.com/ggml-org/llama.cpp/tree/master/tools/server#readme
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects import Chunk, Count, Prompt, Repair, chunks
from gateway.dialects.chunks import MESSAGE_CHARS
from gateway.dialects.forced_call import ForcedCallRepair, as_forced_call
from gateway.dialects.repair import ChunkRepair, NameRepair
from gateway.dialects.requests import format_of, logprobs_of, prompt_texts, question_of, tools_of
from gateway.errors import ContextTooLong, GatewayError, InvalidRequest, UpstreamFailed, UpstreamNotReady
from gateway.prompt import MESSAGE_TOKENS, TEMPLATE_TOKENS

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
HEALTH_PATH = "/health"
KEEPS_CONNECTIONS = False  # each connection has one of its few threads
MAY_END_WITHOUT_DONE = False
_SEEDS = (1 << 32) - 1  # 2**32 - 1 itself means "random" to llama.cpp


def chat_body(prompt: Prompt, model: str) -> bytes:
    """The request. Always streamed, since llama.cpp runs a plain request to its end after the caller has gone."""
    prompt = as_forced_call(prompt) if prompt.must_call else prompt
    body: dict[str, Any] = {
        "model": model,
        **question_of(prompt),
        **tools_of(prompt),
        **format_of(prompt, "llama.cpp"),
        **logprobs_of(prompt),
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
    if prompt.tools:
        body["parallel_tool_calls"] = prompt.parallel_tool_calls is not False  # OpenAI's default; its own is not
    return msgspec.json.encode(body)


def repair(prompt: Prompt, model: str) -> Repair:
    """A server that was started without an alias tells the model's path in every event.

    Of legacy completions the last event has usage and end in one, and log probabilities in the form of chats.
    """
    if prompt.raw is not None:
        return ChunkRepair(model, prompt, cuts_stops=False)
    if prompt.must_call:
        return ForcedCallRepair(model)
    return NameRepair(model)


def decode(payload: bytes) -> Chunk:
    """One event of the stream.

    Raises:
        GatewayError: the event reports an error, or is not what llama.cpp sends.
    """
    return chunks.decode(payload, error_of)


is_plain_delta = chunks.is_plain_delta


class _Tokens(msgspec.Struct):
    tokens: list[int]


def count(text: str, model: str) -> Count:
    return Count("/tokenize", msgspec.json.encode({"content": text}), _tokens_in)


def count_chat(prompt: Prompt, model: str) -> Count:
    """Its texts as they are, and the template's share from above: what limits are charged must not be too little."""
    question = count("\n".join(prompt_texts(prompt)), model)
    if prompt.raw is not None:
        return question
    template = TEMPLATE_TOKENS + MESSAGE_TOKENS * len(prompt.messages)
    return Count(question.path, question.body, lambda body: _tokens_in(body) + template)


def _tokens_in(body: bytes) -> int:
    return len(msgspec.json.decode(body, type=_Tokens).tokens)


def is_healthy(body: bytes) -> bool:
    return True


def refusal(status: int, body: bytes) -> GatewayError:
    try:
        error = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = None
    return error_of(error.get("error", error) if isinstance(error, dict) else error, status)


def error_of(error: Any, status: int | None) -> GatewayError:
    """Our error for one of llama.cpp's, from a body's or an event's `error` and the answer's status."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    kind, message = fields.get("type"), str(fields.get("message", ""))[:MESSAGE_CHARS]
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
