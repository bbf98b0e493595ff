"""Pages of plain HTML with a form: the login and a person's own key. They need no script and load nothing but ours.

Each form carries a token that only the person it was made for can send back, so no other site can fill it in for
somebody: it is sealed, names the person of the cookie, and is good for an hour.
"""

from __future__ import annotations

import html
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse

from webui import page_html
from webui.identity import renewed, ticket_cookie
from webui.language import LANGUAGE_HEADER
from webui.public_address import root_path
from webui.texts import say
from webui.tickets import Ticket, Tickets

_LARGEST_FORM_BYTES = 16 * 1024
_FORM_LASTS_S = 3600
_PAGE = """<!doctype html>
<html lang="{lang}" data-root="{root}/"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<script src="{root}/{script}"></script><style>{styles}</style></head>
<body class="entrance"><main><h1>{title}</h1>{problem}{body}
<nav aria-label="{account}">{switches}</nav></main></body></html>
"""


def language_of(request: Request) -> str:
    """The language that `language.py` found."""
    return request.headers[LANGUAGE_HEADER]


def ticket_of(request: Request) -> Ticket:
    """Who asks, as `identity.py` found."""
    ticket: Ticket = request.scope["ticket"]
    return ticket


def form_page(
    request: Request, tickets: Tickets, *, title: str, body: str, problem: str = "", status: int = 200, wait_s: int = 0
) -> HTMLResponse:
    """A page of ours; `title` is text, `body` is HTML, `problem` is a sentence about what went wrong."""
    language = language_of(request)
    content = _PAGE.format(
        lang=page_html.LANG[language],
        title=escape(title),
        root=root_path(request.scope),
        script=page_html.script_name(),
        styles=Path(__file__).with_name("entrance.css").read_text(encoding="utf-8"),
        problem=f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else "",
        body=body,
        account=escape(say(language, "account")),
        switches=switches(language),
    )
    headers = {"cache-control": "no-store"} | ({"retry-after": str(wait_s)} if wait_s else {})
    response = HTMLResponse(content, status, headers=headers)
    if request.method == "GET" or request.scope["has_cookie"]:  # else another site may have sent it, to make us forget
        cookie = ticket_cookie(request.scope, tickets, renewed(ticket_of(request), tickets.now()))
        response.headers.append("set-cookie", cookie.decode())
    return response


def switches(language: str) -> str:
    """Buttons for language and colours; `page.js` hears them."""
    other = "en" if language == "zh" else "zh"
    theme = "".join(
        f'<span class="to-{name}" title="{escape(say(language, f"theme_to_{name}"))}">'
        f"{escape(say(language, f'theme_{name}'))}</span>"
        for name in ("dark", "light")
    )
    return (
        f'<button type="button" data-webui="language" value="{other}" lang="{page_html.LANG[other]}" '
        f'title="{escape(say(language, "language_switch"))}">{escape(say(language, "other_language"))}</button>'
        f'<button type="button" data-webui="theme">{theme}</button>'
    )


def token_field(request: Request, tickets: Tickets) -> str:
    """The hidden field of a form."""
    sealed = tickets.seal_bytes(b"form:" + ticket_of(request).person.encode())
    return f'<input type="hidden" name="form" value="{sealed}">'


async def read_form(request: Request, tickets: Tickets) -> dict[str, str] | None:
    """The fields of a form that we made for this person; None for any other."""
    body = b""
    try:
        async for portion in request.stream():
            body += portion
            if len(body) > _LARGEST_FORM_BYTES:
                return None
    except ClientDisconnect:
        return None
    fields = {n: v[0] for n, v in parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).items()}
    opened = tickets.open_bytes(fields.get("form", ""), lasts_s=_FORM_LASTS_S)
    is_ours = opened == b"form:" + ticket_of(request).person.encode() and request.scope["has_cookie"]
    return fields if is_ours else None


def escape(text: str) -> str:
    """Text inside HTML and its attributes."""
    return html.escape(text, quote=True)
