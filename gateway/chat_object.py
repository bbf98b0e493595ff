"""OpenAI's chat completions: what a request asks of the model, and the object that its answer becomes.

Shapes: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from gateway.dialects import Chunk, Prompt, PromptMessage, Usage
from gateway.prompt import require_plausible
from gateway.schemas import ChatRequest, Sampling


def chat_prompt(request: ChatRequest, context_tokens: int) -> Prompt:
    """What the model is asked for.

    Raises:
        ContextTooLong: a text that cannot fit, which shows before anybody counts it.
    """
    require_plausible(sum(len(m.text.encode()) for m in request.messages), context_tokens, "messages")
    asked = request.max_completion_tokens or request.max_tokens
    return Prompt(
        messages=[PromptMessage(engine_role(message.role), message.text) for message in request.messages],
        max_tokens=min(asked or context_tokens, context_tokens),
        is_limited=asked is not None,
        stop=[request.stop] if isinstance(request.stop, str) else request.stop or [],
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        **sampling_of(request),
    )


def sampling_of(request: Sampling) -> dict[str, Any]:
    """The fields of a Prompt that both kinds of requests share."""
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
    }


def engine_role(role: str) -> str:
    """The role as engines know it; `developer` is OpenAI's newer name for `system`."""
    return "system" if role == "developer" else role


class Collected(Protocol):
    """A streamed answer put together again, in the form that its route promises."""

    def take(self, chunk: Chunk) -> None:
        """Adds one event of the answer."""

    def as_object(self, unique: str, model: str) -> dict[str, Any]:
        """The whole answer; `unique` makes its id."""


class CollectedCompletion:
    """A streamed answer put together again, for a caller who did not ask for a stream."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._usage: Usage | None = None
        self._finish_reason: str | None = None

    def take(self, chunk: Chunk) -> None:
        """Adds one event of the answer."""
        self._texts.append(chunk.text)
        self._usage = chunk.usage or self._usage
        self._finish_reason = chunk.finish_reason or self._finish_reason

    def as_object(self, unique: str, model: str) -> dict[str, Any]:
        """OpenAI's `chat.completion`; `unique` makes its id."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(self._texts), "refusal": None},
            "logprobs": None,
            "finish_reason": self._finish_reason,
        }
        return {
            "id": f"chatcmpl-{unique}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": usage_of_completion(self._usage),
        }


def usage_of_completion(usage: Usage | None) -> dict[str, Any] | None:
    """OpenAI's usage of a completion."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
