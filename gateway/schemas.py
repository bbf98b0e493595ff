"""The wire types of requests, after OpenAI's API reference (platform.openai.com/docs/api-reference).

Every parameter that OpenAI's chat completions or responses know is either a typed field here (honoured), or stands in
PARAMETERS as accepted without effect, or as refused unless its value is one that changes nothing. A field that is in
neither place is refused by name. Nothing that would change the answer is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gateway.schema_base import Identifier, Metadata, NonEmptyText, Text, Wire
from gateway.tool_schemas import (
    MAX_TOOLS,
    ChatTool,
    Choice,
    MessageToolCall,
    NamedChatTool,
    ResponseFormat,
    require_known_tool,
)

ACCEPTED = object()
"""Marks a parameter that is taken and has no effect here."""

# name -> the values that change nothing (anything else is refused), or ACCEPTED
PARAMETERS: dict[str, Any] = {
    "user": ACCEPTED,
    "safety_identifier": ACCEPTED,
    "prompt_cache_key": ACCEPTED,
    "prompt_cache_retention": ACCEPTED,
    "prompt_cache_options": ACCEPTED,
    "service_tier": ACCEPTED,
    "n": (1,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "max_tool_calls": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning": ({},),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "background_options": (),
    "prompt": (),
    "context_management": ([],),
    "moderation": (),
    "access_programs": (),
    "image": ({},),
}


class TextPart(Wire):
    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: list[Any] = Field(default_factory=list, max_length=0, exclude=True)
    logprobs: list[Any] = Field(default_factory=list, exclude=True)


def _text_parts_only(value: Any) -> Any:
    if isinstance(value, list):
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind not in ("text", "input_text", "output_text"):
                raise PydanticCustomError(
                    "text_only",
                    "Content of type '{kind}' is not supported: this model reads text only.",
                    {"kind": ascii(kind[:40])[1:-1]},
                )
    return value


Parts = Annotated[list[TextPart], Field(min_length=1)]
Content = Annotated[Text | Parts, BeforeValidator(_text_parts_only)]


def text_of(content: str | list[TextPart]) -> str:
    """A message's text; parts are joined as they are."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class ChatMessage(Wire):
    """A message that somebody wrote: of a chat, or an input item of a response."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.role != "assistant" and not text_of(self.content).strip():
            raise PydanticCustomError("empty_message", "The message is empty; write something.", {})
        return self

    @property
    def text(self) -> str:
        return text_of(self.content)


def _known_role(value: Any) -> Any:
    if value == "function":
        raise PydanticCustomError("role", "The role 'function' is OpenAI's old name for 'tool', which is known.", {})
    return value


class CompletionMessage(Wire):
    """A message of a chat completion. What OpenAI's answers carry besides is taken when they are sent back."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_known_role)]
    content: Content | None = None
    name: Identifier | None = Field(default=None, description="accepted without effect")
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Identifier | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> CompletionMessage:
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool_calls", "Only messages of the assistant have 'tool_calls'.", {})
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise PydanticCustomError(
                "tool_call_id", "Messages of the role 'tool', and only those, have a 'tool_call_id'.", {}
            )
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("empty_message", "The message has no content; write something.", {})
        if self.role not in ("assistant", "tool") and not self.text.strip():
            raise PydanticCustomError("empty_message", "The message is empty; write something.", {})
        return self

    @property
    def text(self) -> str:
        return text_of(self.content or "")


def settle_parameters(data: Any, own: Container[str]) -> Any:
    """Takes out the parameters of PARAMETERS that change nothing here; refuses the others by name.

    `own` are the request's fields, which may have the same names.
    """
    if not isinstance(data, dict):
        return data
    kept = {}
    for name, value in data.items():
        if name not in PARAMETERS or name in own:
            kept[name] = value
            continue
        neutral = PARAMETERS[name]
        if neutral is not ACCEPTED and value is not None and not _is_one_of(value, neutral):
            raise PydanticCustomError(
                "unsupported_parameter", "'{name}' is not supported with this value in this version.", {"name": name}
            )
    return kept


def _is_one_of(value: Any, candidates: tuple[Any, ...]) -> bool:
    return any(type(value) is type(candidate) and value == candidate for candidate in candidates)


class Sampling(Wire):
    """What both kinds of requests say about sampling. Absent values mean OpenAI's defaults."""

    model: Text | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(
        default=None, ge=0, le=1_000_000, description="ours: keep the k likeliest tokens; 0 = all"
    )
    min_p: float | None = Field(default=None, ge=0, le=1, description="ours")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="ours")
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stream: bool | None = None


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


StopText = Annotated[NonEmptyText, StringConstraints(max_length=256)]


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: list[CompletionMessage] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    tools: Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | NamedChatTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    store: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, data: Any) -> Any:
        return settle_parameters(data, cls.model_fields)

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "'stream_options' needs 'stream': true.", {})
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> ChatRequest:
        require_known_tool(self.choice, [tool.function.name for tool in self.tools or ()])
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("logprobs", "'top_logprobs' needs 'logprobs': true.", {"name": "top_logprobs"})
        asked: set[str] = set()
        for n, message in enumerate(self.messages):
            if message.tool_call_id is not None and message.tool_call_id not in asked:
                raise PydanticCustomError(
                    "tool_call_id",
                    "'messages.{n}.tool_call_id' answers no call of a message before it.",
                    {"n": n, "name": f"messages.{n}.tool_call_id"},
                )
            asked.update(call.id for call in message.tool_calls or ())
        return self

    @property
    def choice(self) -> str | None:
        """`tool_choice`; of a named function its name."""
        return self.tool_choice.function.name if isinstance(self.tool_choice, NamedChatTool) else self.tool_choice

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Sampling):
    """`POST /v1/completions`, OpenAI's older API: a text to go on with, without a chat template."""

    prompt: NonEmptyText | Annotated[list[NonEmptyText], Field(min_length=1, max_length=1)]
    max_tokens: int | None = Field(default=None, ge=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, data: Any) -> Any:
        return settle_parameters(data, cls.model_fields)

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class UpstreamUpdate(Wire):
    """`POST /v1/upstreams/{id}` (ours)."""

    draining: bool


KeyName = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
KeyLimit = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1, description="Unix seconds")]


class KeyLimits(Wire):
    """What a key may have of its own: requests and tokens a minute, tokens a day, answers at once; and its end."""

    rpm: KeyLimit | None = None
    tpm: KeyLimit | None = None
    tpd: KeyLimit | None = None
    streams: KeyLimit | None = None
    expires_at: Seconds | None = None


class KeyCreate(KeyLimits):
    """`POST /v1/keys` (ours)."""

    name: KeyName
    scopes: list[Literal["chat", "admin", "on_behalf_of"]] = Field(default=["chat"], min_length=1, max_length=3)


class KeyChange(KeyLimits):
    """`POST /v1/keys/{id}` (ours): what is absent stays; null takes a limit or the end away."""

    name: KeyName = ""

    @model_validator(mode="after")
    def _says_something(self) -> KeyChange:
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "Say what to change: name, rpm, tpm, tpd, streams or expires_at.", {})
        return self


class KeyRotate(Wire):
    """`POST /v1/keys/{id}/rotate` (ours): how long the old secret works on, at most 30 days."""

    grace_s: Annotated[int, Field(ge=0, le=30 * 86400)] = 0
