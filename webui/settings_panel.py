"""The settings panel's components and their labels. What they do is in `settings_actions.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.client import Options
from webui.preferences import (
    LEAST_TOKENS,
    LEAST_TOP_P,
    LONGEST_INSTRUCTIONS,
    LONGEST_NAME,
    MOST_SEED,
    MOST_TEMPERATURE,
    Bounds,
)
from webui.presets import CUSTOM, OWN, PRESETS
from webui.texts import say

STORAGE_KEY = "webui.preferences"


@dataclass(frozen=True)
class SettingsParts:
    """Every component of the panel that an action reads or changes; `kept` is in the person's browser."""

    panel: Any
    model: Any
    preset: Any
    instructions: Any
    prompt_name: Any
    save_prompt: Any
    delete_prompt: Any
    temperature: Any
    top_p: Any
    total_tokens: Any
    answer_tokens: Any
    seed: Any
    reset: Any
    kept: Any

    @property
    def options(self) -> list[Any]:
        """The inputs that make up `Options`, in the order of `preferences.VALUES`."""
        return [
            self.model, self.temperature, self.top_p, self.total_tokens, self.answer_tokens, self.seed,
            self.instructions,
        ]  # fmt: skip


def lay_out_settings(language: str) -> SettingsParts:
    """Builds the panel inside the block that is open."""
    defaults = Options()
    most_tokens = Bounds().context_tokens
    # Outside the accordion, whose content begins to live when it is opened for the first time.
    kept = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_KEY)
    with gr.Accordion(say(language, "settings"), open=False, elem_id="settings") as panel:
        return SettingsParts(
            panel=panel,
            model=gr.Dropdown([("", "")], value="", elem_id="model", visible=False, filterable=False),
            preset=gr.Dropdown(_presets(language, {}), value="", elem_id="preset", filterable=False),
            instructions=gr.Textbox(elem_id="instructions", lines=2, max_lines=6, max_length=LONGEST_INSTRUCTIONS),
            **_own_prompt(),
            temperature=gr.Slider(
                0, MOST_TEMPERATURE, defaults.temperature, step=0.05, elem_id="temperature", buttons=[]
            ),
            top_p=gr.Slider(LEAST_TOP_P, 1, defaults.top_p, step=0.05, elem_id="top-p", buttons=[]),
            total_tokens=gr.Slider(
                LEAST_TOKENS, most_tokens, defaults.max_total_tokens, step=64, elem_id="total-tokens", buttons=[]
            ),
            answer_tokens=gr.Number(None, elem_id="answer-tokens", precision=0, minimum=0),
            seed=gr.Number(None, elem_id="seed", precision=0, minimum=0, maximum=MOST_SEED),
            reset=gr.Button(elem_id="reset", size="sm"),
            kept=kept,
        )


def settings_labels(parts: SettingsParts, language: str, prompts: Mapping[str, str]) -> dict[Any, Any]:
    """Updates that put the panel into a language; `prompts` are the person's own."""
    explained = ("temperature", "top_p", "total_tokens", "answer_tokens", "seed")
    return {
        parts.panel: gr.update(label=say(language, "settings")),
        parts.model: gr.update(label=say(language, "model")),
        parts.preset: gr.update(label=say(language, "preset"), choices=_presets(language, prompts)),
        parts.instructions: gr.update(
            label=say(language, "instructions"), placeholder=say(language, "instructions_placeholder")
        ),
        parts.prompt_name: gr.update(
            label=say(language, "prompt_name"), placeholder=say(language, "prompt_name_placeholder")
        ),
        parts.save_prompt: gr.update(value=say(language, "save_prompt")),
        parts.delete_prompt: gr.update(value=say(language, "delete_prompt")),
        parts.reset: gr.update(value=say(language, "reset")),
        **{
            getattr(parts, key): gr.update(label=say(language, key), info=say(language, f"{key}_info"))
            for key in explained
        },
    }


def _presets(language: str, own: Mapping[str, str]) -> list[tuple[str, str]]:
    """What can be chosen: none, a text of one's own, ours, those that the person saved."""
    ours = [(say(language, f"preset_{key}"), key) for key in PRESETS[language]]
    always = [(say(language, "preset_none"), ""), (say(language, "preset_custom"), CUSTOM)]
    return [*always, *ours, *((name, OWN + name) for name in own)]


def _own_prompt() -> dict[str, Any]:
    with gr.Row(elem_id="own-prompt"):
        name = gr.Textbox(elem_id="prompt-name", max_lines=1, max_length=LONGEST_NAME, scale=1, min_width=80)
        save = gr.Button(elem_id="save-prompt", size="sm", scale=0, min_width=64)
        delete = gr.Button(elem_id="delete-prompt", size="sm", scale=0, min_width=64, visible=False)
    return {"prompt_name": name, "save_prompt": save, "delete_prompt": delete}
