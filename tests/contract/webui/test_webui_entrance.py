"""Coming in over HTTP: the login by list, forms that nobody else can send, people's own keys, and who sees what."""

from __future__ import annotations

import asyncio
import html
import re
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from tests.contract.webui.visitor import Visitor
from tests.fakes.gateway import KEY, FakeGateway, Scenario, fake_gateway, serve
from tests.fakes.inference import fake_inference
from tests.running_gateway import run_gateway
from webui.guesses import FROM_ONE_ADDRESS
from webui.identity import COOKIE
from webui.main import create_app
from webui.settings import Settings
from webui.tickets import Ticket, Tickets
from webui.users import Users

pytestmark = pytest.mark.contract
SECRET = b"s" * 32
PASSWORD = "correct horse"
TICKETS = Tickets([SECRET], person_s=86_400, login_s=86_400)


@contextmanager
def web_ui(gateway_url: str, **settings: Any) -> Iterator[str]:
    async def app() -> Starlette:
        """In a loop, because without one Gradio makes one that nobody closes."""
        return create_app(Settings(gateway_url=gateway_url, secret=SECRET, **({"api_key": KEY} | settings)))

    with serve(asyncio.run(app()), lifespan="on") as url:
        yield url


@contextmanager
def browser(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=30, trust_env=False, follow_redirects=True) as client:
        yield client


def form_of(page: httpx2.Response) -> dict[str, str]:
    """The hidden fields of the first form."""
    found = re.search(r'name="form" value="([^"]+)"', page.text)
    assert found is not None, page.text[:500]
    return {"form": html.unescape(found[1])}


def log_in(client: httpx2.Client, name: str, password: str = PASSWORD, **headers: str) -> httpx2.Response:
    fields = {**form_of(client.get("/login")), "name": name, "password": password}
    return client.post("/login", data=fields, headers=headers)


def problem_in(page: httpx2.Response) -> str:
    found = re.search(r'<p class="problem" role="alert">(.*?)</p>', page.text)
    return html.unescape(found[1]) if found else ""


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as running:
        yield running


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Users:
    listed = Users(tmp_path_factory.mktemp("users") / "users")
    listed.put("ann", PASSWORD)
    listed.put("bob", PASSWORD)
    return listed


@pytest.fixture(scope="module")
def url(gateway: FakeGateway, users: Users) -> Iterator[str]:
    with web_ui(gateway.url, users_file=users.path) as running:
        yield running


def test_without_a_login_there_is_no_page_and_no_call(url: str, gateway: FakeGateway) -> None:
    gateway.state.requests.clear()
    with browser(url) as client:
        page = client.get("/")
        assert (str(page.url), "gradio_config" in page.text) == (f"{url}/login", False)
        call = client.post("/gradio_api/run/predict", json={"data": [], "fn_index": 0, "session_hash": "x"})
        assert (call.status_code, call.json()["error"]["code"]) == (401, "not_logged_in")
        assert client.get("/gradio_api/queue/data?session_hash=x").status_code == 401
        assert client.get("/key").status_code == 404
    assert gateway.state.requests == []


def test_who_logs_in_chats_under_their_name_from_every_browser(url: str, gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario()
    with browser(url) as client, browser(url) as elsewhere:
        assert "gradio_config" in log_in(client, "ann").text
        log_in(elsewhere, "ann")
        visitor = Visitor(url, client)
        gateway.state.requests.clear()
        assert "this is an answer" in visitor.chat("annspage", "Hello")
        assert {(asked["user"], asked["address"]) for asked in gateway.state.requests} == {("user:ann", None)}
        assert "annspage" not in client.cookies
        Visitor(url, elsewhere).predict("load", uuid.uuid4().hex, "")
        assert gateway.state.requests[-1]["user"] == "user:ann"


def test_logging_out_leaves_nothing(url: str) -> None:
    with browser(url) as client:
        log_in(client, "ann")
        before = client.cookies[COOKIE]
        assert str(client.get("/login").url) == f"{url}/"
        left = client.post("/logout")
        assert str(left.url) == f"{url}/login"
        assert client.cookies[COOKIE] != before
        assert "gradio_config" not in client.get("/").text


def test_a_get_changes_nothing(url: str) -> None:
    """An image in an answer could ask for it."""
    with browser(url) as client:
        log_in(client, "ann")
        assert client.get("/logout").status_code == 404
        assert "gradio_config" in client.get("/").text


@pytest.mark.parametrize(("name", "password"), [("ann", "wrong"), ("nobody", PASSWORD), ("", ""), ("ANN", PASSWORD)])
def test_a_wrong_name_and_a_wrong_password_are_told_alike(
    gateway: FakeGateway, users: Users, name: str, password: str
) -> None:
    with web_ui(gateway.url, users_file=users.path) as url, browser(url) as client:
        refused = log_in(client, name, password)
        assert refused.status_code == 403
        assert problem_in(refused) == "This name and password do not belong together. Please try again."
        assert "gradio_config" not in client.get("/").text
        chinese = log_in(client, name, password, **{"accept-language": "zh-CN"})
        assert problem_in(chinese) == "用户名或密码不正确，请重试。"
        assert 'lang="zh-CN"' in chinese.text


def test_guessing_ends_after_a_few_tries_even_with_the_right_one(gateway: FakeGateway, users: Users) -> None:
    with web_ui(gateway.url, users_file=users.path, trusted_proxy_hops=1) as url, browser(url) as client:
        stranger = {"x-forwarded-for": "203.0.113.9"}
        for _ in range(FROM_ONE_ADDRESS):
            assert log_in(client, "ann", "wrong", **stranger).status_code == 403
        refused = log_in(client, "ann", PASSWORD, **stranger)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 900
        assert "15 min" in problem_in(refused)
        assert "gradio_config" in log_in(client, "ann", PASSWORD, **{"x-forwarded-for": "203.0.113.10"}).text


def test_a_form_of_somebody_else_or_of_yesterday_logs_nobody_in(url: str) -> None:
    with browser(url) as ann, browser(url) as bob:
        stolen = form_of(bob.get("/login"))
        ann.get("/login")
        fields = {"name": "ann", "password": PASSWORD}
        for form in (stolen, {}, {"form": "x"}, {"form": TICKETS.seal_bytes(b"form:somebody")}):
            again = ann.post("/login", data={**form, **fields})
            assert "try again" in problem_in(again)
            assert "gradio_config" not in ann.get("/").text
        with browser(url) as without_cookies:
            assert "try again" in problem_in(without_cookies.post("/login", data={**stolen, **fields}))


def test_another_sites_form_is_refused_and_makes_nobody_forget_who_they_are(url: str) -> None:
    with browser(url) as client:
        page = client.get("/login")
        fields = {**form_of(page), "name": "ann", "password": PASSWORD}
        refused = client.post("/login", data=fields, headers={"sec-fetch-site": "cross-site"})
        assert (refused.status_code, refused.headers.get("set-cookie")) == (403, None)
    with browser(url) as without_cookies:
        assert without_cookies.post("/logout").status_code == 403
        assert COOKIE not in without_cookies.cookies


def test_who_is_removed_or_gets_another_password_is_out_at_once(url: str, users: Users) -> None:
    users.put("eve", PASSWORD)
    with browser(url) as client:
        assert "gradio_config" in log_in(client, "eve").text
        users.put("eve", "another one")
        assert "gradio_config" not in client.get("/").text
        assert "gradio_config" in log_in(client, "eve", "another one").text
        users.remove("eve")
        assert client.post("/gradio_api/run/predict", json={}).status_code == 401


@pytest.mark.parametrize(
    "value",
    [
        "0" * 32 + "." + "0" * 64,
        Tickets([b"t" * 32], person_s=9, login_s=9).seal(Ticket("user:ann", "ann", issued_at=TICKETS.now())),
        TICKETS.seal(Ticket("user:ann", "ann", "0" * 16, issued_at=TICKETS.now())),
        TICKETS.seal(Ticket("user:ann", "ann", issued_at=TICKETS.now())),
        TICKETS.seal(Ticket("oidc:" + "0" * 40, "ann", issued_at=TICKETS.now())),
    ],
    ids=["old form", "another secret", "wrong proof", "no proof", "no such provider"],
)
def test_forged_logins_are_nobody(url: str, value: str) -> None:
    with browser(url) as client:
        client.cookies.set(COOKIE, value)
        assert str(client.get("/").url) == f"{url}/login"


def test_a_login_ends(url: str, users: Users) -> None:
    def page_after(age_s: int) -> str:
        with browser(url) as client:
            ticket = Ticket("user:ann", "ann", users.proof("ann"), issued_at=TICKETS.now() - age_s)
            client.cookies.set(COOKIE, TICKETS.seal(ticket))
            return client.get("/").text

    assert "gradio_config" in page_after(29 * 86_400)
    assert "gradio_config" not in page_after(31 * 86_400)


def test_a_list_that_cannot_be_read_lets_nobody_in_and_says_so(gateway: FakeGateway, tmp_path: Path) -> None:
    users = Users(tmp_path / "users")
    users.put("ann", PASSWORD)
    with web_ui(gateway.url, users_file=users.path) as url, browser(url) as client:
        users.path.write_text("nonsense")
        refused = log_in(client, "ann")
        assert (refused.status_code, "cannot read" in problem_in(refused)) == (503, True)


def test_anonymous_people_and_logins_may_live_together(gateway: FakeGateway, users: Users) -> None:
    with web_ui(gateway.url, users_file=users.path, anonymous="yes") as url, browser(url) as client:
        assert "gradio_config" in client.get("/").text
        account = Visitor(url, client).predict("load_1", uuid.uuid4().hex).text
        assert 'action=\\"login\\"' in account
        log_in(client, "ann")
        account = Visitor(url, client).predict("load_1", uuid.uuid4().hex).text
        assert "Logged in as ann" in account


# --- keys of one's own


@pytest.fixture(scope="module")
def own_keys_url(gateway: FakeGateway) -> Iterator[str]:
    with web_ui(gateway.url, own_keys="required") as running:
        yield running


def use_key(client: httpx2.Client, key: str) -> httpx2.Response:
    return client.post("/key", data={**form_of(client.get("/key")), "key": key})


def test_with_a_key_of_their_own_history_and_limits_are_the_keys(tmp_path: Path) -> None:
    with fake_inference() as fake, run_gateway(tmp_path, fake) as gateway:
        key, other = gateway.new_key("ann", rpm=3), gateway.new_key("bob")
        with web_ui(gateway.url, api_key=gateway.webui_key, own_keys="required") as url:
            with browser(url) as ann, browser(url) as bob:
                assert str(ann.get("/").url) == f"{url}/key"
                assert "gradio_config" in use_key(ann, key).text
                use_key(bob, other)
                visitor = Visitor(url, ann)
                assert "conv_" in visitor.chat("annspage", "My secret is 42.")
                with httpx2.Client(base_url=gateway.url, headers={"authorization": f"Bearer {key}"}) as direct:
                    titles = [c["metadata"]["title"] for c in direct.get("/v1/conversations").json()["data"]]
                assert titles == ["My secret is 42."]
                assert "secret" not in Visitor(url, bob).predict("load", "bobspage", "").text
                assert "Too many messages" in visitor.chat("annspage", "Again")


def test_a_key_is_kept_where_nobody_reads_it_and_forgotten_when_asked(own_keys_url: str, gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario()
    with browser(own_keys_url) as client:
        entered = use_key(client, KEY)
        assert "gradio_config" in entered.text
        gateway.state.requests.clear()
        visitor = Visitor(own_keys_url, client)
        texts = [entered.text, visitor.chat("keyspage", "Hello"), client.get("/key").text, str(dict(client.cookies))]
        assert not [text for text in texts if KEY in text]
        assert {asked["user"] for asked in gateway.state.requests} == {""}
        cookie = entered.history[0].headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert KEY not in cookie
        gone = client.post("/key", data={**form_of(client.get("/key")), "forget": "1"})
        assert str(gone.url) == f"{own_keys_url}/key"
        assert client.post("/gradio_api/run/predict", json={}).status_code == 401


@pytest.mark.parametrize(
    ("key", "status", "said"),
    [
        ("sk-wrong-key", 403, "does not know this key"),
        ("", 400, "no API key"),
        ("sk-with a space", 400, "no API key"),
        ("sk-\r\nX-End-User: ann", 400, "no API key"),
        ("sk-密钥密钥密钥", 400, "no API key"),
    ],
)
def test_wrong_keys_are_told(own_keys_url: str, key: str, status: int, said: str) -> None:
    with browser(own_keys_url) as client:
        refused = use_key(client, key)
        assert refused.status_code == status
        assert said in problem_in(refused)
        assert str(client.get("/").url) == f"{own_keys_url}/key"


def test_guessing_keys_ends_after_a_few_tries(gateway: FakeGateway) -> None:
    with web_ui(gateway.url, own_keys="allowed") as url, browser(url) as client:
        codes = [use_key(client, f"sk-wrong-{n}").status_code for n in range(FROM_ONE_ADDRESS + 1)]
        assert codes == [403] * FROM_ONE_ADDRESS + [429]
        assert "gradio_config" in client.get("/").text


def test_a_key_that_was_revoked_is_told_as_theirs(tmp_path: Path) -> None:
    with fake_inference() as fake, run_gateway(tmp_path, fake) as gateway:
        key = gateway.new_key("ann")
        with web_ui(gateway.url, api_key=gateway.webui_key, own_keys="allowed") as url, browser(url) as client:
            use_key(client, key)
            visitor = Visitor(url, client)
            with httpx2.Client(base_url=gateway.url, headers={"authorization": f"Bearer {gateway.admin_key}"}) as admin:
                listed = admin.get("/v1/keys").json()["data"]
                admin.delete(f"/v1/keys/{next(one['id'] for one in listed if one['name'] == 'ann')}")
            assert "not accepted any more" in visitor.chat("annspage", "Hello")


def test_keys_are_forgotten_when_they_are_switched_off(gateway: FakeGateway) -> None:
    with web_ui(gateway.url) as url, browser(url) as client:
        client.cookies.set(COOKIE, TICKETS.seal(Ticket("a" * 32, key="sk-other", issued_at=TICKETS.now())))
        gateway.state.requests.clear()
        Visitor(url, client).predict("poll", "page", "")
        assert gateway.state.requests[-1]["user"] == "a" * 32


# --- limits


def test_one_persons_limit_is_not_the_others(tmp_path: Path) -> None:
    def speak(visitor: Visitor) -> str:
        return visitor.chat(uuid.uuid4().hex, "Hello")

    with fake_inference() as fake, run_gateway(tmp_path, fake, user_rpm=2) as gateway:
        with web_ui(gateway.url, api_key=gateway.webui_key) as url:
            ann, bob = Visitor(url), Visitor(url)
            with closing(ann.http), closing(bob.http):
                speak(ann)  # two requests: a conversation, and a message in it
                assert len(fake.chats) == 1
                assert "Too many messages" in speak(ann)
                assert len(fake.chats) == 1
                assert "Too many messages" not in speak(bob)
                assert len(fake.chats) == 2
