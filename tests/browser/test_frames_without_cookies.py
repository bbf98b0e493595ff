"""In another site's page over plain HTTP, where the browser sends no cookie along, or keeps nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import FrameLocator, Playwright, expect
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.browser.conftest import free_port, start_webui
from tests.browser.test_frames_and_proxies import a_browser, framed
from tests.fakes.gateway import FakeGateway, serve
from webui.texts import TEXTS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
_FRAME = (
    '<!doctype html><title>another site</title><iframe src="http://ui.test:%s/?lang=%s" '
    'style="width:100%%;height:95vh" sandbox="allow-scripts allow-same-origin allow-forms allow-downloads"></iframe>'
)


@pytest.fixture(scope="module")
def around(_gateway_server: tuple[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page of another site with the chat in a frame."""
    ui_port = free_port()
    site = Starlette(
        routes=[Route("/{language}", lambda r: HTMLResponse(_FRAME % (ui_port, r.path_params["language"])))]
    )
    folder = tmp_path_factory.mktemp("framed")
    with serve(site) as url:
        page = url.replace("127.0.0.1", "another.test")
        with start_webui(_gateway_server[0], folder, ui_port, WEBUI_FRAME_ANCESTORS=page):
            yield page + "/"


def ask_in(frame: FrameLocator, text: str) -> None:
    """One turn in the frame."""
    frame.locator("#message textarea").fill(text)
    frame.locator("#message textarea").press("Enter")
    expect(frame.locator("#chat [data-testid=bot]").filter(has_text="this is an answer.")).to_be_visible()
    expect(frame.locator("#send")).to_be_visible()


@pytest.mark.parametrize("keeps_nothing", [False, True], ids=["storage", "nothing"])
@pytest.mark.parametrize("form", ["md", "json"])
def test_a_conversation_is_exported_where_no_cookie_says_who_asks(
    playwright: Playwright, gateway: FakeGateway, around: str, tmp_path: Path, keeps_nothing: bool, form: str
) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=keeps_nothing) as context:
        page = context.new_page()
        frame = framed(page, around + "en")
        ask_in(frame, "Kites")
        assert context.cookies() == []
        entry = frame.locator("#list .entry").filter(has_text="Kites")
        entry.locator(".more").click()
        with page.expect_download() as download:
            entry.locator(f".menu [data-do={form}]").click()
        assert download.value.suggested_filename == f"Kites.{form}"
        assert "this is an answer." in Path(download.value.path()).read_text(encoding="utf-8")


def test_a_browser_that_keeps_nothing_is_told_so_once(
    playwright: Playwright, gateway: FakeGateway, around: str, tmp_path: Path
) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=True) as context:
        page = context.new_page()
        frame = framed(page, around + "en")
        told = frame.get_by_text(TEXTS["en"]["forgets"], exact=True)
        expect(told).to_have_count(1)
        expect(told).to_be_visible()
        ask_in(frame, "One")
        expect(told).to_have_count(1)
        frame = framed(page, around + "zh")
        expect(frame.get_by_text(TEXTS["zh"]["forgets"], exact=True)).to_be_visible()


def test_a_browser_that_keeps_the_ticket_itself_is_told_nothing(
    playwright: Playwright, gateway: FakeGateway, around: str, tmp_path: Path
) -> None:
    with a_browser(playwright, tmp_path / "profile", refuses_cookies=False) as context:
        page = context.new_page()
        frame = framed(page, around + "en")
        ask_in(frame, "One")
        expect(frame.locator(".forgets")).to_be_hidden()
        assert context.cookies() == []
