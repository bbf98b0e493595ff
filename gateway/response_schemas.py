"""The wire types of the Responses and Conversations APIs (platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator
from pydantic_core import PydanticCustomError

from gateway.schema_base import Identifier, Metadata, Text, Wire
from gateway.schemas import ChatMessage, Parts, Sampling, StreamOptions, settle_parameters, text_of
from gateway.tool_schemas import (
    MAX_TOOLS,
    Choice,
    FunctionCall,
    FunctionTool,
    NamedTool,
    TextOptions,
    require_known_tool,
)


class InputMessage(ChatMessage):
    """An input item; `type`, `id` and `status` come along when items of an answer are sent back."""

    type: Literal["message"] = "message"
    id: Identifier | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class FunctionCallItem(FunctionCall):
    """A call that the model made, sent back; `id` and `status` are not looked at."""

    type: Literal["function_call"]
    call_id: Identifier
    id: Identifier | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class FunctionCallOutput(Wire):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: Identifier
    output: Text | Parts
    id: Identifier | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None

    @property
    def text(self) -> str:
        return text_of(self.output)


def _kind_of_item(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return {"function_call": "Call", "function_call_output": "Output"}.get(kind, "Message")  # type: ignore[arg-type]


InputItem = InputMessage | FunctionCallItem | FunctionCallOutput
AnyItem = Annotated[
    Annotated[InputMessage, Tag("Message")]
    | Annotated[FunctionCallItem, Tag("Call")]
    | Annotated[FunctionCallOutput, Tag("Output")],
    Discriminator(_kind_of_item),
]
Input = Annotated[Text | Annotated[list[AnyItem], Field(min_length=1, max_length=2048)], Field()]
LOGPROBS: Final = "message.output_text.logprobs"


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
    background: bool | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, data: Any) -> Any:
        return settle_parameters(data, cls.model_fields)

    @model_validator(mode="after")
    def _goes_together(self) -> ResponseRequest:
        if isinstance(self.input, str) and not self.input.strip():
            raise PydanticCustomError("empty_message", "The message is empty; write something.", {})
        if self.conversation is not None and self.previous_response_id is not None:
            raise PydanticCustomError(
                "contradiction", "Give either 'conversation' or 'previous_response_id', not both.", {}
            )
        if self.background and self.store is False:
            raise PydanticCustomError("contradiction", "'background': true needs the response to be stored.", {})
        if self.conversation is not None and self.store is False:
            raise PydanticCustomError("contradiction", "'store': false cannot be used with 'conversation'.", {})
        require_known_tool(self.choice, [tool.name for tool in self.tools or ()])
        if self.conversation is None and self.previous_response_id is None:
            self._require_calls_before_outputs()
        if self.top_logprobs and not self.include:
            raise PydanticCustomError(
                "logprobs", "'top_logprobs' needs 'include': [\"{what}\"].", {"what": LOGPROBS, "name": "top_logprobs"}
            )
        return self

    def _require_calls_before_outputs(self) -> None:
        called: set[str] = set()
        for n, entry in enumerate(self.input_items()):
            if isinstance(entry, FunctionCallItem):
                called.add(entry.call_id)
            elif isinstance(entry, FunctionCallOutput) and entry.call_id not in called:
                raise PydanticCustomError(
                    "call_id",
                    "'input.{n}.call_id' is the id of no call before it, and the request continues nothing.",
                    {"n": n, "name": f"input.{n}.call_id"},
                )

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationParam) else self.conversation

    @property
    def choice(self) -> str | None:
        """`tool_choice`; of a named function its name."""
        return self.tool_choice.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice

    def input_items(self) -> list[InputItem]:
        """The input as items; a plain text is one message from the user."""
        if isinstance(self.input, str):
            return [InputMessage(role="user", content=self.input)]
        return list(self.input)


class ContinueRequest(Wire):
    """`POST /v1/responses/{id}/continue` (ours). An absent limit is the one that the response was asked for with."""

    stream: bool | None = None
    background: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, description="of what is added")
    max_total_tokens: int | None = Field(default=None, ge=16)


class ConversationCreate(Wire):
    """`POST /v1/conversations`."""

    metadata: Metadata | None = None
    items: Annotated[list[AnyItem], Field(max_length=20)] | None = None


class ConversationUpdate(Wire):
    """`POST /v1/conversations/{id}`."""

    metadata: Metadata | None


class ItemsCreate(Wire):
    """`POST /v1/conversations/{id}/items`."""

    items: Annotated[list[AnyItem], Field(min_length=1, max_length=20)]


class FeedbackRequest(Wire):
    """`POST /v1/responses/{id}/feedback` (ours); a rating of null takes it back."""

    rating: Literal["up", "down"] | None
    comment: Annotated[Text, StringConstraints(max_length=2000)] | None = None


class ForkRequest(Wire):
    """`POST /v1/conversations/{id}/fork` (ours): `after` names the last item to copy; null copies none."""

    after: Identifier | None
