"""The page: its components wired to their actions, its theme and styles.

Only answers go through Gradio's queue, because only they stream; everything else is one short request, so a stop never
waits behind answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from webui.actions import Actions
from webui.chat import Chat
from webui.client import GatewayClient
from webui.layout import Parts, lay_out
from webui.texts import DEFAULT_LANGUAGE

# Gradio calls it threads; it is also the most events that run at once. Handlers are async, so no threads are used.
MOST_TURNS_AT_ONCE = 200
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Consolas", "Liberation Mono", "monospace"]


def build_page(title: str, chat: Chat, client: GatewayClient) -> gr.Blocks:
    """The Blocks of the web UI."""
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True, fill_width=True) as blocks:
        parts = lay_out(title, DEFAULT_LANGUAGE)
        _wire(blocks, parts, Actions(parts, chat, client))
    blocks.max_threads = MOST_TURNS_AT_ONCE
    blocks.queue(api_open=False, default_concurrency_limit=MOST_TURNS_AT_ONCE)
    return blocks


def theme() -> Any:
    """Fonts of the person's own system (right for Chinese, nothing to load), calm colours."""
    return gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", font=[*FONTS, "sans-serif"], font_mono=MONO_FONTS
    )


def styles() -> str:
    """The page's own CSS."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _wire(blocks: gr.Blocks, parts: Parts, actions: Actions) -> None:
    everything = set(vars(parts).values())
    short = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    streamed = {
        "outputs": set(parts.chat),
        "show_progress": "hidden",
        "trigger_mode": "once",
        "api_visibility": "private",
    }
    gr.on(
        [parts.message.submit, parts.send.click],
        actions.send,
        inputs=[parts.current, parts.message, *parts.options],
        concurrency_id="turns",
        **streamed,
    )
    parts.retry.click(actions.retry, inputs=[parts.current, *parts.options], concurrency_id="turns", **streamed)
    parts.stop.click(actions.stop, None, set(parts.chat), **short)
    parts.new_chat.click(actions.new_chat, None, everything, **short)
    parts.conversations.input(actions.open, parts.conversations, everything, preprocess=False, **short)
    parts.delete.click(actions.ask_delete, None, everything, **short)
    parts.delete_no.click(actions.keep, None, everything, **short)
    parts.delete_yes.click(actions.delete, parts.current, everything, **short)
    polled = {parts.status, parts.timer, parts.total_tokens}
    parts.timer.tick(actions.poll, [parts.status, parts.timer], polled, **short)
    blocks.load(actions.load, parts.current, everything, **short)
