"""Inside another site's page, behind a path prefix and behind TLS: real nginx, real browsers that refuse cookies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, FrameLocator, Page, Playwright, expect

from tests.browser.chat_page import ANSWERS, ChatPage, load
from tests.browser.conftest import CHROMIUM, CHROMIUM_ARGS, free_port, start_webui
from tests.browser.nginx import run_nginx
from tests.fakes.gateway import FakeGateway, Scenario

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
WAIT_MS = 45_000
_TOLD = (
    "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
    "proxy_set_header X-Forwarded-Proto $scheme;"
)
_SERVERS = """
  server {{ listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl;
    location / {{ proxy_pass {url}; {told} }}
    location /chat/ {{ proxy_pass {url}/; {told} proxy_set_header X-Forwarded-Prefix /chat; }}
    location = /chat {{ return 301 /chat/; }} }}
  server {{ listen 127.0.0.1:{around}; default_type text/html;
    location / {{ return 200 '<!doctype html><title>another site</title>{frame_plain}'; }} }}
  server {{ listen 127.0.0.1:{around_tls} ssl; default_type text/html;
    location / {{ return 200 '<!doctype html><title>another site</title>{frame_tls}'; }} }}
"""
_FRAME = (
    '<iframe src="{url}" style="width:100%;height:95vh" sandbox="allow-scripts allow-same-origin allow-forms"></iframe>'
)


@dataclass(frozen=True)
class Site:
    """What nginx serves: the web UI at two addresses, and a page of another site around each."""

    plain: int
    tls: int
    around: int
    around_tls: int

    @property
    def page_around(self) -> str:
        return f"http://another.test:{self.around}/"

    @property
    def page_around_tls(self) -> str:
        return f"https://another.test:{self.around_tls}/"


@pytest.fixture(scope="module")
def site(_gateway_server: tuple[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(*(free_port() for _ in range(4)))
    folder = tmp_path_factory.mktemp("nginx")
    ancestors = f"{site.page_around[:-1]}, {site.page_around_tls[:-1]}"
    with start_webui(
        _gateway_server[0], folder, WEBUI_FRAME_ANCESTORS=ancestors, WEBUI_TRUSTED_PROXY_HOPS="1"
    ) as webui:
        servers = _SERVERS.format(
            url=webui.url,
            told=_TOLD,
            frame_plain=_FRAME.format(url=f"http://ui.test:{site.plain}/"),
            frame_tls=_FRAME.format(url=f"https://ui.test:{site.tls}/"),
            **vars(site),
        )
        with run_nginx(folder, servers, site.around):
            yield site


@contextmanager
def a_browser(playwright: Playwright, profile: Path, *, refuses_cookies: bool) -> Iterator[BrowserContext]:
    """One person's browser, for which every host is this machine; like people's own, with a profile on disk."""
    (profile / "Default").mkdir(parents=True)
    blocking = {"cookie_controls_mode": int(refuses_cookies), "block_third_party_cookies": refuses_cookies}
    (profile / "Default" / "Preferences").write_text(json.dumps({"profile": blocking}))
    context = playwright.chromium.launch_persistent_context(
        str(profile),
        executable_path=CHROMIUM,
        args=[*CHROMIUM_ARGS, "--host-resolver-rules=MAP *.test 127.0.0.1"],
        ignore_https_errors=True,
        locale="en-US",
    )
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


def framed(page: Page, url: str) -> FrameLocator:
    """The chat in a page of another site."""
    frame = page.frame_locator("iframe")
    load(page, url, frame.locator("#status [data-stage]"))
    return frame


def ask_in(frame: FrameLocator, text: str) -> None:
    """One turn in the frame."""
    frame.locator("#message textarea").fill(text)
    frame.locator("#message textarea").press("Enter")
    expect(frame.locator(ANSWERS).last).to_contain_text("this is an answer.", timeout=WAIT_MS)
    expect(frame.locator("#send")).to_be_visible(timeout=WAIT_MS)


@pytest.mark.parametrize("refuses_cookies", [True, False], ids=["cookies refused", "as usual"])
def test_over_tls_a_frame_of_another_site_keeps_its_person(
    playwright: Playwright, gateway: FakeGateway, site: Site, tmp_path: Path, refuses_cookies: bool
) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=refuses_cookies) as context:
        page = context.new_page()
        frame = framed(page, site.page_around_tls)
        ask_in(frame, "Framed")
        cookie = next(c for c in context.cookies() if c["name"] == "webui_person")
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "None")
        assert cookie["partitionKey"] == "https://another.test"
        ask_in(framed(page, site.page_around_tls), "Again")
        assert len({r["user"] for r in gateway.state.requests}) == 1
        alone = ChatPage(page, f"https://ui.test:{site.tls}/").open()  # another jar of cookies: somebody else
        expect(alone.questions).to_have_count(0)
        assert len({r["user"] for r in gateway.state.requests}) == 2


def test_over_plain_http_a_frame_keeps_its_person_in_its_own_storage(
    playwright: Playwright, gateway: FakeGateway, site: Site, tmp_path: Path
) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=False) as context:
        page = context.new_page()
        frame = framed(page, site.page_around)
        ask_in(frame, "Framed")
        assert [c for c in context.cookies() if c["name"] == "webui_person"] == []  # SameSite=Lax: refused in a frame
        ask_in(framed(page, site.page_around), "Again")
        assert len({r["user"] for r in gateway.state.requests}) == 1
        kept = page.frames[1].evaluate("localStorage.getItem('webui.token')")
        assert gateway.state.requests[0]["user"] not in kept, "the ticket is sealed"


def test_a_frame_that_may_keep_nothing_at_all_still_chats(
    playwright: Playwright, gateway: FakeGateway, site: Site, tmp_path: Path
) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=True) as context:
        page = context.new_page()
        frame = framed(page, site.page_around)
        ask_in(frame, "One")
        ask_in(frame, "Two")
        assert len({r["user"] for r in gateway.state.requests}) == 1
        expect(frame.locator("#chat [data-testid=user]")).to_have_count(2)


def test_sites_that_were_not_named_may_not_show_it(playwright: Playwright, site: Site, tmp_path: Path) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=False) as context:
        page = context.new_page()
        refused: list[str] = []
        page.on("console", lambda m: refused.append(m.text) if "frame-ancestors" in m.text else None)
        page.goto(f"http://third.test:{site.around}/")
        page.wait_for_timeout(1000)
        assert refused
        expect(page.frame_locator("iframe").locator("#message")).to_have_count(0)


@pytest.mark.parametrize("where", ["prefix", "tls", "tls and prefix"])
def test_behind_nginx_everything_works_and_words_come_one_by_one(
    playwright: Playwright, gateway: FakeGateway, site: Site, tmp_path: Path, where: str
) -> None:
    base = f"https://ui.test:{site.tls}" if "tls" in where else f"http://ui.test:{site.plain}"
    url = base + ("/chat" if "prefix" in where else "/")
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(100)], delay_s=0.05)
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=True) as context:
        page = context.new_page()
        failed: list[str] = []
        page.on("response", lambda r: failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("response", lambda r: None if r.url.startswith(url.rstrip("/")) else failed.append(r.url))
        chat = ChatPage(page, url).open().ask("Hello")
        expect(chat.answers).to_contain_text("w3 ", timeout=WAIT_MS)
        came = time.monotonic()
        expect(chat.answers).not_to_contain_text("w99")
        chat.answered("w99", timeout_s=45)
        assert time.monotonic() - came > 1, "it came in one piece"
        chat.open()
        expect(chat.questions).to_have_text("Hello", timeout=WAIT_MS)
        cookie = next(c for c in context.cookies() if c["name"] == "webui_person")
        assert cookie["path"] == ("/chat" if "prefix" in where else "/")
        assert cookie["secure"] == ("tls" in where)
        assert failed == []
        assert chat.problems == []
