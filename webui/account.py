"""The foot of the sidebar: who somebody is here, the ways in and out, language and colours."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui.asking import asking
from webui.entrance import Entrance
from webui.forms import escape, switches
from webui.identity import Person
from webui.layout import Parts
from webui.texts import say


def lay_out_account(parts: Parts) -> Any:
    """Builds it as the last part of the sidebar."""
    with parts.side.sidebar:
        return gr.Markdown(elem_id="account", sanitize_html=False, latex_delimiters=[], container=False)


class Account:
    """Its one handler."""

    def __init__(self, entrance: Entrance, *, keeps_chats: bool) -> None:
        self._entrance = entrance
        self._keeps_chats = keeps_chats

    async def load(self, request: gr.Request) -> str:
        """The foot for the person who opened the page."""
        language, person = asking(request)
        return account_html(
            person,
            language,
            has_login=self._entrance.has_login,
            takes_keys=self._entrance.takes_keys,
            keeps_chats=self._keeps_chats,
        )


def account_html(person: Person, language: str, *, has_login: bool, takes_keys: bool, keeps_chats: bool = True) -> str:
    """HTML on one line, since Gradio takes it for Markdown; every text in it is escaped."""
    parts = []
    if person.name:
        parts.append(f'<p class="who">{escape(say(language, "logged_in_as", name=person.name))}</p>')
        parts.append(_form("logout", say(language, "logout"), 'method="post" data-webui-leaves'))
    elif has_login:
        parts.append(_form("login", say(language, "login")))
    if takes_keys:
        parts.append(_form("key", say(language, "own_key_in_use" if person.key else "own_key")))
    label = escape(say(language, "account"))
    lost = "" if keeps_chats else f'<p class="status-note">{escape(say(language, "chats_not_kept"))}</p>'
    return f'{lost}<nav class="account" aria-label="{label}">{"".join(parts)}{switches(language)}</nav>'


def _form(action: str, label: str, attributes: str = 'method="get"') -> str:
    """A button that goes somewhere: links inside Gradio's Markdown would open a tab of their own."""
    return f'<form action="{action}" {attributes}><button>{escape(label)}</button></form>'
