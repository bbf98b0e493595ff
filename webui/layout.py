"""The page's components put together: the sidebar, the chat column, and what belongs to neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.chat_column import ChatParts, chat_labels, lay_out_chat
from webui.settings_panel import SettingsParts, lay_out_settings
from webui.sidebar import SidebarParts, lay_out_sidebar, sidebar_labels

STORAGE_KEY = "webui.conversation"


@dataclass(frozen=True)
class Parts:
    """Every component that an action reads or changes."""

    side: SidebarParts
    settings: SettingsParts
    chat: ChatParts
    current: Any
    timer: Any

    @property
    def turn(self) -> list[Any]:
        """What a turn changes. Every update names all its outputs, so a stream is given no more than these."""
        return [*self.chat.turn, *self.side.turn, self.current, self.timer]

    @property
    def everything(self) -> set[Any]:
        """All of them."""
        groups = (self.side, self.settings, self.chat)
        return {*(part for group in groups for part in vars(group).values()), self.current, self.timer}


def lay_out(title: str, language: str) -> Parts:
    """Builds the components inside the Blocks that is open."""
    with gr.Sidebar(elem_id="sidebar", width=300, open=False) as sidebar:
        side, settings = lay_out_sidebar(sidebar, language), lay_out_settings(language)
    return Parts(
        side=side,
        settings=settings,
        chat=lay_out_chat(title, language),
        current=gr.BrowserState("", storage_key=STORAGE_KEY, secret=STORAGE_KEY),
        timer=gr.Timer(1.0),
    )


def labels(parts: Parts, language: str) -> dict[Any, Any]:
    """Updates that put the page into a language, but for the settings, whose choices are the person's."""
    return sidebar_labels(parts.side, language) | chat_labels(parts.chat, language)
