"""One's conversations: listed, found again, deleted, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import PHONE, OpenPage, free_port, pages_of, start_webui
from tests.fakes.gateway import FakeGateway, Scenario

pytestmark = pytest.mark.browser


def test_conversations_are_listed_newest_first_and_found_again(open_page: OpenPage) -> None:
    chat = open_page().ask("First topic").answered("Hello, this")
    chat.new_chat.click()
    expect(chat.questions).to_have_count(0)
    chat.ask("Second topic").answered("Hello, this")
    expect(chat.conversations).to_have_text(["Second topic", "First topic"])
    chat.conversation("First topic").click()
    expect(chat.questions).to_have_text("First topic")
    chat.open()
    expect(chat.questions).to_have_text("First topic")
    chat.ask("More of it").answered()
    expect(chat.conversations).to_have_text(["First topic", "Second topic"])
    expect(chat.questions).to_have_text(["First topic", "More of it"])


def test_another_conversation_opens_while_an_answer_runs(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Short").answered("Hello, this")
    chat.new_chat.click()
    expect(chat.questions).to_have_count(0)
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(500)], delay_s=0.03)
    chat.ask("Long")
    expect(chat.answers).to_contain_text("w3 ")
    chat.conversation("Short").click()
    expect(chat.questions).to_have_text("Short")
    expect(chat.send).to_be_visible()
    chat.page.wait_for_timeout(1_000)
    expect(chat.questions).to_have_text("Short")
    assert gateway.state.stopped_at == [], "it runs on"
    chat.conversation("Long").click()
    expect(chat.stop).to_be_visible()
    expect(chat.answers).to_contain_text("w60 ")
    chat.stop.click()
    expect(chat.marks).to_have_text("Stopped")


def test_who_types_at_once_after_a_choice_writes_there_and_nowhere_else(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page().ask("First topic").answered("Hello, this")
    chat.message.fill("A draft for the first")
    slow_line = chat.page.context.new_cdp_session(chat.page)
    limits = {"offline": False, "latency": 1500, "downloadThroughput": -1, "uploadThroughput": -1}
    slow_line.send("Network.emulateNetworkConditions", limits)
    chat.new_chat.click()
    expect(chat.message).to_have_value("", timeout=1000)
    expect(chat.questions).to_have_count(1)
    chat.message.fill("Second topic")
    chat.message.press("Enter")
    expect(chat.conversations).to_have_text(["Second topic", "First topic"])
    expect(chat.questions).to_have_text("Second topic")
    chat.answered("Hello, this")
    assert sorted(len(c["items"]) for c in gateway.state.conversations.values()) == [2, 2]
    chat.conversation("First topic").click()
    expect(chat.message).to_have_value("A draft for the first", timeout=1000)
    chat.message.fill("Another draft")
    expect(chat.questions).to_have_text("First topic")
    chat.page.wait_for_timeout(1000)
    expect(chat.message).to_have_value("Another draft")


def test_two_browsers_never_see_each_other(open_page: OpenPage) -> None:
    ann = open_page().ask("Ann's secret").answered("Hello, this")
    bob = open_page()
    expect(bob.conversations).to_have_count(0)
    expect(bob.log).not_to_contain_text("secret")
    stored = ann.page.evaluate("JSON.stringify(localStorage)")
    bob.page.evaluate(
        "kept => Object.entries(JSON.parse(kept)).forEach(([k, v]) => localStorage.setItem(k, v))", stored
    )
    bob.open()
    expect(bob.questions).to_have_count(0)
    expect(bob.notice).to_have_text("")
    expect(bob.conversations).to_have_count(0)
    expect(bob.log).not_to_contain_text("secret")
    cookies = ann.page.context.cookies()
    assert [(c["name"], c["httpOnly"], c["sameSite"]) for c in cookies] == [("webui_person", True, "Lax")]


def test_the_conversation_is_there_after_a_restart_of_the_web_ui(
    browser: Browser, gateway: FakeGateway, tmp_path: Path
) -> None:
    port = free_port()
    with start_webui(gateway.url, tmp_path, port) as webui, pages_of(browser, webui.url) as open_page:
        chat = open_page().ask("Still here?").answered("Hello, this")
        webui.process.terminate()
        webui.process.wait(15)
        with start_webui(gateway.url, tmp_path, port):
            chat.open()
            expect(chat.questions).to_have_text("Still here?")
            expect(chat.conversations).to_have_text("Still here?")
            chat.ask("Yes").answered("Hello, this")
            expect(chat.questions).to_have_count(2)


def test_on_a_phone_the_list_slides_over_and_closes_by_itself(open_page: OpenPage) -> None:
    chat = open_page(PHONE)
    expect(chat.new_chat).to_be_hidden()
    chat.ask("First topic").answered("Hello, this")
    chat.toggle.click()
    chat.new_chat.click()
    expect(chat.new_chat).to_be_hidden()
    expect(chat.questions).to_have_count(0)
    chat.toggle.click()
    chat.conversation("First topic").click()
    expect(chat.questions).to_have_text("First topic")
    expect(chat.new_chat).to_be_hidden()
