"""Text Generation Inference 3, its chat completions.

Its own ways, seen on a real one (tests/recorded/tgi): top_p must be below 1; presence_penalty is a repetition penalty
moved by two; a stop text stays in the answer, and one that ends inside a token is missed; above 1024, max_tokens is
rounded up to a multiple of it; ids are empty; in a stream every error is a 200 with code 422, followed by `[DONE]`.
Its wire form: https://huggingface.github.io/text-generation-inference
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec

from gateway.dialects import Chunk, Count, Prompt, PromptMessage, chunks
from gateway.dialects.any_object import ANY_OBJECT
from gateway.dialects.chunks import Fault, error_by_status, failed, fault_of, parse_fault
from gateway.dialects.repair import ChunkRepair
from gateway.dialects.requests import (
    NO_PARAMETERS,
    not_supported,
    question_of,
    refuse_logprobs,
    require_neutral,
    tools_of,
)
from gateway.dialects.schema_refs import inlined
from gateway.errors import ContextTooLong, GatewayError, InvalidRequest, Overloaded, UpstreamFailed

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
HEALTH_PATH = "/health"
KEEPS_CONNECTIONS = True
MAY_END_WITHOUT_DONE = False
_NAME = "TGI"
_NO_TOOL = "no_tool"
_MOST_TOP_LOGPROBS = 5
_SEEDS = 1 << 64
_PENALTY_SHIFT = 2.0
_TOO_LONG = (
    re.compile(r"must have less than (?P<limit>\d+) tokens\. Given: (?P<given>\d+)"),
    re.compile(r"must be <= (?P<limit>\d+)\. Given: (?P<given>\d+) `inputs` tokens"),
)


def chat_body(prompt: Prompt, model: str) -> bytes:
    """The request. A field that TGI does not take in OpenAI's neutral form is left out."""
    require_neutral(prompt, "TGI", "top_k", "min_p", "presence_penalty")
    body: dict[str, Any] = {
        "model": model,
        **_question(prompt),
        **_tools(prompt),
        **_format(prompt),
        **_logprobs(prompt),
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0 if prompt.temperature is None else prompt.temperature,
    }
    if prompt.is_limited:  # else all that the context leaves, which is TGI's default
        body["max_tokens"] = prompt.max_tokens
    if prompt.top_p is not None and prompt.top_p < 1:
        body["top_p"] = prompt.top_p
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.seed is not None:
        body["seed"] = prompt.seed % _SEEDS
    if prompt.repetition_penalty is not None:
        if prompt.raw is None:
            body["presence_penalty"] = prompt.repetition_penalty - _PENALTY_SHIFT
        else:
            body["repetition_penalty"] = prompt.repetition_penalty
    if prompt.frequency_penalty:
        body["frequency_penalty"] = prompt.frequency_penalty
    return msgspec.json.encode(body)


def repair(prompt: Prompt, model: str) -> ChunkRepair:
    return ChunkRepair(model, prompt, max_tokens=prompt.max_tokens if prompt.is_limited else None)


def _question(prompt: Prompt) -> dict[str, Any]:
    """A message with both text and calls loses the calls, so it is sent as two."""
    parted: list[PromptMessage] = []
    for message in prompt.messages:
        if message.tool_calls and message.text:
            parted += [replace(message, tool_calls=()), replace(message, text="")]
        else:
            parted.append(message)
    return question_of(replace(prompt, messages=parted))


def _tools(prompt: Prompt) -> dict[str, Any]:
    """Of a schema only `properties` and `required` reach the grammar, so references are written out.

    Raises:
        InvalidRequest: beside a response_format, or a tool has the name that TGI keeps for "none of them".
    """
    if not prompt.tools:
        return {}
    if prompt.response_format is not None:
        raise not_supported("response_format", _NAME, "'tools' beside it")
    last = prompt.messages[-1]
    if last.role == "assistant" and last.text:  # TGI writes the tools behind it (router/src/infer/chat_template.rs)
        raise not_supported("tools", _NAME, "an answer of the assistant that is to go on")
    if any(tool.name == _NO_TOOL for tool in prompt.tools):
        raise not_supported("tools", _NAME, f"a function named '{_NO_TOOL}'")
    tools = [replace(tool, parameters=inlined(tool.parameters or NO_PARAMETERS, "tools")) for tool in prompt.tools]
    return tools_of(replace(prompt, tools=tools))


def _format(prompt: Prompt) -> dict[str, Any]:
    """TGI's own form, whose schema needs `properties`; any JSON object is a regular expression to it."""
    wanted = prompt.response_format
    if wanted is None:
        return {}
    if wanted.schema is None:
        return {"response_format": {"type": "regex", "value": wanted.regex or ANY_OBJECT}}
    schema = inlined(wanted.schema, "response_format")
    if not isinstance(schema.get("properties"), dict):
        raise not_supported("response_format", _NAME, "a schema that has no 'properties' at its top")
    return {"response_format": {"type": "json_schema", "value": {"name": wanted.name, "schema": schema}}}


def _logprobs(prompt: Prompt) -> dict[str, Any]:
    if prompt.top_logprobs is None:
        return {}
    if prompt.raw is not None:
        refuse_logprobs(prompt, _NAME)
    if prompt.top_logprobs > _MOST_TOP_LOGPROBS:
        raise not_supported("top_logprobs", _NAME, f"more than {_MOST_TOP_LOGPROBS}")
    return {"logprobs": True, "top_logprobs": prompt.top_logprobs} if prompt.top_logprobs else {"logprobs": True}


def decode(payload: bytes) -> Chunk:
    """One event of the stream. Raises what it reports; its status says nothing, being 422 always."""
    return chunks.decode(payload, lambda error, _: error_of(fault_of(error), None))


is_plain_delta = chunks.is_plain_delta


class _Token(msgspec.Struct):
    start: int
    stop: int


class _Templated(msgspec.Struct):
    tokenize_response: list[_Token]


def count(text: str, model: str) -> Count:
    return Count("/tokenize", msgspec.json.encode({"inputs": text}), _tokens_in)


def count_chat(prompt: Prompt, model: str) -> Count:
    if prompt.raw is not None:
        return count(prompt.raw, model)
    body = msgspec.json.encode({"model": model, **_question(prompt), **_tools(prompt)})
    return Count("/chat_tokenize", body, lambda answer: len(_templated(answer).tokenize_response))


def _tokens_in(body: bytes) -> int:
    """Entries, not texts: the tokens of one character all carry the whole of it. A bos that was added has no place."""
    return sum(token.stop > token.start for token in msgspec.json.decode(body, type=list[_Token]))


def _templated(body: bytes) -> _Templated:
    return msgspec.json.decode(body, type=_Templated)


def is_healthy(body: bytes) -> bool:
    return True


def refusal(status: int, body: bytes) -> GatewayError:
    return error_of(parse_fault(body), status)


def error_of(fault: Fault, status: int | None) -> GatewayError:
    """Our error for one of TGI's: by its words, which are the same in a body and in an event."""
    text = fault.message
    for pattern in _TOO_LONG:
        if found := pattern.search(text):
            return ContextTooLong(
                f"The messages have {found['given']} tokens; the inference server takes {found['limit']}. Shorten "
                "them, or ask for a shorter answer.",
                param="messages",
            )
    if status == 429 or text.startswith("Model is overloaded"):
        return Overloaded("The inference server has too much to do. Try again in a moment.", retry_after_s=2)
    if "template not found" in text:
        return UpstreamFailed("The model has no chat template. Its operator has to give it one.")
    if text.startswith(("Input validation error: ", "Template error: ", "Failed to deserialize", "Tool error: ")):
        return InvalidRequest(
            f"The inference server refused the request: {text.removeprefix('Input validation error: ')}"
        )
    return failed() if status is None else error_by_status(status, text)
