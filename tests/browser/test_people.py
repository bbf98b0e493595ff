"""Two people at one web UI, in browsers of their own: logins, stolen and expired cookies, two languages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.browser.chat_page import ChatPage, load
from tests.browser.conftest import PHONE, WebUI, start_webui
from tests.fakes.gateway import KEY, FakeGateway
from webui.tickets import Ticket, Tickets
from webui.users import Users

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
WAIT_MS = 45_000
SECRET = b"s" * 64
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def people_ui(_gateway_server: tuple[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """Anonymous people, a login and keys of their own, all at once."""
    folder = tmp_path_factory.mktemp("people")
    (folder / "webui.secret").write_bytes(SECRET)
    users = Users(folder / "webui.users")
    users.put("ann", PASSWORD)
    users.put("bob", PASSWORD)
    with start_webui(_gateway_server[0], folder, WEBUI_ANONYMOUS="yes", WEBUI_OWN_KEYS="allowed") as running:
        yield running


@pytest.fixture
def ann(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(locale="en-US")
    yield context
    context.close()


@pytest.fixture
def bob(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(locale="en-US")
    yield context
    context.close()


def page_of(context: BrowserContext, url: str) -> ChatPage:
    return ChatPage(context.new_page(), url).open()


def log_in(chat: ChatPage, name: str, password: str = PASSWORD) -> None:
    load(chat.page, f"{chat.url}/login", chat.page.locator("#name"))
    chat.page.fill("#name", name)
    chat.page.fill("#password", password)
    chat.page.press("#password", "Enter")


def cookie_of(context: BrowserContext) -> str:
    return str(next(c["value"] for c in context.cookies() if c["name"] == "webui_person"))


def give(context: BrowserContext, url: str, value: str) -> None:
    context.clear_cookies()
    context.add_cookies([{"name": "webui_person", "value": value, "url": url}])


def test_two_people_never_see_each_others_chats_whatever_cookie_they_make(
    gateway: FakeGateway, people_ui: WebUI, ann: BrowserContext, bob: BrowserContext
) -> None:
    hers = page_of(ann, people_ui.url).ask("Anns secret").answered("this is an answer.", timeout_s=45)
    expect(hers.conversation("Anns secret")).to_have_count(1)
    owner = gateway.state.requests[-1]["user"]
    sealed = cookie_of(ann)
    now = int(time.time())
    others = Tickets([b"x" * 64], person_s=10**9, login_s=10**9)
    own = Tickets([SECRET], person_s=10**9, login_s=10**9)
    forged = {
        "her id in the old form": f"{owner}.{'0' * 64}",
        "her id alone": owner,
        "her id under another secret": others.seal(Ticket(owner, issued_at=now)),
        "hers, cut": sealed[:-6],
        "hers, with other letters": sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:],
        "hers of two years ago": own.seal(Ticket(owner, issued_at=now - 730 * 86_400)),
    }
    his = ChatPage(bob.new_page(), people_ui.url)
    for what, value in forged.items():
        give(bob, people_ui.url, value)
        his.open()
        expect(his.conversation("Anns secret")).to_have_count(0)
        assert gateway.state.requests[-1]["user"] != owner, what
        assert cookie_of(bob) != value, what
    kept = hers.page.evaluate("JSON.stringify(localStorage)")
    his.page.evaluate("kept => Object.entries(JSON.parse(kept)).forEach(([k, v]) => localStorage.setItem(k, v))", kept)
    his.open()
    expect(his.questions).to_have_count(0)
    expect(his.log).not_to_contain_text("secret")
    assert "webui_person" not in hers.page.evaluate("document.cookie")


def test_another_persons_session_is_nobodys_business(
    gateway: FakeGateway, people_ui: WebUI, ann: BrowserContext, bob: BrowserContext
) -> None:
    sessions: list[str] = []
    hers = ChatPage(ann.new_page(), people_ui.url)
    hers.page.on(
        "request", lambda r: sessions.append(r.url) if "session_hash=" in r.url or "/heartbeat/" in r.url else None
    )
    hers.open().ask("Anns secret").answered("this is an answer.", timeout_s=45)
    page_of(bob, people_ui.url)
    session = next(url for url in sessions if "session_hash=" in url).split("session_hash=")[1].split("&")[0]
    cookies = {"webui_person": cookie_of(bob)}
    with httpx2.Client(base_url=people_ui.url, cookies=cookies, trust_env=False) as http:
        assert http.get("/gradio_api/queue/data", params={"session_hash": session}).status_code == 404
        join = {"data": [], "fn_index": 0, "session_hash": session}
        assert http.post("/gradio_api/queue/join", json=join).status_code == 404
        assert http.post("/gradio_api/run/predict", json=join).status_code == 404
        assert http.post("/gradio_api/cancel", json={**join, "event_id": uuid.uuid4().hex}).status_code == 404
        assert http.get(f"/gradio_api/heartbeat/{session}").status_code == 404


def test_who_logs_in_finds_their_chats_in_every_browser_and_nothing_after_logging_out(
    gateway: FakeGateway, people_ui: WebUI, ann: BrowserContext, bob: BrowserContext
) -> None:
    hers = page_of(ann, people_ui.url)
    hers.page.locator("#account form[action=login] button").click()
    expect(hers.page.locator("#name")).to_be_visible(timeout=WAIT_MS)
    log_in(hers, "ann", "wrong")
    expect(hers.page.locator("[role=alert]")).to_contain_text("do not belong together", timeout=WAIT_MS)
    log_in(hers, "ann")
    expect(hers.page.locator("#account .who")).to_have_text("Logged in as ann", timeout=WAIT_MS)
    hers.ask("A chat of Ann").answered("this is an answer.", timeout_s=45)
    elsewhere = page_of(bob, people_ui.url)
    log_in(elsewhere, "ann")
    expect(elsewhere.conversation("A chat of Ann")).to_have_count(1, timeout=WAIT_MS)
    elsewhere.page.evaluate("localStorage.setItem('webui.draft', 'half a thought')")
    elsewhere.page.locator("#account form[action=logout] button").click()
    expect(elsewhere.page.locator("#account form[action=login]")).to_have_count(1, timeout=WAIT_MS)
    expect(elsewhere.conversation("A chat of Ann")).to_have_count(0)
    assert "half a thought" not in elsewhere.page.evaluate("JSON.stringify(localStorage)")
    log_in(elsewhere, "bob")
    expect(elsewhere.page.locator("#account .who")).to_have_text("Logged in as bob", timeout=WAIT_MS)
    expect(elsewhere.conversation("A chat of Ann")).to_have_count(0)


def test_a_key_of_ones_own_is_entered_used_and_forgotten(
    gateway: FakeGateway, people_ui: WebUI, ann: BrowserContext
) -> None:
    hers = page_of(ann, people_ui.url)
    bodies: list[str] = []
    hers.page.locator("#account form[action=key] button").click()
    expect(hers.page.locator("#key")).to_be_visible(timeout=WAIT_MS)
    hers.page.fill("#key", "sk-wrong")
    hers.page.press("#key", "Enter")
    expect(hers.page.locator("[role=alert]")).to_contain_text("does not know this key", timeout=WAIT_MS)
    assert hers.page.input_value("#key") == ""
    hers.page.fill("#key", KEY)
    hers.page.press("#key", "Enter")
    expect(hers.page.locator("#account form[action=key]")).to_have_text("Your API key is in use", timeout=WAIT_MS)
    hers.ask("With my key").answered("this is an answer.", timeout_s=45)
    assert gateway.state.requests[-1]["user"] == ""
    bodies.append(hers.page.content())
    bodies.append(hers.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])"))
    bodies.append(str(ann.cookies()))
    assert not [body for body in bodies if KEY in body]
    load(hers.page, f"{people_ui.url}/key", hers.page.locator("[name=forget]"))
    hers.page.click("[name=forget]")
    expect(hers.page.locator("#account form[action=key]")).to_have_text("Your API key", timeout=WAIT_MS)
    expect(hers.conversation("With my key")).to_have_count(0)


def test_language_and_colours_are_switched_and_kept(gateway: FakeGateway, people_ui: WebUI, browser: Browser) -> None:
    context = browser.new_context(
        locale="en-US", color_scheme="light", viewport={"width": PHONE[0], "height": PHONE[1]}
    )
    chat = page_of(context, people_ui.url)
    page = chat.page
    is_dark = "document.body.classList.contains('dark')"
    chat.toggle.click()
    page.locator("#account [data-webui=theme]").click()
    expect(page.locator("body.dark")).to_have_count(1)
    page.locator("#account [data-webui=language]").click()
    expect(chat.send).to_have_text("发送", timeout=WAIT_MS)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    assert page.evaluate(is_dark)
    load(page, f"{people_ui.url}/login", page.locator("#name"))  # kept: by the cookie, in another kind of page
    expect(page.locator("h1")).to_have_text("登录")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.locator("[data-webui=language]").click()
    expect(page.locator("h1")).to_have_text("Log in", timeout=WAIT_MS)
    chat.open()
    expect(chat.send).to_have_text("Send", timeout=WAIT_MS)
    page.emulate_media(color_scheme="dark")
    chat.toggle.click()
    page.locator("#account [data-webui=theme]").click()
    expect(page.locator("body.dark")).to_have_count(0)
    chat.open()
    assert not page.evaluate(is_dark), "the choice counts, not the system"
    assert chat.hosts() == {"127.0.0.1"}
    context.close()
