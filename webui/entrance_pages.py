"""What the forms of `entrance.py` look like: HTML whose texts are in the visitor's language, and escaped."""

from __future__ import annotations

from starlette.requests import Request

from webui.forms import escape, language_of, ticket_of
from webui.public_address import root_path
from webui.texts import say


def login_body(
    request: Request, token: str, *, takes_passwords: bool, provider: str | None, allows_anonymous: bool
) -> str:
    """The ways to log in; `token` is the hidden field, `provider` the name of one (perhaps ""), None for none."""
    language = language_of(request)
    parts = [f"<p>{escape(say(language, 'login_needed'))}</p>"] if not allows_anonymous else []
    parts.append(_own_tab(request, "login"))
    if takes_passwords:
        parts.append(_password_form(request, token))
    if provider is not None:
        label = say(language, "login_with", provider=provider or say(language, "login_provider"))
        action = f"{root_path(request.scope)}/login/oidc"
        parts.append(f'<form method="post" action="{action}">{token}<button>{escape(label)}</button></form>')
    if allows_anonymous:
        parts.append(_back(request))
    return "".join(parts)


def key_body(request: Request, token: str, *, is_required: bool, may_chat: bool) -> str:
    """The form for a key of one's own, and the button that forgets the one that is in use."""
    language, ticket = language_of(request), ticket_of(request)
    action = f'method="post" action="{root_path(request.scope)}/key"'
    parts = [_own_tab(request, "key")]
    if ticket.key:
        forget = escape(say(language, "own_key_forget"))
        parts.append(f'<p role="status">{escape(say(language, "own_key_in_use"))}</p>')
        parts.append(f'<form {action}>{token}<button name="forget" value="1">{forget}</button></form>')
    elif is_required:
        parts.append(f"<p>{escape(say(language, 'own_key_needed'))}</p>")
    field = '<input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required>'
    parts.append(
        f'<form {action}>{token}<label for="key">{escape(say(language, "own_key"))}</label>{field}'
        f'<p class="about">{escape(say(language, "own_key_about"))}</p>'
        f"<button>{escape(say(language, 'own_key_use'))}</button></form>"
    )
    if may_chat:
        parts.append(_back(request))
    return "".join(parts)


def _password_form(request: Request, token: str) -> str:
    language = language_of(request)
    return (
        f'<form method="post" action="{root_path(request.scope)}/login">{token}'
        f'<label for="name">{escape(say(language, "login_name"))}</label>'
        '<input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" '
        'maxlength="64" required>'
        f'<label for="password">{escape(say(language, "login_password"))}</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" '
        'maxlength="1024" required>'
        f"<button>{escape(say(language, 'login'))}</button></form>"
    )


def _own_tab(request: Request, path: str) -> str:
    """Shown by the styles inside another site's frame only, where `page.js` marks the page."""
    address = f"{root_path(request.scope)}/{path}"
    text = escape(say(language_of(request), "open_in_tab"))
    return f'<p class="own-tab"><a href="{address}" target="_blank" rel="noopener">{text}</a></p>'


def _back(request: Request) -> str:
    return f'<p><a href="{root_path(request.scope)}/">{escape(say(language_of(request), "back_to_chat"))}</a></p>'
