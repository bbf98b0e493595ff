"""One module per engine: OpenAI's words to the engine's, and back.

Attributes of the shapes below are what the rest of the gateway knows of a generation, whatever the engine. `Dialect` is
what gateway/upstream.py needs of an engine; each module here is one. Which of them is spoken is said by the engine's
name in GATEWAY_UPSTREAMS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import GatewayError


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; `arguments` is JSON as text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class PromptMessage:
    """One message for the model.

    Attributes:
        role: system, user, assistant or tool.
        tool_calls: what an assistant's message asked for.
        tool_call_id: which call a tool's message answers.
    """

    role: str
    text: str
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True)
class AnswerFormat:
    """What form the answer must have: `schema` or `regex`, or any JSON object when both are None."""

    schema: Mapping[str, Any] | None = None
    regex: str | None = None
    name: str = "answer"
    strict: bool | None = None


@dataclass(frozen=True)
class Prompt:
    """What to generate.

    Attributes:
        max_tokens: of the answer, at most.
        raw: a text to continue as it is, in place of messages (legacy completions).
        native: TGI's own parameters, when `raw` is to be generated from in TGI's own way.
        is_limited: False when nobody asked for a limit; `max_tokens` is then the whole context, prompt included.
        stop: texts that end the answer and are left out of it.
        temperature, top_p, top_k, min_p, repetition_penalty, seed, presence_penalty, frequency_penalty: None means
            OpenAI's default (temperature 1, top_p 1, everything else neutral).
        must_call: names of tools of which the model has to call one; when empty it may, or not.
        top_logprobs: log probabilities of each token, and of so many likeliest; None means none at all.
        continues: the last message is the beginning of the answer.
    """

    messages: Sequence[PromptMessage]
    max_tokens: int
    raw: str | None = None
    native: Mapping[str, Any] | None = None
    is_limited: bool = True
    stop: Sequence[str] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: Sequence[Tool] = ()
    must_call: Sequence[str] = ()
    parallel_tool_calls: bool | None = None
    response_format: AnswerFormat | None = None
    top_logprobs: int | None = None
    continues: bool = False


@dataclass(frozen=True)
class Usage:
    """Tokens, as the engine counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class ToolCallDelta:
    """What an event adds to the call number `index`; `id` and `name` come with its first."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Chunk:
    """One event of an answer, decoded.

    Attributes:
        logprobs: OpenAI's objects, one for each token; of a native generation TGI's.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    tool_calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Count:
    """A question to the engine whose answer says a number of tokens.

    Attributes:
        read: the number in the answer's body; raises msgspec.DecodeError when there is none.
    """

    path: str
    body: bytes
    read: Callable[[bytes], int]


class Repair(Protocol):
    """One answer's events on their way to OpenAI's form; made anew for each answer."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to repair, so that the events pass untouched from now on."""

    @property
    def is_over(self) -> bool:
        """Whether the answer was ended here, since the engine did not end it where it should."""

    def patched(self, payload: bytes) -> bytes | None:
        """The event to hand on in place of `payload`, or None for none."""

    def may_pass(self, events: int) -> bool:
        """Whether the next `events` events, which only add text, may be patched without it, as the one before them was.

        When it says so, it counts them.
        """

    def usage_event(self, prompt_tokens: int) -> bytes:
        """The usage of an answer that was ended here."""

    def ending(self) -> list[bytes]:
        """What is still to be handed on when the engine has said `[DONE]`. Raises GatewayError for a cut answer."""


class Dialect(Protocol):
    """An engine's words. `model` is the id that callers know; answers carry it too."""

    @property
    def CHAT_PATH(self) -> str: ...

    @property
    def COMPLETIONS_PATH(self) -> str: ...

    @property
    def HEALTH_PATH(self) -> str: ...

    @property
    def KEEPS_CONNECTIONS(self) -> bool:
        """Whether the engine takes connections that stay open between requests without holding a thread for each."""

    @property
    def MAY_END_WITHOUT_DONE(self) -> bool:
        """Whether an answer may be whole without `[DONE]`, when it has a finish_reason and HTTP says that it ended."""

    def chat_body(self, prompt: Prompt, model: str) -> bytes:
        """The request, always streamed. Raises InvalidRequest for what the engine cannot do."""

    def repair(self, prompt: Prompt, model: str) -> Repair | None:
        """What makes OpenAI's form of this answer's events; None when they have it."""

    def decode(self, payload: bytes) -> Chunk:
        """One event of the stream. Raises GatewayError when it reports an error or cannot be read."""

    def is_plain_delta(self, payload: bytes) -> bool:
        """Whether an event surely adds text only. Cheap, and never wrongly true."""

    def count(self, text: str, model: str) -> Count | int:
        """How to learn the tokens of `text`, without what a chat template adds; or an estimate from above."""

    def count_chat(self, prompt: Prompt, model: str) -> Count | int:
        """The same of a whole prompt with its template."""

    def is_healthy(self, body: bytes) -> bool:
        """Whether a 200 of the health check, with this body, means that completions can be served."""

    def refusal(self, status: int, body: bytes) -> GatewayError:
        """Our error for an answer that is no stream."""
