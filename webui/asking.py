"""What every handler needs of Gradio's request: who asks, in which language, from which page; and how updates join."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.requests import Request

from webui.address import ADDRESS_HEADER
from webui.identity import PERSON_HEADER, Person
from webui.texts import language_of

NONE_OPEN = "none"  # BrowserState does not write empty values: "" would leave the last conversation remembered

Updates = dict[Any, Any]


def asking(request: gr.Request | Request) -> tuple[str, Person]:
    """The language and the person of a request."""
    person = Person(request.headers[PERSON_HEADER], request.headers.get(ADDRESS_HEADER, ""))
    return language_of(request.headers.get("accept-language", "")), person


def page_of(request: gr.Request) -> str:
    """One page of one person."""
    return f"{request.headers[PERSON_HEADER]}/{request.session_hash}"


def opened(current: str | None) -> str:
    """The conversation that a page has open, "" for none."""
    return "" if not current or current == NONE_OPEN else current


def merged(first: Updates, second: Updates) -> Updates:
    """Both; where both change one component, its properties together."""
    joined = dict(first)
    for part, update in second.items():
        joined[part] = {**joined[part], **update} if isinstance(joined.get(part), dict) else update
    return joined
