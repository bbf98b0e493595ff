"""OpenAI's chat completions: what a request asks of the model, and the object that its answer becomes.

Shapes: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gateway.dialects import (
    AnswerFormat,
    Chunk,
    Prompt,
    PromptMessage,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from gateway.dialects.chunks import usage_object
from gateway.dialects.events import legacy_logprobs
from gateway.prompt import require_plausible
from gateway.response_schemas import ResponseRequest
from gateway.schemas import ChatRequest, CompletionMessage, CompletionRequest, Sampling
from gateway.tool_schemas import ChatTool, ResponseFormat

LEGACY_MAX_TOKENS = 16
"""OpenAI's default for the older completions."""


def chat_prompt(request: ChatRequest, context_tokens: int) -> Prompt:
    """What the model is asked for.

    Raises:
        ContextTooLong: a text that cannot fit, which shows before anybody counts it.
    """
    require_plausible(sum(_size(message) for message in request.messages), context_tokens, "messages")
    asked = request.max_completion_tokens or request.max_tokens
    tools = tools_of(request)
    return Prompt(
        messages=[_prompt_message(message) for message in request.messages],
        max_tokens=min(asked or context_tokens, context_tokens),
        is_limited=asked is not None,
        tools=tools,
        must_call=called_by(request.choice, tools),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_format(request.response_format),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        **_shared(request),
    )


def text_prompt(request: CompletionRequest, context_tokens: int) -> Prompt:
    """The same of a legacy completion. Its text goes to the engine as it is: whoever writes it writes the template too.

    Raises:
        ContextTooLong: a text that cannot fit.
    """
    text = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    require_plausible(len(text.encode()), context_tokens, "prompt")
    return Prompt(
        messages=[],
        raw=text,
        max_tokens=min(request.max_tokens or LEGACY_MAX_TOKENS, context_tokens),
        top_logprobs=request.logprobs,
        **_shared(request),
    )


def tools_of(request: ChatRequest | ResponseRequest) -> list[Tool]:
    """The functions that the model may call."""
    if request.choice == "none" or not request.tools:
        return []
    functions = [tool.function if isinstance(tool, ChatTool) else tool for tool in request.tools]
    return [Tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in functions]


def called_by(choice: str | None, tools: Sequence[Tool]) -> list[str]:
    """Which functions `tool_choice` demands a call of one of."""
    if choice in (None, "none", "auto"):
        return []
    return [tool.name for tool in tools if choice in ("required", tool.name)]


def _size(message: CompletionMessage) -> int:
    """In bytes."""
    calls = sum(len(call.function.arguments.encode()) for call in message.tool_calls or ())
    return len(message.text.encode()) + calls


def _prompt_message(message: CompletionMessage) -> PromptMessage:
    calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return PromptMessage(engine_role(message.role), message.text, calls, message.tool_call_id)


def _format(wanted: ResponseFormat | None) -> AnswerFormat | None:
    if wanted is None or wanted.type == "text":
        return None
    if isinstance(wanted.value, str):
        return AnswerFormat(regex=wanted.value)
    name, strict = (wanted.json_schema.name, wanted.json_schema.strict) if wanted.json_schema else (None, None)
    return AnswerFormat(schema=wanted.schema_of_answer, name=name or "answer", strict=strict)


def text_format(request: ResponseRequest) -> AnswerFormat | None:
    """The form that `text.format` demands."""
    wanted = request.text.format if request.text else None
    if wanted is None or wanted.type == "text":
        return None
    return AnswerFormat(schema=wanted.schema_, name=wanted.name or "answer", strict=wanted.strict)


def _shared(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    return {
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop or [],
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        **sampling_of(request),
    }


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

    def add(self, texts: Sequence[str]) -> None:
        """Adds events that each only add a piece of text."""

    def as_object(self, unique: str, model: str) -> Any:
        """The whole answer; `unique` makes its id."""


class CollectedCompletion:
    """The `chat.completion` of a streamed answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._calls = CollectedCalls()
        self._tokens: list[Mapping[str, Any]] = []
        self._usage: Usage | None = None
        self._finish_reason: str | None = None

    def take(self, chunk: Chunk) -> None:
        self._texts.append(chunk.text)
        self._calls.take(chunk.tool_calls)
        self._tokens += chunk.logprobs
        self._usage = chunk.usage or self._usage
        self._finish_reason = chunk.finish_reason or self._finish_reason

    def add(self, texts: Sequence[str]) -> None:
        self._texts.extend(texts)

    def as_object(self, unique: str, model: str) -> dict[str, Any]:
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls := self._calls.whole():
            message["content"] = text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._tokens, "refusal": None} if self._tokens else None,
            "finish_reason": self._finish_reason,
        }
        return _completion(f"chatcmpl-{unique}", "chat.completion", model, choice, self._usage)


class CollectedText:
    """The `text_completion` of a streamed answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens: list[Mapping[str, Any]] = []
        self._usage: Usage | None = None
        self._finish_reason: str | None = None

    def take(self, chunk: Chunk) -> None:
        self._texts.append(chunk.text)
        self._tokens += chunk.logprobs
        self._usage = chunk.usage or self._usage
        self._finish_reason = chunk.finish_reason or self._finish_reason

    def add(self, texts: Sequence[str]) -> None:
        self._texts.extend(texts)

    def as_object(self, unique: str, model: str) -> dict[str, Any]:
        choice = {
            "index": 0,
            "text": "".join(self._texts),
            "logprobs": legacy_logprobs(self._tokens) if self._tokens else None,
            "finish_reason": self._finish_reason,
        }
        return _completion(f"cmpl-{unique}", "text_completion", model, choice, self._usage)


class CollectedCalls:
    """Tool calls, put together from their pieces."""

    def __init__(self) -> None:
        self._calls: dict[int, ToolCall] = {}

    def take(self, pieces: Sequence[ToolCallDelta]) -> None:
        for piece in pieces:
            known = self._calls.get(piece.index) or ToolCall("", "", "")
            self._calls[piece.index] = ToolCall(
                piece.id or known.id, piece.name or known.name, known.arguments + piece.arguments
            )

    def whole(self) -> list[ToolCall]:
        """The calls in their order."""
        return [call for _, call in sorted(self._calls.items())]


def _completion(unique: str, kind: str, model: str, choice: dict[str, Any], usage: Usage | None) -> dict[str, Any]:
    return {
        "id": unique,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage_object(usage) if usage is not None else None,
    }
