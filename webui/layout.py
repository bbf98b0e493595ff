"""The page's components and their labels. Where things are; what they do is in `actions.py`, wired in `page.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.client import Options
from webui.texts import say

LATEX_DELIMITERS = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
STORAGE_KEY = "webui.conversation"
_MOST_TOKENS = 4096
_LONGEST_INSTRUCTIONS = 20_000


@dataclass(frozen=True)
class Parts:
    """Every component that an action reads or changes."""

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
    status: Any
    chatbot: Any
    notice: Any
    message: Any
    send: Any
    stop: Any
    retry: Any
    current: Any
    timer: Any

    @property
    def chat(self) -> list[Any]:
        """What a turn changes. Every update names all its outputs, so a stream is given no more than these."""
        return [
            self.chatbot, self.notice, self.message, self.send, self.stop, self.retry, self.current,
            self.conversations, self.delete, self.confirm, self.timer,
        ]  # fmt: skip

    @property
    def options(self) -> list[Any]:
        """The inputs that make up `Options`, in its order."""
        return [self.temperature, self.top_p, self.total_tokens, self.instructions]


def lay_out(title: str, language: str) -> Parts:
    """Builds the components inside the Blocks that is open."""
    return Parts(**_sidebar(language), **_main_column(title, language))


def labels(parts: Parts, language: str) -> dict[Any, Any]:
    """Updates that put the page into a language."""
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
        parts.chatbot: gr.update(label=say(language, "chat"), placeholder=say(language, "empty_chat")),
        parts.message: gr.update(label=say(language, "message"), placeholder=say(language, "message_placeholder")),
        parts.send: gr.update(value=say(language, "send")),
        parts.stop: gr.update(value=say(language, "stop")),
        parts.retry: gr.update(value=say(language, "retry")),
    }


def _sidebar(language: str) -> dict[str, Any]:
    defaults = Options()
    with gr.Sidebar(elem_id="sidebar", width=300, open=False) as sidebar:
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
        with gr.Accordion(say(language, "settings"), open=False, elem_id="settings") as settings:
            temperature = gr.Slider(0, 2, defaults.temperature, step=0.05, elem_id="temperature", buttons=[])
            top_p = gr.Slider(0.05, 1, defaults.top_p, step=0.05, elem_id="top-p", buttons=[])
            total_tokens = gr.Slider(
                128, _MOST_TOKENS, defaults.max_total_tokens, step=64, elem_id="total-tokens", buttons=[]
            )
            instructions = gr.Textbox(elem_id="instructions", lines=2, max_lines=6, max_length=_LONGEST_INSTRUCTIONS)
    return {
        "sidebar": sidebar,
        "new_chat": new_chat,
        "conversations": conversations,
        "delete": delete,
        "confirm": confirm,
        "confirm_text": confirm_text,
        "delete_yes": delete_yes,
        "delete_no": delete_no,
        "settings": settings,
        "temperature": temperature,
        "top_p": top_p,
        "total_tokens": total_tokens,
        "instructions": instructions,
    }


def _main_column(title: str, language: str) -> dict[str, Any]:
    with gr.Column(elem_id="main"):
        with gr.Row(elem_id="head"):
            gr.Markdown(f"# {title}", elem_id="title")
            status = _own_html("status")
        chatbot = gr.Chatbot(
            elem_id="chat",
            label=say(language, "chat"),
            show_label=False,
            container=False,
            height=None,
            layout="bubble",
            buttons=["copy"],
            latex_delimiters=LATEX_DELIMITERS,
            feedback_options=None,
            group_consecutive_messages=False,
            placeholder=say(language, "empty_chat"),
        )
        notice = _own_html("notice")
        with gr.Row(elem_id="composer"):
            message = gr.Textbox(
                label=say(language, "message"),
                placeholder=say(language, "message_placeholder"),
                elem_id="message",
                lines=1,
                max_lines=8,
                show_label=False,
                container=False,
                autofocus=True,
                scale=1,
            )
            retry = gr.Button(say(language, "retry"), elem_id="retry", visible=False, scale=0, min_width=72)
            stop = gr.Button(
                say(language, "stop"), elem_id="stop", variant="stop", visible=False, scale=0, min_width=72
            )
            send = gr.Button(say(language, "send"), elem_id="send", variant="primary", scale=0, min_width=72)
    return {
        "status": status,
        "chatbot": chatbot,
        "notice": notice,
        "message": message,
        "send": send,
        "stop": stop,
        "retry": retry,
        "current": gr.BrowserState("", storage_key=STORAGE_KEY, secret=STORAGE_KEY),
        "timer": gr.Timer(1.0),
    }


def _own_html(elem_id: str) -> Any:
    """HTML that `render.py` made and escaped. (gr.HTML needs `unsafe-eval`, which the security policy refuses.)"""
    return gr.Markdown(elem_id=elem_id, sanitize_html=False, latex_delimiters=[], container=False)


def _labelled(language: str, key: str) -> Any:
    return gr.update(label=say(language, key), info=say(language, f"{key}_info"))
