"""LMDeploy's API server.

Its own ways: stop texts work only when they are exactly one token, and replace those of the chat template, so they are
cut here and never sent; presence and frequency penalties are taken and ignored; top_k is 50 by default; every delta
has a role; error bodies are flat, and in a stream an error is followed by `[DONE]`.
Its wire form: https://lmdeploy.readthedocs.io/en/latest/llm/api_server.html
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.dialects import Chunk, Count, Prompt, chunks
from gateway.dialects.chunks import Fault, error_by_status, failed, fault_of, parse_fault
from gateway.dialects.repair import ChunkRepair
from gateway.dialects.requests import (
    format_of,
    logprobs_of,
    prompt_texts,
    question_of,
    refuse_logprobs,
    require_neutral,
    tools_of,
)
from gateway.errors import ContextTooLong, GatewayError

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
HEALTH_PATH = "/health"
KEEPS_CONNECTIONS = True
MAY_END_WITHOUT_DONE = False  # a stream that its stop has cut has a finish_reason, and no [DONE]
_SEEDS = 1 << 64
_TEMPLATE_TOKENS = 5  # around each message, and to open the answer
_TOO_LONG = re.compile(r"Input length \((?P<given>\d+)\).*context length \((?P<limit>\d+)\)")


def chat_body(prompt: Prompt, model: str) -> bytes:
    """The request. Always streamed: a plain one in the queue runs on after its caller has gone."""
    require_neutral(prompt, "LMDeploy", "presence_penalty", "frequency_penalty")
    if prompt.raw is not None:
        refuse_logprobs(prompt, "LMDeploy")
    body: dict[str, Any] = {
        "model": model,
        **question_of(prompt),
        **tools_of(prompt),
        **_format(prompt),
        **logprobs_of(prompt),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": prompt.max_tokens,
        # OpenAI's defaults; LMDeploy's own are 0.8 or the model's, and 50.
        "temperature": 1.0 if prompt.temperature is None else prompt.temperature,
        "top_p": 1.0 if prompt.top_p is None else prompt.top_p,
        "top_k": prompt.top_k or 0,
        "min_p": prompt.min_p or 0.0,
        "repetition_penalty": prompt.repetition_penalty or 1.0,
    }
    if prompt.seed is not None:
        body["seed"] = prompt.seed % _SEEDS
    return msgspec.json.encode(body)


def repair(prompt: Prompt, model: str) -> ChunkRepair:
    return ChunkRepair(model, prompt)


def _format(prompt: Prompt) -> dict[str, Any]:
    """As OpenAI's, and a form of its own for regular expressions."""
    if prompt.response_format is not None and prompt.response_format.regex is not None:
        return {"response_format": {"type": "regex_schema", "regex_schema": prompt.response_format.regex}}
    return format_of(prompt, "LMDeploy")


def decode(payload: bytes) -> Chunk:
    """One event of the stream. Raises what it reports."""
    return chunks.decode(payload, lambda error, _: error_of(fault_of(error), None))


is_plain_delta = chunks.is_plain_delta


class _Encoded(msgspec.Struct):
    length: int


def count(text: str, model: str) -> Count:
    return Count("/v1/encode", msgspec.json.encode({"input": text, "add_bos": False}), _length)


def count_chat(prompt: Prompt, model: str) -> Count:
    """Its texts as they are, and the template's share as that of InternLM2: there is no route that applies it."""
    if prompt.raw is not None:
        return count(prompt.raw, model)
    question = count("\n".join(prompt_texts(prompt)), model)
    template = _TEMPLATE_TOKENS * (len(prompt.messages) + 1)
    return Count(question.path, question.body, lambda body: _length(body) + template)


def _length(body: bytes) -> int:
    return msgspec.json.decode(body, type=_Encoded).length


def is_healthy(body: bytes) -> bool:
    """A server that was put to sleep says so with a 200, and answers nothing."""
    return b'"sleeping"' not in body


def refusal(status: int, body: bytes) -> GatewayError:
    return error_of(parse_fault(body), status)


def error_of(fault: Fault, status: int | None) -> GatewayError:
    """Our error for one of LMDeploy's; an event's has its status in `code`."""
    if found := _TOO_LONG.search(fault.message):
        return ContextTooLong(
            f"The messages have {found['given']} tokens, and the model's context takes {found['limit']} for messages "
            "and answer together. Shorten them.",
            param="messages",
        )
    code = status or (fault.code if isinstance(fault.code, int) else None)
    return failed() if code is None else error_by_status(code, fault.message)
