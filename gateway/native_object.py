"""TGI's generations: what a request asks of it, and the object that its streamed answer becomes.

Shapes: https://huggingface.github.io/text-generation-inference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects import Chunk, Prompt
from gateway.native_schemas import GenerateParameters, GenerateRequest
from gateway.prompt import require_plausible

_TOKEN = ("id", "text", "logprob", "special")


def native_prompt(request: GenerateRequest, context_tokens: int) -> Prompt:
    """What TGI is asked for. The text goes there as it is: its writer wrote the template too.

    Raises:
        ContextTooLong: a text that cannot fit.
    """
    parameters = request.parameters or GenerateParameters()
    require_plausible(len(request.inputs.encode()), context_tokens, "inputs")
    return Prompt(
        messages=[],
        raw=request.inputs,
        native=parameters.for_engine() if request.parameters else {},
        max_tokens=min(parameters.max_new_tokens or context_tokens, context_tokens),
        is_limited=parameters.max_new_tokens is not None,
    )


class CollectedGeneration:
    """The answer to `POST /generate`; in a list of one to `POST /`, which also gives the prompt back by default."""

    def __init__(self, request: GenerateRequest, *, is_compat: bool = False) -> None:
        parameters = request.parameters or GenerateParameters()
        has_prompt = is_compat if parameters.return_full_text is None else parameters.return_full_text
        self._prompt = request.inputs if has_prompt else ""
        self._has_details = bool(parameters.details)
        self._is_compat = is_compat
        self._tokens: list[Mapping[str, Any]] = []

    def take(self, chunk: Chunk) -> None:
        self._tokens += chunk.logprobs

    def add(self, texts: Sequence[str]) -> None:
        """Nothing to keep: the last event tells the whole text."""

    def as_object(self, unique: str, model: str) -> Any:
        last = self._tokens[-1] if self._tokens else {}
        answer: dict[str, Any] = {"generated_text": self._prompt + last.get("generated_text", "")}
        if self._has_details and "details" in last:
            told = last["details"]
            answer["details"] = {
                "finish_reason": told["finish_reason"],
                "generated_tokens": told["generated_tokens"],
                "seed": told["seed"],
                "prefill": [],
                "tokens": [{name: token[name] for name in _TOKEN} for token in self._tokens],
                "top_tokens": [token.get("top_tokens", []) for token in self._tokens],
            }
            if not any(answer["details"]["top_tokens"]):
                del answer["details"]["top_tokens"]
        return [answer] if self._is_compat else answer
