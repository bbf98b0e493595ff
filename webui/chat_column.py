"""The chat column's components and their labels. What they do is in `chat_actions.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.tags import CLOSES, OPENS
from webui.texts import say

LATEX_DELIMITERS = [
    {"left": OPENS + left, "right": right + CLOSES, "display": is_display}
    for left, right, is_display in (
        ("$$", "$$", True), ("$", "$", False), ("\\[", "\\]", True), ("\\(", "\\)", False)
    )
]  # fmt: skip


@dataclass(frozen=True)
class ChatParts:
    """Every component of the chat column that an action reads or changes."""

    status: Any
    older: Any
    chatbot: Any
    notice: Any
    retry: Any
    go_on: Any
    earlier: Any
    meter: Any
    message: Any
    send: Any
    stop: Any
    watched: Any
    reach: Any

    @property
    def turn(self) -> list[Any]:
        """What a turn changes here."""
        return [part for name, part in vars(self).items() if name != "status"]


def lay_out_chat(title: str, language: str) -> ChatParts:
    """Builds the column inside the Blocks that is open."""
    with gr.Column(elem_id="main"):
        with gr.Row(elem_id="head"):
            gr.Markdown(f"# {title}", elem_id="title")
            status = _own_html("status")
        older = gr.Button(say(language, "load_earlier"), elem_id="older", size="sm", visible=False)
        chatbot = gr.Chatbot(
            elem_id="chat",
            label=say(language, "chat"),
            show_label=False,
            container=False,
            height=None,
            layout="bubble",
            autoscroll=False,  # chat.js does it: Gradio's pulls down readers who have scrolled up
            buttons=["copy"],
            latex_delimiters=LATEX_DELIMITERS,
            editable="user",
            feedback_options=("Like", "Dislike"),
            feedback_value=[],
            group_consecutive_messages=False,
            placeholder=say(language, "empty_chat"),
        )
        notice = _own_html("notice")
        with gr.Row(elem_id="under"):
            retry = gr.Button(say(language, "retry"), elem_id="retry", size="sm", visible=False)
            go_on = gr.Button(say(language, "go_on"), elem_id="go-on", size="sm", visible=False)
            earlier = gr.Button(say(language, "earlier_version"), elem_id="earlier", size="sm", visible=False)
            meter = _own_html("meter")
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
            stop = gr.Button(
                say(language, "stop"), elem_id="stop", variant="stop", visible=False, scale=0, min_width=72
            )
            send = gr.Button(say(language, "send"), elem_id="send", variant="primary", scale=0, min_width=72)
        # Hidden, not absent: a change of its value is what makes the page watch.
        watched = gr.Textbox("", elem_id="watched", visible="hidden")
    return ChatParts(
        status=status,
        older=older,
        chatbot=chatbot,
        notice=notice,
        retry=retry,
        go_on=go_on,
        earlier=earlier,
        meter=meter,
        message=message,
        send=send,
        stop=stop,
        watched=watched,
        reach=gr.State(0),
    )


def chat_labels(parts: ChatParts, language: str) -> dict[Any, Any]:
    """Updates that put the column into a language."""
    return {
        parts.chatbot: gr.update(label=say(language, "chat"), placeholder=say(language, "empty_chat")),
        parts.message: gr.update(label=say(language, "message"), placeholder=say(language, "message_placeholder")),
        parts.send: gr.update(value=say(language, "send")),
        parts.stop: gr.update(value=say(language, "stop")),
        parts.older: gr.update(value=say(language, "load_earlier")),
        parts.retry: gr.update(value=say(language, "retry")),
        parts.go_on: gr.update(value=say(language, "go_on")),
        parts.earlier: gr.update(value=say(language, "earlier_version")),
    }


def _own_html(elem_id: str) -> Any:
    """HTML that `render.py` made and escaped. (gr.HTML needs `unsafe-eval`, which the security policy refuses.)"""
    return gr.Markdown(elem_id=elem_id, sanitize_html=False, latex_delimiters=[], container=False)
