"""Logging in at a real little OpenID Connect provider, and at one that lies."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from tests.contract.webui.test_webui_entrance import browser, form_of, problem_in, web_ui
from tests.contract.webui.visitor import Visitor
from tests.fakes.gateway import FakeGateway, fake_gateway
from webui.oidc import person_of
from webui.settings import Oidc

pytestmark = [
    pytest.mark.contract,
    # the provider under test is built on parts of Authlib that their authors want gone
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:authlib.deprecate.AuthlibDeprecationWarning"),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as running:
        yield running


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with warnings.catch_warnings():  # it is built on parts of Authlib that are to go
        warnings.simplefilter("ignore")
        import oidc_provider_mock
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with oidc_provider_mock.run_server_in_thread(require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def url(gateway: FakeGateway, issuer: str) -> Iterator[str]:
    oidc = Oidc(issuer, "chat", "hush", "Example", "openid profile email")
    with web_ui(gateway.url, oidc=oidc) as running:
        yield running


def begin(client: httpx2.Client) -> httpx2.Response:
    """The way to the provider, up to its own page."""
    page = client.get("/login")
    assert "Log in with Example" in page.text
    return client.post("/login/oidc", data=form_of(page))


def log_in(client: httpx2.Client, subject: str) -> httpx2.Response:
    at_provider = begin(client)
    return client.post(str(at_provider.url), data={"sub": subject})


def test_a_person_of_the_provider_comes_in_and_is_the_same_one_next_time(
    url: str, issuer: str, gateway: FakeGateway
) -> None:
    people = set()
    for subject in ("ann", "ann", "bob"):
        with browser(url) as client:
            assert str(client.get("/").url) == f"{url}/login"
            page = log_in(client, subject)
            assert "gradio_config" in page.text, page.text[:2000]
            visitor = Visitor(url, client)
            assert f"Logged in as {subject}" in visitor.predict("load_1", uuid.uuid4().hex).text
            visitor.predict("poll", uuid.uuid4().hex, "")
            people.add(gateway.state.requests[-1]["user"])
    assert people == {person_of(issuer, "ann"), person_of(issuer, "bob")}
    assert all(re.fullmatch(r"oidc:[0-9a-f]{40}", person) for person in people)


def test_the_way_there_has_state_nonce_and_a_code_challenge(url: str, issuer: str) -> None:
    with browser(url) as client:
        client.follow_redirects = False
        page = client.get("/login")
        sent = client.post("/login/oidc", data=form_of(page))
        there = httpx2.URL(sent.headers["location"])
        assert (sent.status_code, f"{there.scheme}://{there.host}:{there.port}") == (302, issuer)
        assert there.params["redirect_uri"] == f"{url}/login/oidc/callback"
        assert there.params["code_challenge_method"] == "S256"
        assert min(len(there.params[name]) for name in ("state", "nonce", "code_challenge")) > 15
        cookie = next(c for c in sent.headers.get_list("set-cookie") if c.startswith("webui_oidc="))
        assert "Max-Age=600; HttpOnly; SameSite=Lax" in cookie
        assert there.params["state"] not in cookie


def test_another_sites_form_does_not_begin_a_login(url: str) -> None:
    with browser(url) as client:
        client.get("/login")
        assert "try again" in problem_in(client.post("/login/oidc", data={}))
        assert client.get("/login/oidc").status_code == 404


def test_who_comes_back_must_have_been_sent(url: str) -> None:
    with browser(url) as ann, browser(url) as bob:
        at_provider = begin(ann)
        ann.follow_redirects = False
        back = ann.post(str(at_provider.url), data={"sub": "ann"}).headers["location"]
        stolen = bob.get(back)
        assert stolen.status_code == 403
        assert "begun in another window" in problem_in(stolen)
        assert "gradio_config" not in bob.get("/").text
        for query in ("?code=x&state=y", "", "?state=y", "?error=access_denied"):
            refused = bob.get("/login/oidc/callback" + query)
            assert (refused.status_code, "did not work" in problem_in(refused)) == (403, True), query
        assert ann.get(back).status_code == 303
        assert ann.get(back).status_code == 403  # once


def test_a_refusal_at_the_provider_is_told(url: str) -> None:
    with browser(url) as client:
        at_provider = begin(client)
        refused = client.post(str(at_provider.url), data={"action": "deny"})
        assert "cancelled or refused" in problem_in(refused)


def test_a_provider_that_is_away_is_told(gateway: FakeGateway) -> None:
    oidc = Oidc("http://localhost:9", "chat", "hush", "Example")
    with web_ui(gateway.url, oidc=oidc) as url, browser(url) as client:
        refused = begin(client)
        assert (refused.status_code, "does not answer" in problem_in(refused)) == (502, True)


def test_logging_out_ends_it_here(url: str) -> None:
    with browser(url) as client:
        log_in(client, "ann")
        assert str(client.post("/logout").url) == f"{url}/login"
        assert "gradio_config" not in client.get("/").text


# --- a provider that lies: what it says of itself is right, what it says of people is not


class Liar:
    """What the next token endpoint's answer is."""

    token: Any = None
    issuer = ""


@contextmanager
def lying_provider() -> Iterator[type[Liar]]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            paths = {"authorization_endpoint": "/auth", "token_endpoint": "/token", "jwks_uri": "/jwks"}
            if self.path == "/jwks":
                self._answer({"keys": []})
            else:
                self._answer({"issuer": Liar.issuer, **{name: Liar.issuer + path for name, path in paths.items()}})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(Liar.token)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Liar.issuer = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Liar
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def liar(gateway: FakeGateway) -> Iterator[str]:
    with lying_provider() as provider:
        with web_ui(gateway.url, oidc=Oidc(provider.issuer, "chat", "hush", "Example")) as url:
            yield url


UNSIGNED = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsImlzcyI6IngiLCJhdWQiOiJjaGF0IiwiZXhwIjo0MTAyNDQ0ODAwfQ."


@pytest.mark.parametrize(
    "token",
    [
        {"access_token": "x", "token_type": "bearer"},
        {"access_token": "x", "token_type": "bearer", "id_token": "garbage"},
        {"access_token": "x", "token_type": "bearer", "id_token": UNSIGNED},
        {"access_token": "x", "token_type": "bearer", "userinfo": {"sub": "admin"}},
        {"error": "invalid_grant"},
        [],
        "text",
    ],
    ids=["no id token", "garbage", "unsigned", "userinfo of its own", "error", "a list", "a text"],
)
def test_what_cannot_be_trusted_lets_nobody_in(liar: str, token: Any) -> None:
    Liar.token = token
    with browser(liar) as client:
        client.follow_redirects = False
        there = client.post("/login/oidc", data=form_of(client.get("/login"))).headers["location"]
        state = httpx2.URL(there).params["state"]
        refused = client.get(f"/login/oidc/callback?code=x&state={state}")
        assert refused.status_code == 403, refused.text[:1000]
        assert "did not work" in problem_in(refused)
        assert client.get("/").status_code == 303
