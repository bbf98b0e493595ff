"""The sidebar's conversations: its components and their labels. What they do is in `sidebar_actions.py`.

The list is drawn by `sidebar.js` beside the component `conversations`, which only tells it what is open; what a person
chooses there comes back through the component `chosen`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.texts import say


@dataclass(frozen=True)
class SidebarParts:
    """Every component of the sidebar that an action reads or changes."""

    sidebar: Any
    new_chat: Any
    conversations: Any
    chosen: Any

    @property
    def turn(self) -> list[Any]:
        """What a turn changes here."""
        return [self.conversations]


def lay_out_sidebar(sidebar: Any, language: str) -> SidebarParts:
    """Builds the components inside the sidebar, which is open."""
    return SidebarParts(
        sidebar=sidebar,
        new_chat=gr.Button(say(language, "new_chat"), elem_id="new-chat", variant="primary", size="md"),
        conversations=gr.Markdown(elem_id="conversations", sanitize_html=False, latex_delimiters=[], container=False),
        chosen=gr.Textbox(elem_id="chosen", container=False),
    )


def sidebar_labels(parts: SidebarParts, language: str) -> dict[Any, Any]:
    """Updates that put the sidebar into a language."""
    return {parts.new_chat: gr.update(value=say(language, "new_chat"))}
