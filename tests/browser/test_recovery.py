"""What a person sees when something failed: the right words, nothing that never was, and a page that comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import PHONE, OpenPage, free_port, pages_of, start_webui
from tests.fakes.gateway import READY, FakeGateway, Scenario

pytestmark = pytest.mark.browser
NOT_READY = {**READY, "ready": False, "stage": "restarting"}


def test_a_refused_first_message_leaves_nothing_behind_for_the_next_visit(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "slow down", {"retry-after": "12"}))
    chat = open_page().ask("Do not lose me")
    expect(chat.notice.locator("[role=alert]")).to_contain_text("12 s")
    gateway.state.requests.clear()
    chat.open()
    expect(chat.notice).to_have_text("")
    assert not [r for r in gateway.state.requests if r["path"].endswith("/items")], "it is remembered still"


def test_a_remembered_conversation_that_is_gone_is_not_talked_about(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Soon gone").answered("Hello, this")
    gateway.state.conversations.clear()
    chat.open()
    expect(chat.conversations).to_have_count(0)
    expect(chat.notice).to_have_text("")
    chat.ask("And on").answered("Hello, this")


def test_a_conversation_that_is_gone_is_said_when_it_was_chosen(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Soon gone").answered("Hello, this")
    chat.new_chat.click()
    expect(chat.questions).to_have_count(0)
    chat.page.route("**/webui/conversations?*", lambda route: route.abort())  # the list has not heard of it
    chat.page.wait_for_timeout(500)
    gateway.state.conversations.clear()
    chat.conversation("Soon gone").click()
    expect(chat.notice).to_contain_text("no longer exists")


def test_the_page_comes_back_by_itself_when_the_server_does(
    browser: Browser, gateway: FakeGateway, tmp_path: Path
) -> None:
    port = free_port()
    with start_webui(gateway.url, tmp_path, port) as webui, pages_of(browser, webui.url) as open_page:
        chat = open_page().ask("Still here?").answered("Hello, this")
        gateway.state.status = dict(NOT_READY)  # the status line asks every second
        expect(chat.status).to_contain_text("being restarted", timeout=30_000)
        webui.process.terminate()
        webui.process.wait(15)
        toast = chat.page.locator(".toast-body")
        expect(toast).to_contain_text("lost")
        with start_webui(gateway.url, tmp_path, port):
            expect(toast).to_have_count(0, timeout=30_000)
            expect(chat.questions).to_have_text("Still here?")
            chat.ask("Yes").answered("Hello, this")


def test_a_model_that_is_away_is_seen_in_the_status_line_at_once(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    expect(chat.status).to_contain_text("is ready")
    gateway.state.status = dict(NOT_READY)
    gateway.state.scenario = Scenario(error=(503, "upstream_not_ready", "away", {"retry-after": "2"}))
    chat.ask("Hello")
    expect(chat.notice).to_contain_text("started or restarted")
    expect(chat.status).to_contain_text("being restarted", timeout=6_000)
    gateway.state.status = dict(READY)
    expect(chat.status).to_contain_text("is ready", timeout=6_000)


def test_a_stop_before_the_first_word_leaves_the_mark_alone(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(first_delay_s=30)
    chat = open_page().ask("Hello")
    expect(chat.stop).to_be_visible()
    chat.page.wait_for_timeout(500)
    chat.stop.click()
    expect(chat.marks).to_have_count(1)
    expect(chat.answers).to_have_count(0)
    expect(chat.page.locator("#chat .message-buttons-left:visible, #chat .bot-row button:visible")).to_have_count(0)


@pytest.mark.parametrize(("words", "said"), [(0, "before it had written anything"), (2, "kept")])
def test_only_text_that_came_is_said_to_be_kept(
    gateway: FakeGateway, open_page: OpenPage, words: int, said: str
) -> None:
    gateway.state.scenario = Scenario(fails_after=words)
    chat = open_page().ask("Hello")
    expect(chat.notice.locator("[role=alert]")).to_contain_text(said)
    expect(chat.marks).to_have_text("Broken off")


def test_an_answer_that_the_server_broke_off_is_called_unfinished(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(incomplete=True, incomplete_reason="interrupted")
    chat = open_page(locale="zh-CN").ask("你好").answered("Hello, this")
    expect(chat.marks).to_have_text("未完成的回答")


def test_on_a_phone_the_handle_stands_beside_the_new_chat_button(open_page: OpenPage) -> None:
    chat = open_page(PHONE, "zh-CN")
    chat.toggle.click()
    expect(chat.new_chat).to_be_visible()
    chat.page.wait_for_timeout(500)  # it slides
    button, handle = chat.new_chat.bounding_box(), chat.toggle.bounding_box()
    assert button
    assert handle
    assert button["x"] + button["width"] <= handle["x"]
