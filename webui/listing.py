"""What the sidebar's script is told: which conversation is open, and that the list may have changed.

The list itself is the script's (`sidebar.js`), which asks for it (`sidebar_routes.py`): so a turn costs the few entries
that are newest and not the whole list, and a thousand entries are not sent through Gradio again and again.
"""

from __future__ import annotations

import time

import gradio as gr

from webui import render
from webui.asking import Updates
from webui.identity import Person
from webui.layout import Parts


class Listing:
    """Told after everything that may have changed the list."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def updates(self, person: Person, selected: str, language: str) -> Updates:
        """What makes the script look again, with one entry as the open one."""
        state = render.list_state_html(selected, language, token=time.time_ns())
        return {self._parts.side.conversations: gr.update(value=state)}
