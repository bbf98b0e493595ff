"""What all request bodies are made of: exact types, and texts that tokenizers and databases take."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

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


def not_too_deep(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses JSON that nobody's recursion would survive, ours and the engine's."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = [part.values() if isinstance(part, dict) else part for part in level]
        level = [entry for part in inner for entry in part if isinstance(entry, dict | list)]
        if not level:
            return value
    raise PydanticCustomError("too_deep", "More than {most} levels of JSON inside each other.", {"most": MAX_DEPTH})


MAX_DEPTH = 64
JsonObject = Annotated[dict[str, Any], AfterValidator(not_too_deep)]


class Wire(BaseModel):
    """Base of all request bodies: exact types, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
