"""Whatever a browser kept becomes settings that the engine takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webui.client import Options
from webui.preferences import (
    LONGEST_INSTRUCTIONS,
    MOST_PROMPTS,
    MOST_SEED,
    VALUES,
    Bounds,
    Preferences,
    as_kept,
    options_from,
    options_of,
    preferences_of,
    with_prompt,
)
from webui.presets import PRESETS, key_of, prompt_of

pytestmark = pytest.mark.unit
BOUNDS = Bounds(context_tokens=2000, models=("first", "second"))
DEMO = Options(temperature=1.0, top_p=0.7, max_total_tokens=2000)


def test_the_defaults_are_those_of_internlm2s_demo() -> None:
    assert options_from({}, Bounds(context_tokens=32768)) == Options(temperature=1.0, top_p=0.7, max_total_tokens=2048)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        "",
        "garbage",
        7,
        [],
        {"temperature": "hot", "top_p": None, "seed": [], "prompts": 3, "model": {}},
        {"x": 1},
    ],
)
def test_what_cannot_be_used_becomes_the_default(kept: object) -> None:
    assert preferences_of(kept, BOUNDS) == Preferences(DEMO)


@pytest.mark.parametrize(
    ("name", "given", "used"),
    [
        ("temperature", -1, 0.0),
        ("temperature", 9, 2.0),
        ("temperature", float("nan"), 1.0),
        ("temperature", float("inf"), 2.0),
        ("temperature", True, 1.0),
        ("top_p", 0, 0.05),
        ("top_p", 1.5, 1.0),
        ("max_total_tokens", 1, 128),
        ("max_total_tokens", 10**9, 2000),
        ("max_output_tokens", 0, None),
        ("max_output_tokens", -5, None),
        ("max_output_tokens", 10**9, 2000),
        ("max_output_tokens", 300.0, 300),
        ("seed", -1, None),
        ("seed", 0, 0),
        ("seed", 2**70, MOST_SEED),
        ("model", "second", "second"),
        ("model", "first", ""),
        ("model", "gone", ""),
        ("instructions", "x" * 30_000, "x" * LONGEST_INSTRUCTIONS),
        ("instructions", 5, ""),
    ],
)
def test_what_is_out_of_bounds_is_put_on_the_nearest(name: str, given: object, used: object) -> None:
    assert getattr(options_from({name: given}, BOUNDS), name) == used


def test_a_context_smaller_than_every_choice_is_no_error() -> None:
    assert options_from({}, Bounds(context_tokens=64)).max_total_tokens == 128


def test_what_is_kept_is_read_again_as_it_was() -> None:
    options = Options(0.5, 0.9, 512, "be brief", 100, 42, "second")
    preferences = Preferences(options, {"mine": "be mine"})
    assert preferences_of(json.loads(json.dumps(as_kept(preferences))), BOUNDS) == preferences


def test_values_of_the_components_are_taken_in_their_order() -> None:
    given: list[Any] = ["second", 0.5, 0.9, 512, 100, 42, "be brief"]
    assert options_of(given, BOUNDS) == Options(0.5, 0.9, 512, "be brief", 100, 42, "second")
    assert options_of([], BOUNDS) == DEMO
    assert len(VALUES) == len(given)


def test_a_request_says_only_what_was_chosen() -> None:
    assert Options().as_body() == {"temperature": 1.0, "top_p": 0.7, "max_total_tokens": 2048}
    assert Options(seed=0).as_body()["seed"] == 0
    whole = Options(0.5, 0.9, 512, "be brief", 100, 42, "second").as_body()
    assert whole["max_output_tokens"] == 100
    assert (whole["model"], whole["seed"], whole["instructions"]) == ("second", 42, "be brief")


def test_prompts_of_ones_own_are_bounded_and_named() -> None:
    prompts = with_prompt({}, " my \n prompt ", "text")
    assert prompts == {"my prompt": "text"}
    assert (
        with_prompt(prompts, "", "text")
        == with_prompt(prompts, "empty", "  ")
        == with_prompt(prompts, 3, "x")
        == prompts
    )
    full = {f"n{n}": "x" for n in range(MOST_PROMPTS)}
    assert with_prompt(full, "one more", "x") == full
    assert with_prompt(full, "n1", "changed")["n1"] == "changed"
    assert preferences_of({"prompts": {"a": 3, "b": "ok"}}, BOUNDS).prompts == {"b": "ok"}


def test_presets_are_the_same_in_both_languages_and_found_again() -> None:
    assert PRESETS["en"].keys() == PRESETS["zh"].keys()
    for language, presets in PRESETS.items():
        for key, text in presets.items():
            assert prompt_of(key, {}, language) == text
            assert key_of(text, {}) == key
    assert PRESETS["zh"]["internlm2"].startswith("You are an AI assistant whose name is InternLM (书生·浦语).\n- ")
    assert PRESETS["zh"]["internlm2"].count("\n") == 2


def test_ones_own_prompts_are_found_by_their_key() -> None:
    own = {"teacher": "my teacher"}
    assert prompt_of("own:teacher", own, "en") == "my teacher"
    assert prompt_of("teacher", own, "en") == PRESETS["en"]["teacher"]
    assert key_of("my teacher", own) == "own:teacher"
    assert key_of("something else", own) == "custom"
    assert key_of("", own) == ""
    for unknown in ("own:gone", "gone", None, 3, []):
        assert prompt_of(unknown, own, "en") == ""
