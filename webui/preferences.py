"""How a person wants to be answered: read from whatever a browser kept, and put within the engine's bounds. Pure.

A browser may have kept values of another version or another model, or somebody wrote them: what cannot be used becomes
the default, what is out of bounds the nearest bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from webui.client import Options

MOST_TEMPERATURE = 2.0
LEAST_TOP_P = 0.05
LEAST_TOKENS, MOST_SEED = 128, 2**32 - 1  # llama.cpp's seeds have 32 bits; numbers of browsers are exact to 53
LONGEST_INSTRUCTIONS = 20_000
MOST_PROMPTS, LONGEST_NAME = 50, 60
# The components that make up `Options`, in the order in which the page hands them on.
VALUES = ("model", "temperature", "top_p", "max_total_tokens", "max_output_tokens", "seed", "instructions")


@dataclass(frozen=True)
class Bounds:
    """What the engine takes: its context in tokens, and the models by id (the first one unless one is named)."""

    context_tokens: int = 4096
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preferences:
    """Everything that the settings panel keeps in the person's browser; `prompts` are their own, by name."""

    options: Options = field(default_factory=Options)
    prompts: Mapping[str, str] = field(default_factory=dict)


def preferences_of(kept: object, bounds: Bounds) -> Preferences:
    """Preferences from what a browser kept, whatever that is."""
    values = kept if isinstance(kept, dict) else {}
    return Preferences(options_from(values, bounds), _prompts(values.get("prompts")))


def as_kept(preferences: Preferences) -> dict[str, Any]:
    """What the browser keeps; `preferences_of` reads it."""
    return asdict(preferences.options) | {"prompts": dict(preferences.prompts)}


def options_of(values: Sequence[object], bounds: Bounds) -> Options:
    """Options from the panel's components, in the order of `VALUES`."""
    return options_from(dict(zip(VALUES, values, strict=False)), bounds)


def options_from(values: Mapping[str, object], bounds: Bounds) -> Options:
    """Options by name; what is absent or no number becomes the default."""
    default = Options()
    most_tokens = max(LEAST_TOKENS, bounds.context_tokens)
    model = values.get("model")
    instructions = values.get("instructions")
    answer = _number(values.get("max_output_tokens"), 0, 0, most_tokens)
    seed = _number(values.get("seed"), -1, -1, MOST_SEED)
    return Options(
        temperature=_number(values.get("temperature"), default.temperature, 0, MOST_TEMPERATURE),
        top_p=_number(values.get("top_p"), default.top_p, LEAST_TOP_P, 1),
        max_total_tokens=int(
            _number(values.get("max_total_tokens"), default.max_total_tokens, LEAST_TOKENS, most_tokens)
        ),
        instructions=instructions[:LONGEST_INSTRUCTIONS] if isinstance(instructions, str) else "",
        max_output_tokens=int(answer) or None,
        seed=int(seed) if seed >= 0 else None,
        model=model if isinstance(model, str) and model in bounds.models[1:] else "",
    )


def with_prompt(prompts: Mapping[str, str], name: object, text: str) -> dict[str, str]:
    """The prompts with one more, or with one changed; unchanged where the name is empty or there is no room."""
    name = " ".join(name.split())[:LONGEST_NAME] if isinstance(name, str) else ""
    if not name or not text.strip() or (name not in prompts and len(prompts) >= MOST_PROMPTS):
        return dict(prompts)
    return {**prompts, name: text[:LONGEST_INSTRUCTIONS]}


def _number(value: object, default: float, least: float, most: float) -> float:
    """`value` between the bounds; the default (itself within them) for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        value = default
    return min(most, max(least, value))


def _prompts(kept: object) -> dict[str, str]:
    entries = kept.items() if isinstance(kept, dict) else ()
    prompts: dict[str, str] = {}
    for name, text in entries:
        if isinstance(text, str):
            prompts = with_prompt(prompts, name, text)
    return prompts
