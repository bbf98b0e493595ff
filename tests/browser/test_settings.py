"""The settings panel in a real Chromium: what is chosen is sent, kept in this browser, bounded, and reset."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import PHONE, OpenPage, within
from tests.fakes.gateway import READY, FakeGateway
from webui.presets import PRESETS

pytestmark = pytest.mark.browser
DEMO = {"temperature": 1, "top_p": 0.7, "max_total_tokens": 2048}


class Panel:
    """The panel of a page, opened."""

    def __init__(self, chat: ChatPage) -> None:
        self.page = chat.page
        self.temperature = self.page.locator("#temperature input[type=number]")
        self.top_p = self.page.locator("#top-p input[type=number]")
        self.total_tokens = self.page.locator("#total-tokens input[type=number]")
        self.answer_tokens = self.page.locator("#answer-tokens input")
        self.seed = self.page.locator("#seed input")
        self.instructions = self.page.locator("#instructions textarea")
        self.preset = self.page.locator("#preset input")
        self.page.click("#settings button")
        expect(self.seed).to_be_visible()

    def put(self, box: Locator, text: str) -> Panel:
        """Types into a box and leaves it."""
        box.fill(text)
        box.press("Tab")
        return self

    def choose(self, field: str, option: str) -> Panel:
        self.page.locator(f"#{field} input").click()
        self.page.get_by_role("option", name=option, exact=True).click()
        return self

    def is_kept(self) -> Panel:
        """Waits until the browser has kept what is shown by now."""
        with self.page.expect_response(lambda answer: "predict" in answer.url):
            self.page.locator("#prompt-name :is(input, textarea)").press("Enter")
        return self


def asked(gateway: FakeGateway) -> dict[str, Any]:
    """How the last answer was asked for."""
    body = next(r["body"] for r in reversed(gateway.state.requests) if "body" in r)
    return {
        name: value for name, value in body.items() if name not in ("input", "conversation", "stream", "background")
    }


def asked_for(gateway: FakeGateway, chat: ChatPage) -> dict[str, Any]:
    chat.ask("Hello").answered("Hello, this")
    sent = asked(gateway)
    sent.pop("truncation")
    return sent


def test_the_defaults_are_those_of_internlm2s_demo_and_say_nothing_more(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page()
    assert asked_for(gateway, chat) == DEMO
    expect(chat.page.locator("#model")).to_have_count(0)


def test_what_is_chosen_is_sent_and_kept_over_reload_and_in_a_new_tab(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page()
    panel = Panel(chat)
    panel.put(panel.temperature, "0.3").put(panel.top_p, "0.9").put(panel.total_tokens, "1024")
    panel.put(panel.answer_tokens, "300").put(panel.seed, "42").put(panel.instructions, "Be kind.").is_kept()
    wanted = {
        "temperature": 0.3,
        "top_p": 0.9,
        "max_total_tokens": 1024,
        "max_output_tokens": 300,
        "seed": 42,
        "instructions": "Be kind.",
    }
    assert asked_for(gateway, chat) == wanted
    chat.open()
    assert asked_for(gateway, chat) == wanted, "without opening the panel"
    other = ChatPage(chat.page.context.new_page(), chat.url).open()
    panel = Panel(other)
    expect(panel.seed).to_have_value("42")
    expect(panel.instructions).to_have_value("Be kind.")
    panel.page.click("#reset")
    expect(panel.seed).to_have_value("")
    expect(panel.instructions).to_have_value("")
    assert asked_for(gateway, other) == DEMO
    chat.open()
    assert asked_for(gateway, chat) == DEMO


def test_nothing_that_the_engine_refuses_can_be_set(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.status = {**READY, "context_tokens": 1000}
    chat = open_page()
    panel = Panel(chat)
    panel.put(panel.temperature, "99").put(panel.top_p, "0").put(panel.total_tokens, "999999")
    panel.put(panel.answer_tokens, "999999").put(panel.seed, "99999999999")
    expect(panel.seed).to_have_value("4294967295")
    expect(panel.answer_tokens).to_have_value("1000")
    wanted = {"temperature": 2, "top_p": 0.05, "max_total_tokens": 1000, "max_output_tokens": 1000, "seed": 4294967295}
    assert asked_for(gateway, chat) == wanted
    expect(panel.page.locator(".toast-body")).to_have_count(0)


def test_a_context_that_shrank_since_is_no_error(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.status = {**READY, "context_tokens": 32768}
    chat = open_page()
    panel = Panel(chat)
    panel.put(panel.total_tokens, "32000").is_kept()
    assert asked_for(gateway, chat)["max_total_tokens"] == 32000
    gateway.state.status = {**READY, "context_tokens": 2000}
    chat.open()
    assert asked_for(gateway, chat)["max_total_tokens"] == 2000
    expect(chat.notice).to_have_text("")


@pytest.mark.parametrize("kept", ["garbage", "", "{}", '"U2FsdGVkX1"', "null"])
def test_what_a_browser_kept_wrongly_falls_back_to_the_defaults(
    gateway: FakeGateway, open_page: OpenPage, kept: str
) -> None:
    chat = open_page()
    chat.page.evaluate("kept => localStorage.setItem('webui.preferences', kept)", kept)
    chat.open()
    assert asked_for(gateway, chat) == DEMO
    panel = Panel(chat)
    panel.put(panel.seed, "7").is_kept()
    chat.open()
    assert asked_for(gateway, chat) == {**DEMO, "seed": 7}


def test_presets_and_prompts_of_ones_own(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    panel = Panel(chat).choose("preset", "InternLM2’s own")
    expect(panel.instructions).to_have_value(PRESETS["en"]["internlm2"])
    assert asked_for(gateway, chat)["instructions"] == PRESETS["en"]["internlm2"]
    panel.put(panel.instructions, "Answer like a pirate.")
    expect(panel.preset).to_have_value("Custom")
    panel.page.locator("#prompt-name :is(input, textarea)").fill("Pirate")
    panel.page.click("#save-prompt")
    expect(panel.preset).to_have_value("Pirate")
    panel.choose("preset", "Programmer")
    expect(panel.instructions).to_have_value(PRESETS["en"]["coder"])
    chat.open()
    panel = Panel(chat)
    expect(panel.preset).to_have_value("Programmer")
    expect(panel.page.locator("#delete-prompt")).to_be_hidden()
    panel.choose("preset", "Pirate")
    expect(panel.instructions).to_have_value("Answer like a pirate.")
    panel.page.click("#reset")
    expect(panel.instructions).to_have_value("")
    panel.choose("preset", "Pirate")
    panel.page.click("#delete-prompt")
    expect(panel.page.locator("#delete-prompt")).to_be_hidden()
    panel.page.locator("#preset input").click()
    expect(panel.page.get_by_role("option", name="Pirate")).to_have_count(0)
    expect(panel.page.get_by_role("option", name="Teacher")).to_have_count(1)


def test_a_model_is_chosen_where_there_are_several(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.models = ["internlm2-chat-7b", "internlm2-chat-20b"]
    chat = open_page()
    panel = Panel(chat)
    expect(panel.page.locator("#model input")).to_have_value("internlm2-chat-7b")
    panel.choose("model", "internlm2-chat-20b").is_kept()
    assert asked_for(gateway, chat)["model"] == "internlm2-chat-20b"
    chat.open()
    assert asked_for(gateway, chat)["model"] == "internlm2-chat-20b"
    gateway.state.models = ["internlm2-chat-7b"]
    chat.open()
    assert "model" not in asked_for(gateway, chat)


def test_the_panel_is_chinese_on_a_chinese_phone(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page(PHONE, "zh-CN")
    chat.toggle.click()
    panel = Panel(chat).choose("preset", "翻译（中英互译）")
    expect(panel.instructions).to_have_value(PRESETS["zh"]["translator"])
    expect(panel.page.locator("#settings")).to_contain_text("随机种子")
    expect(panel.page.locator("#reset")).to_have_text("恢复默认设置")
    assert not panel.page.evaluate("document.documentElement.scrollWidth > innerWidth"), "wider than the window"
    chat.toggle.click()
    assert within(5, lambda: asked_for(gateway, chat)["instructions"] == PRESETS["zh"]["translator"])
