"""The wire types of requests, after OpenAI's API reference (platform.openai.com/docs/api-reference).

Every parameter that OpenAI's chat completions or responses know is either a typed field here (honoured), or stands in
PARAMETERS as accepted without effect, or as refused unless its value is one that changes nothing. A field that is in
neither place is refused by name. Nothing that would change the answer is dropped in silence.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

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
    "parallel_tool_calls": ACCEPTED,
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "text": ({"format": {"type": "text"}}, {}),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
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
    "include": ([],),
    "background": (False,),
    "background_options": (),
    "prompt": (),
    "context_management": ([],),
    "moderation": (),
    "access_programs": (),
    "image": ({},),
}

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _clean_text(value: Any) -> Any:
    """Refuses what neither tokenizers nor databases take: control characters and halves of surrogate pairs."""
    if isinstance(value, str):
        if found := _CONTROL.search(value):
            raise PydanticCustomError(
                "control_character",
                "The text holds the control character U+{code} at position {position}; remove it.",
                {"code": f"{ord(found[0]):04X}", "position": found.start()},
            )
        if found := _SURROGATE.search(value):
            raise PydanticCustomError(
                "surrogate",
                "The text holds half of a surrogate pair at position {position}; send valid Unicode.",
                {"position": found.start()},
            )
    return value


Text = Annotated[str, BeforeValidator(_clean_text)]
NonEmptyText = Annotated[Text, StringConstraints(min_length=1)]
Identifier = Annotated[Text, StringConstraints(min_length=1, max_length=128)]
MetadataValue = Annotated[Text, StringConstraints(max_length=512)]
MetadataKey = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


class Wire(BaseModel):
    """Base of all request bodies: exact types, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Wire):
    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: list[Any] = Field(default_factory=list, max_length=0, exclude=True)
    logprobs: list[Any] = Field(default_factory=list, max_length=0, exclude=True)


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


def _known_role(value: Any) -> Any:
    if value in ("tool", "function"):
        raise PydanticCustomError("role", "Messages with the role '{role}' are not supported yet.", {"role": value})
    return value


Role = Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_known_role)]


class ChatMessage(Wire):
    """One message of a chat, or one input item of a response."""

    role: Role
    content: Content

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.role != "assistant" and not text_of(self.content).strip():
            raise PydanticCustomError("empty_message", "The message is empty; write something.", {})
        return self

    @property
    def text(self) -> str:
        return text_of(self.content)


def _settle_parameters(data: Any) -> Any:
    """Takes out the parameters of PARAMETERS that change nothing here; refuses the others by name."""
    if not isinstance(data, dict):
        return data
    kept = {}
    for name, value in data.items():
        if name not in PARAMETERS:
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

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    store: bool | None = None

    _settle = model_validator(mode="before")(_settle_parameters)

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "'stream_options' needs 'stream': true.", {})
        return self

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class InputMessage(ChatMessage):
    """An input item; `type`, `id` and `status` come along when items of an answer are sent back."""

    type: Literal["message"] = "message"
    id: Identifier | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


Input = Annotated[Text | Annotated[list[InputMessage], Field(min_length=1, max_length=2048)], Field()]


class ConversationParam(Wire):
    id: Identifier


class ResponseRequest(Sampling):
    """`POST /v1/responses`; `max_total_tokens` (prompt and answer together) is ours."""

    input: Input
    instructions: Text | None = None
    conversation: Identifier | ConversationParam | None = None
    previous_response_id: Identifier | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_total_tokens: int | None = Field(default=None, ge=16, description="ours: prompt and answer together")
    truncation: Literal["auto", "disabled"] | None = None
    stream_options: StreamOptions | None = None

    _settle = model_validator(mode="before")(_settle_parameters)

    @model_validator(mode="after")
    def _goes_together(self) -> ResponseRequest:
        if isinstance(self.input, str) and not self.input.strip():
            raise PydanticCustomError("empty_message", "The message is empty; write something.", {})
        if self.conversation is not None and self.previous_response_id is not None:
            raise PydanticCustomError(
                "contradiction", "Give either 'conversation' or 'previous_response_id', not both.", {}
            )
        if self.conversation is not None and self.store is False:
            raise PydanticCustomError("contradiction", "'store': false cannot be used with 'conversation'.", {})
        return self

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationParam) else self.conversation

    def input_messages(self) -> list[ChatMessage]:
        """The input as messages; a plain text is one message from the user."""
        if isinstance(self.input, str):
            return [ChatMessage(role="user", content=self.input)]
        return list(self.input)


class ConversationCreate(Wire):
    """`POST /v1/conversations`."""

    metadata: Metadata | None = None
    items: Annotated[list[InputMessage], Field(max_length=20)] | None = None


class ConversationUpdate(Wire):
    """`POST /v1/conversations/{id}`."""

    metadata: Metadata | None


class ItemsCreate(Wire):
    """`POST /v1/conversations/{id}/items`."""

    items: Annotated[list[InputMessage], Field(min_length=1, max_length=20)]


class ForkRequest(Wire):
    """`POST /v1/conversations/{id}/fork` (ours): `after` names the last item to copy; null copies none."""

    after: Identifier | None


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
    scopes: Annotated[list[Literal["chat", "admin", "on_behalf_of"]], Field(min_length=1, max_length=3)] = ["chat"]


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
