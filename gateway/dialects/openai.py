"""Any server with OpenAI's chat completions: vLLM, SGLang, Ollama, another gateway. Repairs nothing it need not.

`model` is sent as it is, so the served model has to have that name there. What is ours (top_k, min_p,
repetition_penalty) is passed on when it is given: vLLM and SGLang know it. Tokens cannot be counted without the
engine's tokenizer, so they are estimated.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.dialects import Chunk, Prompt, chunks
from gateway.dialects.chunks import Fault, error_by_status, failed, fault_of, parse_fault
from gateway.dialects.repair import NameRepair
from gateway.dialects.requests import format_of, logprobs_of, prompt_texts, question_of, tools_of
from gateway.errors import ContextTooLong, GatewayError

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
HEALTH_PATH = "/v1/models"  # the only path that all of them have
KEEPS_CONNECTIONS = True
MAY_END_WITHOUT_DONE = True
_TEMPLATE_TOKENS = 8
_CONTEXT_WORDS = re.compile(r"maximum context length|context length|context window|too many tokens", re.IGNORECASE)
_PIECES = re.compile(
    r"(?P<word>[A-Z]?[a-z]+|[A-Z]+)|(?P<space>[ \t]*\n+|[ \t]{2,})| |(?P<ascii>[!-~])|(?P<other>[^\x00-\x7f])"
)
_LETTERS_PER_TOKEN = 3


def chat_body(prompt: Prompt, model: str) -> bytes:
    """The request; streamed always, so that a caller who leaves ends it."""
    body: dict[str, Any] = {
        "model": model,
        **question_of(prompt),
        **tools_of(prompt),
        **format_of(prompt, "an OpenAI-compatible server"),
        **logprobs_of(prompt),
        "stream": True,
        "stream_options": {"include_usage": True},
        # OpenAI's defaults; vLLM's own are those of the model's generation_config.json.
        "temperature": 1.0 if prompt.temperature is None else prompt.temperature,
        "top_p": 1.0 if prompt.top_p is None else prompt.top_p,
    }
    if prompt.continues:  # vLLM and SGLang begin a new message otherwise; the other engines do so by themselves
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if prompt.is_limited:  # vLLM refuses a limit that the prompt leaves no room for
        body["max_tokens"] = prompt.max_tokens
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.seed is not None:
        body["seed"] = prompt.seed
    for name in ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        if value := getattr(prompt, name):
            body[name] = value
    if prompt.tools and prompt.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = prompt.parallel_tool_calls
    return msgspec.json.encode(body)


def repair(prompt: Prompt, model: str) -> NameRepair:
    return NameRepair(model)


def decode(payload: bytes) -> Chunk:
    """One event of the stream. Raises what it reports."""
    return chunks.decode(payload, lambda error, _: error_of(fault_of(error), None))


is_plain_delta = chunks.is_plain_delta


def count(text: str, model: str) -> int:
    """An estimate from above, for texts of any language and for code.

    A token for each three letters of a word, each digit and each sign; in other scripts one for each byte of a
    character's UTF-8 but the first. Against SmolLM2's tokenizer: English 1.4 times the truth, Python 1.65, Russian
    1.05. Too little for random letters (base64 0.75) and for scripts that a tokenizer does not know (Korean 0.7).
    """
    tokens = 0
    for piece in _PIECES.finditer(text):
        kind = piece.lastgroup
        if kind == "word":
            tokens += -(-len(piece[0]) // _LETTERS_PER_TOKEN)
        elif kind == "other":
            tokens += len(piece[0].encode()) - 1
        elif kind is not None:
            tokens += 1
    return tokens


def count_chat(prompt: Prompt, model: str) -> int:
    return sum(count(text, model) + _TEMPLATE_TOKENS for text in prompt_texts(prompt))


def is_healthy(body: bytes) -> bool:
    return True


def refusal(status: int, body: bytes) -> GatewayError:
    return error_of(parse_fault(body), status)


def error_of(fault: Fault, status: int | None) -> GatewayError:
    """Our error for one of OpenAI's shape, or of what similar servers make of it."""
    code = status or (fault.code if isinstance(fault.code, int) else None)
    is_request = code in (None, 400, 413, 422)
    if fault.code == "context_length_exceeded" or (is_request and _CONTEXT_WORDS.search(fault.message)):
        return ContextTooLong(
            f"The inference server cannot fit the messages and the answer into its context: {fault.message}",
            param="messages",
        )
    return failed() if code is None else error_by_status(code, fault.message)
