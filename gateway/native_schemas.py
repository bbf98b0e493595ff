"""The wire types of TGI's own API, as far as it is handed on (docs/api.md, TGI's own routes)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.schema_base import JsonObject, NonEmptyText, Text, Wire


class Grammar(Wire):
    type: Literal["json", "json_object", "json_schema", "regex"]
    value: JsonObject | NonEmptyText


class GenerateParameters(Wire):
    """TGI's; what it can only do without streaming is refused."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    do_sample: bool | None = None
    seed: int | None = Field(default=None, ge=0, lt=1 << 64)
    stop: Annotated[list[NonEmptyText], Field(max_length=4)] | None = None
    truncate: int | None = Field(default=None, ge=1)
    watermark: bool | None = None
    grammar: Grammar | None = None
    adapter_id: Text | None = None
    top_n_tokens: int | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    best_of: Literal[1] | None = None
    decoder_input_details: Literal[False] | None = None

    def for_engine(self) -> dict[str, Any]:
        """What TGI is told; the whole text and the details are put together here."""
        ours = {"details", "return_full_text", "best_of", "decoder_input_details"}
        return self.model_dump(exclude_none=True, exclude=ours)


class GenerateRequest(Wire):
    """`POST /generate`, `POST /generate_stream`."""

    inputs: NonEmptyText
    parameters: GenerateParameters | None = None


class CompatGenerateRequest(GenerateRequest):
    """`POST /` and `POST /v1`, which `huggingface_hub` calls."""

    stream: bool | None = None


class TokenizeRequest(Wire):
    """`POST /tokenize`."""

    inputs: Text
    parameters: JsonObject | None = None
    add_special_tokens: bool | None = None
