"""The page's components put together: the sidebar, the chat column, and what belongs to neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.chat_column import ChatParts, chat_labels, lay_out_chat
from webui.sidebar import SidebarParts, lay_out_sidebar, sidebar_labels

STORAGE_KEY = "webui.conversation"


@dataclass(frozen=True)
class Parts:
    """Every component that an action reads or changes."""

    side: SidebarParts
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
        return {*vars(self.side).values(), *vars(self.chat).values(), self.current, self.timer}


def lay_out(title: str, language: str) -> Parts:
    """Builds the components inside the Blocks that is open."""
    return Parts(
        side=lay_out_sidebar(language),
        chat=lay_out_chat(title, language),
        current=gr.BrowserState("", storage_key=STORAGE_KEY, secret=STORAGE_KEY),
        timer=gr.Timer(1.0),
    )


def labels(parts: Parts, language: str) -> dict[Any, Any]:
    """Updates that put the page into a language."""
    return sidebar_labels(parts.side, language) | chat_labels(parts.chat, language)
