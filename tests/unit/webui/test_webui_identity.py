"""The signed cookie: only ours is believed, and nobody names their own id."""

from __future__ import annotations

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Scope

from webui.identity import COOKIE, PERSON_HEADER, IdentityMiddleware, new_person, sign, verify

pytestmark = pytest.mark.unit
SECRET = b"s" * 32


def test_a_signed_person_is_found_again() -> None:
    person = new_person()
    assert verify(sign(person, SECRET), SECRET) == person


@pytest.mark.parametrize(
    "forge",
    [
        lambda value: "",
        lambda value: ".",
        lambda value: value.partition(".")[0],
        lambda value: value[:-1],
        lambda value: value + "0",
        lambda value: new_person() + "." + value.partition(".")[2],
        lambda value: value.upper(),
        lambda value: value.replace(".", ""),
        lambda value: "../../etc/passwd." + "0" * 64,
        lambda value: "\ud800." + "é" * 64,
    ],
)
def test_forged_and_garbled_values_are_nobody(forge: object) -> None:
    assert callable(forge)
    assert verify(forge(sign(new_person(), SECRET)), SECRET) is None


def test_another_secret_does_not_count() -> None:
    assert verify(sign(new_person(), b"t" * 32), SECRET) is None


def ask(path: str = "/", headers: dict[str, str] | None = None, scheme: str = "http") -> tuple[str, list[str]]:
    """One request through the middleware: the person that the app saw, and the cookies that were set."""

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(",".join(request.headers.getlist(PERSON_HEADER)))

    routes = [Route("/", who), Route("/assets/x.js", who), Route("/gradio_api/run/predict", who)]
    app = IdentityMiddleware(Starlette(routes=routes), SECRET)
    raw = [(name.lower().encode(), value.encode("utf-8")) for name, value in (headers or {}).items()]
    scope: Scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"", "headers": raw, "scheme": scheme,
        "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(app, scope, receive, send)
    cookies = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
    return sent[1]["body"].decode(), cookies


def test_the_first_visit_makes_a_person_and_keeps_them_for_a_year() -> None:
    person, cookies = ask()
    assert len(person) == 32
    assert len(cookies) == 1
    assert cookies[0].startswith(f"{COOKIE}={sign(person, SECRET)};")
    assert "HttpOnly" in cookies[0]
    assert "SameSite=Lax" in cookies[0]
    assert "Max-Age=31536000" in cookies[0]
    assert "Secure" not in cookies[0]


def test_the_next_visit_is_the_same_person_and_renews_the_cookie() -> None:
    person, _ = ask()
    again, cookies = ask(headers={"Cookie": f"other=1; {COOKIE}={sign(person, SECRET)}"})
    assert again == person
    assert cookies[0].startswith(f"{COOKIE}={sign(person, SECRET)};")


def test_a_forged_cookie_makes_a_new_person() -> None:
    forged = "0" * 32
    person, cookies = ask(headers={"Cookie": f"{COOKIE}={forged}.{'0' * 64}"})
    assert person != forged
    assert len(cookies) == 1


def test_nobody_names_their_own_id() -> None:
    person, _ = ask(headers={"X-WebUI-Person": "0" * 32})
    assert "0" * 32 not in person
    assert "," not in person


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [({}, "https"), ({"X-Forwarded-Proto": "https"}, "http"), ({"X-Forwarded-Proto": "https, http"}, "http")],
)
def test_over_https_the_cookie_works_in_a_frame_of_another_site(headers: dict[str, str], scheme: str) -> None:
    _, cookies = ask(headers=headers, scheme=scheme)
    assert "SameSite=None; Secure; Partitioned" in cookies[0]


def test_files_set_no_cookie_because_shared_caches_keep_them() -> None:
    assert ask("/assets/x.js")[1] == []
    assert len(ask("/gradio_api/run/predict")[1]) == 1
