"""The wire types of tools and of the answer's form, as OpenAI writes them, and of TGI's own `response_format`.

Shapes: https://platform.openai.com/docs/guides/function-calling and …/structured-outputs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gateway.schema_base import Identifier, JsonObject, NonEmptyText, Text, Wire, not_too_deep

FunctionName = Annotated[Text, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
MAX_TOOLS = 128


def _json_object(value: Any) -> Any:
    if isinstance(value, str):
        try:
            not_too_deep(msgspec.json.decode(value, type=dict))
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            raise PydanticCustomError("arguments", "The arguments of a call are a JSON object, as text.", {}) from None
    return value


class FunctionCall(Wire):
    name: FunctionName
    arguments: Annotated[Text, BeforeValidator(_json_object)]


class MessageToolCall(Wire):
    """A call in an assistant's message; `index` comes along when streamed calls are sent back."""

    id: Identifier
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class FunctionDefinition(Wire):
    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ChatTool(Wire):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionTool(FunctionDefinition):
    """The flat form of the Responses API."""

    type: Literal["function"]


class NamedFunction(Wire):
    name: FunctionName


class NamedChatTool(Wire):
    type: Literal["function"]
    function: NamedFunction


class NamedTool(Wire):
    """The flat form of the Responses API."""

    type: Literal["function"]
    name: FunctionName


Choice = Literal["none", "auto", "required"]


def require_known_tool(choice: str | None, tools: list[str]) -> None:
    """Refuses a `tool_choice` that no tool can satisfy, and two tools of one name."""
    if len(set(tools)) < len(tools):
        twice = next(name for name in tools if tools.count(name) > 1)
        raise PydanticCustomError(
            "tools", "'tools' holds two functions named '{twice}'.", {"twice": twice, "name": "tools"}
        )
    if choice in (None, "none", "auto"):
        return
    context = {"choice": choice, "name": "tool_choice"}
    if not tools:
        raise PydanticCustomError("tool_choice", "'tool_choice' needs 'tools'.", context)
    if choice != "required" and choice not in tools:
        raise PydanticCustomError("tool_choice", "'tool_choice' names '{choice}', which is not in 'tools'.", context)


class JsonSchema(Wire):
    """OpenAI's `json_schema`, and the `value` of TGI's."""

    name: Annotated[Text, StringConstraints(max_length=64)] | None = None
    description: Text | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    """OpenAI's forms, and TGI's: `{"type": "json_object" | "json" | "json_schema" | "regex", "value": …}`."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: JsonSchema | None = None
    value: JsonObject | NonEmptyText | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> ResponseFormat:
        missing = {
            "json_schema": self.json_schema is None and not isinstance(self.value, dict),
            "json": not isinstance(self.value, dict),
            "regex": not isinstance(self.value, str),
            "json_object": self.value is not None and not isinstance(self.value, dict),
            "text": self.value is not None or self.json_schema is not None,
        }
        if missing[self.type]:
            needs = {
                "json_schema": "'json_schema' with a schema",
                "json": "'value' with a schema",
                "regex": "'value' with a regular expression",
                "json_object": "nothing, or 'value' with a schema",
                "text": "nothing",
            }
            raise PydanticCustomError(
                "response_format", "The type '{type}' takes {needs}.", {"type": self.type, "needs": needs[self.type]}
            )
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The schema, wherever the caller's dialect puts it; None when any object will do."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        if self.type == "json_schema" and isinstance(self.value, dict):
            inner = self.value.get("schema", self.value)
            return inner if isinstance(inner, dict) else self.value
        return self.value if isinstance(self.value, dict) else None


class TextFormat(Wire):
    """The Responses API's `text.format`: the fields of `json_schema` stand beside the type."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[Text, StringConstraints(max_length=64)] | None = None
    description: Text | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise PydanticCustomError("text_format", "The type 'json_schema' takes a 'schema'.", {})
        return self


class TextOptions(Wire):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None
