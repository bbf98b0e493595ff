"""What the engines' streams have in common: OpenAI's chat completion chunks, and the ways to report an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import msgspec

from gateway.dialects import Chunk, ToolCallDelta, Usage
from gateway.errors import GatewayError, InvalidRequest, Overloaded, TooLarge, UpstreamFailed, UpstreamNotReady

FAILURES = frozenset({"abort", "error", "parse_error"})
"""Reasons to finish that mean that the engine failed (LMDeploy)."""
MESSAGE_CHARS = 500


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class CallDelta(msgspec.Struct):
    """A piece of a tool call as it is on the wire."""

    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class _Logprobs(msgspec.Struct):
    """Of chats, `content`; of legacy completions four lists of one length."""

    content: list[dict[str, Any]] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(msgspec.Struct):
    """One choice of a chunk; `text` instead of a delta in those of legacy completions."""

    delta: _Delta | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        if self.delta is None and self.text is None:
            raise ValueError("neither delta nor text")  # msgspec makes its own error of it

    @property
    def added(self) -> str:
        """The text that it adds."""
        return (self.delta.content if self.delta is not None else self.text) or ""

    @property
    def calls(self) -> Sequence[CallDelta]:
        """The pieces of tool calls that it adds."""
        return (self.delta.tool_calls if self.delta is not None else None) or ()

    @property
    def tokens(self) -> Sequence[Mapping[str, Any]]:
        """The log probabilities of its tokens."""
        found = self.logprobs
        if found is None:
            return ()
        if not found.tokens:
            return found.content or ()
        values = zip_longest(found.tokens, found.token_logprobs or [], found.top_logprobs or [])
        return [
            {
                "token": token,
                "logprob": logprob,
                "top_logprobs": [{"token": name, "logprob": value} for name, value in (others or {}).items()],
            }
            for token, logprob, others in values
        ]


class Event(msgspec.Struct):
    """A chunk as it is on the wire, as far as we look at it."""

    choices: list[Choice] = []
    usage: _Usage | None = None
    error: Any = None
    id: Any = None
    model: Any = None


@dataclass(frozen=True)
class Fault:
    """An engine's own words for an error. `code` is an HTTP status where it is a number."""

    message: str
    kind: str = ""
    code: int | str | None = None


read_event = msgspec.json.Decoder(Event).decode
"""Raises msgspec.DecodeError or UnicodeDecodeError."""


def decode(payload: bytes, error_of: Callable[[Any, int | None], GatewayError]) -> Chunk:
    """One event of the stream.

    Args:
        error_of: our error for the value of the event's `error`.

    Raises:
        GatewayError: the event reports an error, or is no chunk.
    """
    try:
        event = read_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamFailed("The inference server sent an event that cannot be read. Try again.") from None
    if event.error is not None:
        raise error_of(event.error, None)
    usage = usage_of(event)
    if not event.choices:
        return Chunk(usage=usage)
    choice = event.choices[0]
    if choice.finish_reason in FAILURES:
        raise failed()
    if not (calls := choice.calls):
        return Chunk(choice.added, choice.finish_reason, usage, logprobs=choice.tokens)
    pieces = [ToolCallDelta(call.index, call.function.arguments or "", call.id, call.function.name) for call in calls]
    return Chunk(choice.added, choice.finish_reason, usage, pieces, choice.tokens)


def usage_of(event: Event) -> Usage | None:
    """The usage that an event tells."""
    if event.usage is None:
        return None
    details = event.usage.prompt_tokens_details
    return Usage(
        input_tokens=event.usage.prompt_tokens,
        output_tokens=event.usage.completion_tokens,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
    )


def is_plain_delta(payload: bytes) -> bool:
    """Whether an event surely adds text only: no end, usage, error or call. Cheap, and never wrongly true.

    `"finish_reason":null` stands unescaped only as a key of the event itself, since quotes in texts are escaped.
    """
    return (
        b'"finish_reason":null' in payload
        and b'"usage":{' not in payload
        and b'"error":' not in payload
        and b'"tool_calls":[{' not in payload
        and b'"logprobs":{' not in payload
    )


def usage_object(usage: Usage) -> dict[str, Any]:
    """A completion's usage in OpenAI's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def parse_fault(body: bytes) -> Fault:
    """The error in a body: nested as OpenAI's, flat as LMDeploy's and TGI's, FastAPI's `detail`, or plain text."""
    try:
        return fault_of(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Fault(body[: 4 * MESSAGE_CHARS].decode(errors="replace")[:MESSAGE_CHARS].strip())


def fault_of(error: Any) -> Fault:
    """The same from decoded JSON, or from the `error` of an event."""
    if not isinstance(error, dict):
        return Fault(str(error or "")[:MESSAGE_CHARS])
    inner = error.get("error")
    if isinstance(inner, dict):
        return fault_of(inner)
    message = next((error[key] for key in ("message", "error", "detail") if error.get(key)), "")
    kind = error.get("type") or error.get("error_type") or ""
    code = error.get("code", error.get("http_status_code"))
    return Fault(str(message)[:MESSAGE_CHARS], str(kind), code if isinstance(code, int | str) else None)


def error_by_status(status: int | None, message: str) -> GatewayError:
    """What a status means whatever the engine is."""
    if status in (400, 422):
        return InvalidRequest(f"The inference server refused the request: {message}")
    if status in (401, 403):
        return UpstreamFailed("The inference server does not accept this gateway's key. Its operator has to set it.")
    if status == 404:
        return UpstreamFailed("The inference server does not know the path or the model. Its operator has to look.")
    if status == 413:
        return TooLarge("The request is larger than the inference server takes. Shorten it.")
    if status == 429:
        return Overloaded("The inference server has too much to do. Try again in a moment.", retry_after_s=2)
    if status == 503:
        return UpstreamNotReady("The model is not ready. Try again in a moment.", retry_after_s=2)
    return failed()


def failed() -> UpstreamFailed:
    return UpstreamFailed("The inference server failed while answering. Try again.")
