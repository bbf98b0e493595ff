"""The sidebar's components and their labels: conversations and settings. What they do is in `sidebar_actions.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.client import Options
from webui.texts import say

_MOST_TOKENS = 4096
_LONGEST_INSTRUCTIONS = 20_000


@dataclass(frozen=True)
class SidebarParts:
    """Every component of the sidebar that an action reads or changes."""

    sidebar: Any
    new_chat: Any
    conversations: Any
    delete: Any
    confirm: Any
    confirm_text: Any
    delete_yes: Any
    delete_no: Any
    settings: Any
    temperature: Any
    top_p: Any
    total_tokens: Any
    instructions: Any

    @property
    def turn(self) -> list[Any]:
        """What a turn changes here."""
        return [self.conversations, self.delete, self.confirm]

    @property
    def options(self) -> list[Any]:
        """The inputs that make up `Options`, in its order."""
        return [self.temperature, self.top_p, self.total_tokens, self.instructions]


def lay_out_sidebar(language: str) -> SidebarParts:
    """Builds the sidebar inside the Blocks that is open."""
    with gr.Sidebar(elem_id="sidebar", width=300, open=False) as sidebar:
        return SidebarParts(sidebar=sidebar, **_conversations(language), **_settings(language))


def sidebar_labels(parts: SidebarParts, language: str) -> dict[Any, Any]:
    """Updates that put the sidebar into a language."""
    return {
        parts.new_chat: gr.update(value=say(language, "new_chat")),
        parts.conversations: gr.update(label=say(language, "conversations")),
        parts.delete: gr.update(value=say(language, "delete")),
        parts.confirm_text: gr.update(value=say(language, "delete_confirm")),
        parts.delete_yes: gr.update(value=say(language, "delete_yes")),
        parts.delete_no: gr.update(value=say(language, "delete_no")),
        parts.settings: gr.update(label=say(language, "settings")),
        parts.temperature: _labelled(language, "temperature"),
        parts.top_p: _labelled(language, "top_p"),
        parts.total_tokens: _labelled(language, "total_tokens"),
        parts.instructions: gr.update(
            label=say(language, "instructions"), placeholder=say(language, "instructions_placeholder")
        ),
    }


def _conversations(language: str) -> dict[str, Any]:
    new_chat = gr.Button(say(language, "new_chat"), elem_id="new-chat", variant="primary", size="md")
    conversations = gr.Radio(
        [], label=say(language, "conversations"), elem_id="conversations", container=False, interactive=True
    )
    delete = gr.Button(say(language, "delete"), elem_id="delete", size="sm", visible=False)
    with gr.Column(visible=False, elem_id="confirm") as confirm:
        confirm_text = gr.Markdown(say(language, "delete_confirm"), elem_id="confirm-text")
        with gr.Row():
            delete_yes = gr.Button(
                say(language, "delete_yes"), elem_id="delete-yes", variant="stop", size="sm", min_width=0
            )
            delete_no = gr.Button(say(language, "delete_no"), elem_id="delete-no", size="sm", min_width=0)
    return {
        "new_chat": new_chat,
        "conversations": conversations,
        "delete": delete,
        "confirm": confirm,
        "confirm_text": confirm_text,
        "delete_yes": delete_yes,
        "delete_no": delete_no,
    }


def _settings(language: str) -> dict[str, Any]:
    defaults = Options()
    with gr.Accordion(say(language, "settings"), open=False, elem_id="settings") as settings:
        temperature = gr.Slider(0, 2, defaults.temperature, step=0.05, elem_id="temperature", buttons=[])
        top_p = gr.Slider(0.05, 1, defaults.top_p, step=0.05, elem_id="top-p", buttons=[])
        total_tokens = gr.Slider(
            128, _MOST_TOKENS, defaults.max_total_tokens, step=64, elem_id="total-tokens", buttons=[]
        )
        instructions = gr.Textbox(elem_id="instructions", lines=2, max_lines=6, max_length=_LONGEST_INSTRUCTIONS)
    return {
        "settings": settings,
        "temperature": temperature,
        "top_p": top_p,
        "total_tokens": total_tokens,
        "instructions": instructions,
    }


def _labelled(language: str, key: str) -> Any:
    return gr.update(label=say(language, key), info=say(language, f"{key}_info"))
