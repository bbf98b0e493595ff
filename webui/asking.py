"""What every handler needs of Gradio's request: who asks, in which language, from which page; and how updates join."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.requests import Request

from webui.address import ADDRESS_HEADER
from webui.identity import KEY_HEADER, NAME_HEADER, PERSON_HEADER, Person, name_of
from webui.language import LANGUAGE_HEADER

NONE_OPEN = "none"  # BrowserState does not write empty values: "" would leave the last conversation remembered

Updates = dict[Any, Any]


def asking(request: gr.Request | Request) -> tuple[str, Person]:
    """The language and the person of a request."""
    name = name_of(request.headers.get(NAME_HEADER, ""))
    person = Person(
        request.headers[PERSON_HEADER],
        "" if name else request.headers.get(ADDRESS_HEADER, ""),  # that limit is for those who cost nothing to make
        key=request.headers.get(KEY_HEADER, ""),
        name=name,
    )
    return request.headers[LANGUAGE_HEADER], person


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
