"""What the engines' streams have in common: OpenAI's chat completion chunks, and the ways to report an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.dialects import Chunk, Prompt, Usage
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


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class Event(msgspec.Struct):
    """A chunk as it is on the wire, as far as we look at it."""

    choices: list[_Choice] = []
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
    if choice.finish_reason in FAILURES:
        raise failed()
    return Chunk(text=choice.delta.content or "", finish_reason=choice.finish_reason, usage=usage)


def is_plain_delta(payload: bytes) -> bool:
    """Whether an event surely adds text only: no end, no usage, no error. Cheap, and never wrongly true.

    `"finish_reason":null` stands unescaped only as a key of the event itself, since quotes in texts are escaped.
    """
    return b'"finish_reason":null' in payload and b'"usage":{' not in payload and b'"error":' not in payload


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


def require_neutral(prompt: Prompt, engine: str, *names: str) -> None:
    """Refuses parameters that the engine would ignore, or take for something else.

    Raises:
        InvalidRequest: one of them has a value that would change the answer.
    """
    for name in names:
        if getattr(prompt, name):
            raise InvalidRequest(f"'{name}' is not supported by the engine of this model ({engine}).", param=name)


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in prompt.messages]
