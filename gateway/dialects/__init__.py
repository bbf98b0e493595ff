"""One module per engine: OpenAI's words to the engine's, and back.

Attributes of the shapes below are what the rest of the gateway knows of a generation, whatever the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """What to generate.

    Attributes:
        messages: (role, text) pairs, roles system, user, assistant.
        max_tokens: of the answer, at most.
        stop: texts that end the answer and are left out of it.
        temperature, top_p, top_k, min_p, repetition_penalty, seed, presence_penalty, frequency_penalty: None means
            OpenAI's default (temperature 1, top_p 1, everything else neutral).
    """

    messages: Sequence[tuple[str, str]]
    max_tokens: int
    stop: Sequence[str] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


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
class Chunk:
    """One event of an answer, decoded."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
