"""Who asks: the cookie, the header of a frame without cookies, and that nobody names their own id."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Scope

from webui.identity import (
    COOKIE,
    KEY_HEADER,
    NAME_HEADER,
    PERSON_HEADER,
    TOKEN_HEADER,
    Check,
    IdentityMiddleware,
    name_of,
)
from webui.tickets import Ticket, Tickets

pytestmark = pytest.mark.unit
NOW, DAY_S = 1_800_000_000, 86_400
TICKETS = Tickets([b"s" * 32], person_s=365 * DAY_S, login_s=30 * DAY_S, clock=lambda: NOW)
ANN = Ticket("a" * 32, issued_at=NOW)


def ask(
    path: str = "/",
    headers: dict[str, str] | None = None,
    scheme: str = "http",
    *,
    root_path: str = "",
    check: Check = lambda ticket: ticket,
) -> tuple[dict[str, list[str]], list[str]]:
    """One request through the middleware: what the app saw, and the cookies that were set."""

    async def who(request: Request) -> JSONResponse:
        return JSONResponse({name: request.headers.getlist(name) for name in (PERSON_HEADER, NAME_HEADER, KEY_HEADER)})

    routes = [Route(one, who) for one in ("/", "/assets/x.js", "/gradio_api/run/predict", "/login")]
    app = IdentityMiddleware(Starlette(routes=routes), TICKETS, check)
    raw = [(name.lower().encode(), value.encode("utf-8")) for name, value in (headers or {}).items()]
    scope: Scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"", "headers": raw, "scheme": scheme,
        "http_version": "1.1", "root_path": root_path,
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(app, scope, receive, send)
    cookies = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]

    return json.loads(sent[1]["body"]), cookies


def person_of(seen: dict[str, list[str]]) -> str:
    assert len(seen[PERSON_HEADER]) == 1
    return seen[PERSON_HEADER][0]


def cookie(ticket: Ticket) -> dict[str, str]:
    return {"Cookie": f"other=1; {COOKIE}={TICKETS.seal(ticket)}"}


def kept_in(cookies: list[str]) -> Ticket:
    """The ticket that a browser keeps now."""
    assert len(cookies) == 1
    ticket = TICKETS.open(cookies[0].removeprefix(f"{COOKIE}=").split(";")[0])
    assert ticket is not None
    return ticket


def test_the_first_visit_makes_a_person_and_keeps_them_for_a_year() -> None:
    seen, cookies = ask()
    assert len(person_of(seen)) == 32
    assert kept_in(cookies) == Ticket(person_of(seen), issued_at=NOW)
    assert cookies[0].endswith("; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax")


def test_the_next_visit_is_the_same_person_and_renews_the_cookie() -> None:
    seen, cookies = ask(headers=cookie(replace(ANN, issued_at=NOW - 300 * DAY_S)))
    assert person_of(seen) == ANN.person
    assert kept_in(cookies) == ANN


def test_a_login_is_not_renewed() -> None:
    login = Ticket("user:ann", "Ann 安", "p", issued_at=NOW - 20 * DAY_S)
    seen, cookies = ask(headers=cookie(login))
    assert (person_of(seen), name_of(seen[NAME_HEADER][0])) == ("user:ann", "Ann 安")
    assert kept_in(cookies) == login
    assert f"Max-Age={10 * DAY_S};" in cookies[0]


@pytest.mark.parametrize(
    "value",
    [
        "0" * 32 + "." + "0" * 64,
        "",
        TICKETS.seal(replace(ANN, issued_at=NOW - 365 * DAY_S)),
        Tickets([b"t" * 32], person_s=10, login_s=10, clock=lambda: NOW).seal(ANN),
        TICKETS.seal(ANN)[:-2],
    ],
    ids=["forged", "empty", "expired", "of another secret", "cut"],
)
def test_a_cookie_that_does_not_count_makes_a_new_person(value: str) -> None:
    seen, cookies = ask(headers={"Cookie": f"{COOKIE}={value}"})
    assert person_of(seen) not in {"0" * 32, ANN.person}
    assert kept_in(cookies).person == person_of(seen)


def test_of_several_cookies_the_good_one_counts() -> None:
    headers = {"Cookie": f"{COOKIE}=garbage; {COOKIE}={TICKETS.seal(ANN)}"}
    assert person_of(ask(headers=headers)[0]) == ANN.person


def test_who_may_no_longer_log_in_is_somebody_new() -> None:
    seen, _ = ask(headers=cookie(Ticket("user:ann", "ann", issued_at=NOW)), check=lambda ticket: None)
    assert person_of(seen) != "user:ann"
    assert seen[NAME_HEADER] == []


def test_nobody_names_their_own_id_name_or_key() -> None:
    forged = {"X-WebUI-Person": "0" * 32, "X-WebUI-Name": "admin", "X-WebUI-Key": "sk-forged"}
    seen, _ = ask(headers=forged)
    assert person_of(seen) != "0" * 32
    assert (seen[NAME_HEADER], seen[KEY_HEADER]) == ([], [])


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [({}, "https"), ({"X-Forwarded-Proto": "https"}, "http"), ({"X-Forwarded-Proto": "https, http"}, "http")],
)
def test_over_https_the_cookie_works_in_a_frame_of_another_site(headers: dict[str, str], scheme: str) -> None:
    assert "HttpOnly; SameSite=None; Secure; Partitioned" in ask(headers=headers, scheme=scheme)[1][0]


def test_behind_a_prefix_the_cookie_is_for_that_prefix() -> None:
    assert "Path=/chat;" in ask(root_path="/chat")[1][0]


def test_files_set_no_cookie_because_shared_caches_keep_them() -> None:
    assert ask("/assets/x.js")[1] == []
    assert len(ask("/gradio_api/run/predict")[1]) == 1


def test_a_page_that_stays_open_for_days_renews_its_cookie_by_its_calls() -> None:
    assert ask("/gradio_api/run/predict", cookie(ANN))[1] == []
    old = replace(ANN, issued_at=NOW - 2 * DAY_S)
    assert kept_in(ask("/gradio_api/run/predict", cookie(old))[1]) == ANN


def test_another_sites_call_makes_no_browser_forget_who_it_is() -> None:
    foreign = {"Origin": "http://evil.test", "Host": "chat.test"}
    assert ask("/gradio_api/run/predict", foreign)[1] == []
    assert len(ask("/gradio_api/run/predict", {"Origin": "http://chat.test", "Host": "chat.test"})[1]) == 1


def test_where_no_cookie_comes_the_header_counts_and_sets_none() -> None:
    token = {TOKEN_HEADER: TICKETS.seal(ANN)}
    seen, cookies = ask("/gradio_api/run/predict", token)
    assert (person_of(seen), cookies) == (ANN.person, [])
    bob = replace(ANN, person="b" * 32)
    assert person_of(ask("/gradio_api/run/predict", {**token, **cookie(bob)})[0]) == bob.person
    assert person_of(ask("/gradio_api/run/predict", {TOKEN_HEADER: "0" * 32 + "." + "0" * 64})[0]) != "0" * 32
