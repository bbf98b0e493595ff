"""What the settings panel does: it shows what the browser kept, within the engine's bounds, and has changes kept.

What is shown is what is sent: each turn takes the values of the components (`options`), whatever is kept by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from webui.asking import Updates, asking, merged
from webui.client import GatewayClient, Options
from webui.errors import GatewayError
from webui.identity import Person
from webui.preferences import Bounds, Preferences, as_kept, options_of, preferences_of, with_prompt
from webui.presets import CUSTOM, OWN, key_of, prompt_of
from webui.settings_panel import SettingsParts, settings_labels
from webui.wire import Status


class SettingsActions:
    """Handlers of the settings panel; shared by all people. The bounds are what the gateway last said."""

    def __init__(self, parts: SettingsParts, client: GatewayClient) -> None:
        self._parts = parts
        self._client = client
        self._bounds = Bounds()

    def options(self, values: Sequence[object]) -> Options:
        """How an answer is asked for, from the values of `SettingsParts.options`."""
        return options_of(values, self._bounds)

    def learn(self, status: Status) -> Updates:
        """The engine's context, once it is known."""
        if not status.context_tokens:
            return {}
        self._bounds = replace(self._bounds, context_tokens=status.context_tokens)
        return {self._parts.total_tokens: gr.update(maximum=status.context_tokens)}

    async def load(self, kept: object, person: Person, language: str) -> Updates:
        """A page that was just opened: labels, and the values that its browser kept."""
        try:
            self._bounds = replace(self._bounds, models=await self._client.models(person))
        except GatewayError:
            pass  # the status line says that the server is away; the models that were known stay
        preferences = preferences_of(kept, self._bounds)
        models = self._bounds.models
        chosen = preferences.options.model or (models[0] if models else "")
        updates = merged(settings_labels(self._parts, language, preferences.prompts), self._shown(preferences))
        return merged(
            updates, {self._parts.model: gr.update(choices=list(models), value=chosen, visible=len(models) > 1)}
        )

    async def keep(self, kept: object, *values: object) -> Updates:
        """Something was changed: it is kept, and what was out of bounds is put right."""
        preferences = self._preferences(kept, values)
        shown = self._values(preferences.options)
        wrong = {
            part: gr.update(value=shown[part])
            for part, value in zip(self._parts.options, values, strict=True)
            if part is not self._parts.model and value != shown[part] and (value or shown[part])
        }
        return self._kept(preferences) | wrong | self._preset(preferences)

    async def choose_preset(self, request: gr.Request, kept: object, key: object, *values: object) -> Updates:
        """A preset becomes the system prompt."""
        language, _ = asking(request)
        preferences = self._preferences(kept, values)
        text = preferences.options.instructions if key == CUSTOM else prompt_of(key, preferences.prompts, language)
        preferences = replace(preferences, options=replace(preferences.options, instructions=text))
        updates = self._kept(preferences) | self._preset(preferences)
        return updates | {self._parts.instructions: gr.update(value=text)}

    async def save_prompt(self, request: gr.Request, kept: object, name: object, *values: object) -> Updates:
        """The system prompt is kept under a name, for later."""
        before = self._preferences(kept, values)
        prompts = with_prompt(before.prompts, name, before.options.instructions)
        return self._with_prompts(request, replace(before, prompts=prompts))

    async def delete_prompt(self, request: gr.Request, kept: object, key: object, *values: object) -> Updates:
        """One of the person's own prompts is kept no longer; as the system prompt it stays until that is changed."""
        before = self._preferences(kept, values)
        prompts = {name: text for name, text in before.prompts.items() if OWN + name != key}
        return self._with_prompts(request, replace(before, prompts=prompts))

    async def reset(self, kept: object) -> Updates:
        """Everything as at first, but for the person's own prompts."""
        preferences = Preferences(Options(), preferences_of(kept, self._bounds).prompts)
        first = self._bounds.models[0] if self._bounds.models else ""
        return self._kept(preferences) | self._shown(preferences) | {self._parts.model: gr.update(value=first)}

    def _preferences(self, kept: object, values: Sequence[object]) -> Preferences:
        return Preferences(self.options(values), preferences_of(kept, self._bounds).prompts)

    def _with_prompts(self, request: gr.Request, preferences: Preferences) -> Updates:
        labels = settings_labels(self._parts, asking(request)[0], preferences.prompts)
        updates = self._kept(preferences) | self._preset(preferences) | {self._parts.prompt_name: gr.update(value="")}
        return merged(updates, {self._parts.preset: labels[self._parts.preset]})

    def _kept(self, preferences: Preferences) -> Updates:
        return {self._parts.kept: as_kept(preferences)}

    def _preset(self, preferences: Preferences) -> Updates:
        key = key_of(preferences.options.instructions, preferences.prompts)
        delete = gr.update(visible=key.startswith(OWN))
        return {self._parts.preset: gr.update(value=key), self._parts.delete_prompt: delete}

    def _shown(self, preferences: Preferences) -> Updates:
        values = self._values(preferences.options)
        del values[self._parts.model]
        updates = {part: gr.update(value=value) for part, value in values.items()} | self._preset(preferences)
        return merged(updates, {self._parts.total_tokens: gr.update(maximum=self._bounds.context_tokens)})

    def _values(self, options: Options) -> dict[Any, Any]:
        """The values of the components."""
        shown = (
            options.model, options.temperature, options.top_p, options.max_total_tokens, options.max_output_tokens,
            options.seed, options.instructions,
        )  # fmt: skip
        return dict(zip(self._parts.options, shown, strict=True))
