"""Who may come in, and how: a login by our list of users or at a provider, and people's own API keys.

`EntranceMiddleware` sends whoever may not chat yet to the right form; `Entrance.routes` are those forms, whose HTML is
in `entrance_pages.py`. Nothing is changed by a GET: an image in an answer could ask for that.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from webui.address import ADDRESS_HEADER
from webui.client import GatewayClient
from webui.door import refusal
from webui.entrance_pages import key_body, login_body
from webui.errors import GatewayError, LoginError, UsersError
from webui.forms import form_page, language_of, read_form, ticket_of, token_field
from webui.guesses import Guesses
from webui.identity import Person, tell_ticket, ticket_cookie
from webui.public_address import root_path
from webui.render import error_sentence
from webui.settings import Settings
from webui.texts import say
from webui.tickets import Ticket, Tickets, new_person
from webui.users import Users

if TYPE_CHECKING:
    from webui.oidc import Provider

_PATHS = ("/login", "/logout", "/login/oidc", "/login/oidc/callback", "/key")  # Gradio has some of these names, too
_KEY = re.compile(r"[\x21-\x7e]{4,256}")
_FOR_ALL = re.compile(
    r"/(login|login/oidc|login/oidc/callback|logout|key|identity)|/(assets|static)/.+|/webui/[a-z_]+\.js"
    r"|/(theme\.css|favicon\.ico|robots\.txt|manifest\.json)"
)
_HASHES_AT_ONCE, _MOST_WAITING = 2, 50


class Entrance:
    """The rules and the forms; shared by all people."""

    def __init__(self, settings: Settings, tickets: Tickets, client: GatewayClient) -> None:
        self._tickets = tickets
        self._client = client
        self._own_keys = settings.own_keys
        self._allows_anonymous = settings.allows_anonymous
        self._users = Users(settings.users_file) if settings.users_file.exists() else None
        self._provider = _provider(settings, tickets)
        self._guesses = Guesses()
        self._hashing = anyio.CapacityLimiter(_HASHES_AT_ONCE)

    @property
    def has_login(self) -> bool:
        """Whether there is a way to log in."""
        return self._users is not None or self._provider is not None

    @property
    def takes_keys(self) -> bool:
        """Whether people may use a key of their own."""
        return self._own_keys != "no"

    @property
    def routes(self) -> list[Route]:
        """Our own pages."""
        routes = [Route("/identity", tell_ticket(self._tickets), methods=["POST"])]
        if self.has_login:
            routes += [Route("/login", self._login, methods=["GET", "POST"])]
            routes += [Route("/logout", self._logout, methods=["POST"])]
        if self._provider is not None:
            routes += [Route("/login/oidc", self._begin_at_provider, methods=["POST"])]
            routes += [Route("/login/oidc/callback", self._finish_at_provider, methods=["GET"])]
        if self.takes_keys:
            routes += [Route("/key", self._key, methods=["GET", "POST"])]
        off = [Route(path, _nothing, methods=["GET", "POST"]) for path in _PATHS]
        return [*routes, *off]

    def current(self, ticket: Ticket) -> Ticket | None:
        """The ticket as far as it still holds: its user may have been removed, keys may be off by now."""
        if ticket.name and ticket.proof != self._proof_of(ticket):
            return None
        return ticket if self.takes_keys else replace(ticket, key="")

    def lacks(self, ticket: Ticket) -> str:
        """The form that somebody has to fill in first; "" when they may chat."""
        if not ticket.name and not self._allows_anonymous:
            return "login"
        return "key" if self._own_keys == "required" and not ticket.key else ""

    def _proof_of(self, ticket: Ticket) -> str:
        if ticket.person.startswith("user:"):
            return self._users.proof(ticket.name) if self._users else "none"
        return self._provider.proof if self._provider else "none"

    # --- logging in

    async def _login(self, request: Request) -> Response:
        if request.method == "GET":
            return _to_chat(request) if ticket_of(request).name else self._login_page(request, _again(request))
        language = language_of(request)
        form = await read_form(request, self._tickets)
        if self._users is None or form is None:
            return _to_form(request, "login?again=1")
        name, address = form.get("name", "").strip(), request.headers.get(ADDRESS_HEADER, "")
        if wait_s := self._guesses.begin(address, name):
            return self._login_page(request, _wait(language, wait_s), status=429, wait_s=wait_s)
        if self._hashing.statistics().tasks_waiting >= _MOST_WAITING:
            return self._login_page(request, say(language, "login_busy"), status=503, wait_s=5)
        try:
            knows = self._users.knows
            is_right = await anyio.to_thread.run_sync(knows, name, form.get("password", ""), limiter=self._hashing)
        except UsersError:
            return self._login_page(request, say(language, "login_unreadable"), status=503)
        if not is_right:
            return self._login_page(request, say(language, "login_wrong"), status=403)
        self._guesses.was_right(address, name)
        now = self._tickets.now()
        return self._enter(request, Ticket(f"user:{name}", name, self._users.proof(name), issued_at=now))

    async def _begin_at_provider(self, request: Request) -> Response:
        assert self._provider is not None
        if await read_form(request, self._tickets) is None:
            return _to_form(request, "login?again=1")
        try:
            return await self._provider.begin(request)
        except LoginError as error:
            return self._login_page(request, _told(error, language_of(request)), status=502)

    async def _finish_at_provider(self, request: Request) -> Response:
        assert self._provider is not None
        try:
            response = self._enter(request, await self._provider.finish(request))
        except LoginError as error:
            response = self._login_page(request, _told(error, language_of(request)), status=403)
        return self._provider.forget_state(request, response)

    async def _logout(self, request: Request) -> Response:
        """Somebody new is at this browser: nothing of the login, and no key, stays in its ticket."""
        if not request.scope["has_cookie"]:  # other sites cannot send it along
            return refusal(403, "cross_site", "This is only for pages of the web UI itself.")
        return self._enter(request, Ticket(new_person(), issued_at=self._tickets.now()))

    def _login_page(self, request: Request, problem: str = "", *, status: int = 200, wait_s: int = 0) -> Response:
        title = say(language_of(request), "login_title")
        body = login_body(
            request,
            token_field(request, self._tickets),
            takes_passwords=self._users is not None,
            provider=self._provider.name if self._provider is not None else None,
            allows_anonymous=self._allows_anonymous,
        )
        return form_page(request, self._tickets, title=title, body=body, problem=problem, status=status, wait_s=wait_s)

    # --- a key of one's own

    async def _key(self, request: Request) -> Response:
        language, ticket = language_of(request), ticket_of(request)
        if self.lacks(ticket) == "login":
            return _to_form(request, "login")
        if request.method == "GET":
            return self._key_page(request, _again(request))
        form = await read_form(request, self._tickets)
        if form is None:
            return _to_form(request, "key?again=1")
        if "forget" in form:
            return self._enter(request, replace(ticket, key=""))
        key, address = form.get("key", "").strip(), request.headers.get(ADDRESS_HEADER, "")
        if not _KEY.fullmatch(key):
            return self._key_page(request, say(language, "own_key_form"), status=400)
        if wait_s := self._guesses.begin(address):
            return self._key_page(request, _wait(language, wait_s), status=429, wait_s=wait_s)
        try:
            await self._client.status(Person(ticket.person, key=key))
        except GatewayError as error:
            is_wrong = error.code in {"own_key_refused", "insufficient_scope"}
            sentence = say(language, "own_key_wrong") if is_wrong else error_sentence(error, language)
            return self._key_page(request, sentence, status=403 if is_wrong else 502)
        self._guesses.was_right(address)
        return self._enter(request, replace(ticket, key=key))

    def _key_page(self, request: Request, problem: str = "", *, status: int = 200, wait_s: int = 0) -> Response:
        title, token = say(language_of(request), "own_key_title"), token_field(request, self._tickets)
        may_chat = not self.lacks(ticket_of(request))
        body = key_body(request, token, is_required=self._own_keys == "required", may_chat=may_chat)
        return form_page(request, self._tickets, title=title, body=body, problem=problem, status=status, wait_s=wait_s)

    def _enter(self, request: Request, ticket: Ticket) -> Response:
        response = _to_chat(request)
        response.headers.append("set-cookie", ticket_cookie(request.scope, self._tickets, ticket).decode())
        return response


class EntranceMiddleware:
    """Sends whoever may not chat yet to the form that they lack; answers calls of an open page with 401.

    What is not named as being for all is closed, so that a route of tomorrow is.
    """

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self._app = app
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http" or _FOR_ALL.fullmatch(scope["path"]):
            return self._app
        form = self._entrance.lacks(scope["ticket"])
        if not form:
            return self._app
        if scope["path"] == "/":
            return RedirectResponse(f"{root_path(scope)}/{form}", 303, headers={"cache-control": "no-store"})
        return refusal(401, "not_logged_in", "Log in first, or enter your API key: reload the page.")


def _nothing(request: Request) -> Response:
    """What is switched off; whatever Gradio has under such a name stays behind it."""
    return refusal(404, "not_found", "There is nothing at this address.")


def _provider(settings: Settings, tickets: Tickets) -> Provider | None:
    """Authlib is loaded only where there is a provider."""
    if not settings.oidc.issuer:
        return None
    from webui.oidc import Provider

    return Provider(settings.oidc, tickets)


def _to_chat(request: Request) -> Response:
    return _to_form(request, "")


def _to_form(request: Request, form: str) -> Response:
    return RedirectResponse(f"{root_path(request.scope)}/{form}", 303, headers={"cache-control": "no-store"})


def _again(request: Request) -> str:
    """What to say to somebody whose form was not one that we made for them."""
    return say(language_of(request), "cookies_refused") if "again" in request.query_params else ""


def _told(error: LoginError, language: str) -> str:
    return say(language, error.key, reason=say(language, error.reason) if error.reason else "")


def _wait(language: str, wait_s: int) -> str:
    return say(language, "login_wait", minutes=-(-wait_s // 60))
