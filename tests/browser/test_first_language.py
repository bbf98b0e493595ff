"""What a page says before the server has answered any call of it: the language is right from the first moment."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import DESKTOP, WebUI
from tests.fakes.gateway import FakeGateway

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("locale", "send", "new_chat", "settings", "temperature"),
    [("zh-CN", "发送", "新对话", "设置", "温度"), ("en-US", "Send", "New chat", "Settings", "Temperature")],
)
def test_a_page_whose_calls_are_not_answered_yet_is_in_the_right_language(
    browser: Browser,
    gateway: FakeGateway,
    webui: WebUI,
    locale: str,
    send: str,
    new_chat: str,
    settings: str,
    temperature: str,
) -> None:
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, locale=locale)
    try:
        page = context.new_page()
        page.route("**/gradio_api/run/predict**", lambda _: None)  # never answered
        page.goto(webui.url)
        expect(page.locator("#send")).to_have_text(send)
        expect(page.locator("#new-chat")).to_have_text(new_chat)
        page.locator("#settings button").first.click()
        expect(page.locator("#settings button").first).to_contain_text(settings)
        expect(page.locator("#temperature")).to_contain_text(temperature)
    finally:
        context.close()
