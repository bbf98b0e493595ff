"""The page: its components wired to their actions, its theme and styles.

Only answers go through Gradio's queue, because only they stream; everything else is one short request, so a stop never
waits behind answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from webui.account import Account, lay_out_account
from webui.actions import PageActions
from webui.chat import Chat
from webui.chat_actions import ChatActions
from webui.client import GatewayClient
from webui.entrance import Entrance
from webui.first_texts import FirstTexts, texts_of
from webui.layout import Parts, lay_out
from webui.listing import Listing
from webui.settings import Settings
from webui.settings_actions import SettingsActions
from webui.settings_panel import SettingsParts
from webui.sidebar_actions import SidebarActions
from webui.texts import DEFAULT_LANGUAGE

# Gradio calls it threads; it is also the most events that run at once. Handlers are async, so no threads are used.
MOST_TURNS_AT_ONCE = 200
SHORT = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Consolas", "Liberation Mono", "monospace"]


def build_page(
    settings: Settings, chat: Chat, client: GatewayClient, entrance: Entrance
) -> tuple[gr.Blocks, FirstTexts]:
    """The Blocks of the web UI, and what puts them into a language before they live."""
    with gr.Blocks(title=settings.title, analytics_enabled=False, fill_height=True, fill_width=True) as blocks:
        parts = lay_out(settings.title, DEFAULT_LANGUAGE)
        _wire(blocks, parts, chat, client)
        blocks.load(Account(entrance, keeps_chats=settings.keeps_chats).load, None, lay_out_account(parts), **SHORT)
    blocks.max_threads = MOST_TURNS_AT_ONCE
    blocks.queue(api_open=False, default_concurrency_limit=MOST_TURNS_AT_ONCE)
    return blocks, FirstTexts(texts_of(parts))


def theme() -> Any:
    """Fonts of the person's own system (right for Chinese, nothing to load), calm colours."""
    return gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", font=[*FONTS, "sans-serif"], font_mono=MONO_FONTS
    ).set(  # what is written on or in them has a contrast of 4.5 at least
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_cancel_text_color="white",
        button_cancel_text_color_dark="white",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def styles() -> str:
    """The page's own CSS."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _wire(blocks: gr.Blocks, parts: Parts, chat: Chat, client: GatewayClient) -> None:
    listing = Listing(parts)
    settings = SettingsActions(parts.settings, client)
    chat_actions = ChatActions(parts, chat, listing, settings)
    _wire_chat(parts, chat_actions)
    _wire_sidebar(parts, SidebarActions(parts, chat, listing, chat_actions))
    _wire_settings(parts.settings, settings)
    page_actions = PageActions(parts, chat, client, listing, chat_actions, settings)
    polled = {parts.chat.status, parts.timer, parts.settings.total_tokens}
    parts.timer.tick(page_actions.poll, [parts.chat.status, parts.timer], polled, **SHORT)
    blocks.load(page_actions.load, [parts.current, parts.settings.kept], parts.everything, **SHORT)


def _wire_chat(parts: Parts, actions: ChatActions) -> None:
    column, options, turn = parts.chat, parts.settings.options, set(parts.turn)
    once = {**SHORT, "trigger_mode": "once"}
    # A page from before a restart may have settings out of bounds: that is put right, not refused.
    asking: dict[str, Any] = {**once, "preprocess": False}
    sent = [column.message.submit, column.send.click]
    gr.on(sent, actions.send, inputs=[parts.current, column.message, *options], outputs=turn, **asking)
    column.retry.click(actions.retry, [parts.current, *options], turn, **asking)
    column.go_on.click(actions.go_on, [parts.current, *options], turn, **asking)
    column.chatbot.edit(actions.edit, [parts.current, column.reach, *options], turn, **asking)
    column.chatbot.like(actions.rate, [parts.current, column.reach], turn, **SHORT)
    column.older.click(actions.older, [parts.current, column.reach], turn, **once)
    column.earlier.click(actions.earlier, parts.current, turn, **once)
    column.stop.click(actions.stop, parts.current, turn, **SHORT)
    watching = column.watched.change(
        actions.watch,
        column.watched,
        column.chatbot,
        show_progress="hidden",
        trigger_mode="multiple",
        api_visibility="private",
        concurrency_id="turns",
    )
    watching.then(actions.settle, column.message, turn, **SHORT)


def _wire_sidebar(parts: Parts, actions: SidebarActions) -> None:
    side, everything = parts.side, parts.everything
    side.new_chat.click(actions.new_chat, None, everything, **SHORT)
    side.chosen.change(actions.open, side.chosen, everything, trigger_mode="always_last", **SHORT)


def _wire_settings(panel: SettingsParts, actions: SettingsActions) -> None:
    changing: dict[str, Any] = SHORT | {"preprocess": False, "trigger_mode": "always_last"}
    inputs, outputs = [panel.kept, *panel.options], set(vars(panel).values())
    # A text box says nothing of the first input after it was filled for somebody, as by a preset: its blur counts, too.
    # (Its `change` comes while other components still have their old values.)
    typed = [*(part.input for part in panel.options), panel.instructions.blur]
    gr.on(typed, actions.keep, inputs, outputs, **changing)
    chosen, named = [panel.kept, panel.preset, *panel.options], [panel.kept, panel.prompt_name, *panel.options]
    panel.preset.input(actions.choose_preset, chosen, outputs, **changing)
    gr.on([panel.save_prompt.click, panel.prompt_name.submit], actions.save_prompt, named, outputs, **changing)
    panel.delete_prompt.click(actions.delete_prompt, chosen, outputs, **changing)
    panel.reset.click(actions.reset, panel.kept, outputs, **changing)
