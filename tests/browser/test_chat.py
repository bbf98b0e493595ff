"""Chatting in a real Chromium against the scripted gateway, at desktop and phone width."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESKTOP, PHONE, OpenPage, WebUI, within
from tests.fakes.gateway import READY, FakeGateway, Scenario

pytestmark = pytest.mark.browser
SLOW = Scenario(words=[f"w{n} " for n in range(500)], delay_s=0.03)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_tokens_arrive_one_after_the_other_and_nothing_leaves_the_host(
    gateway: FakeGateway, open_page: OpenPage, size: tuple[int, int]
) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(120)], delay_s=0.03)
    chat = open_page(size).ask("Hello")
    expect(chat.message).to_have_value("")
    expect(chat.questions).to_have_text("Hello")
    expect(chat.answers).to_contain_text("w3 ")
    expect(chat.answers).not_to_contain_text("w119")
    expect(chat.stop).to_be_visible()
    chat.answered("w119")
    expect(chat.marks).to_have_count(0)
    assert chat.hosts() == {"127.0.0.1"}
    assert chat.problems == []
    assert not chat.page.evaluate("document.documentElement.scrollWidth > innerWidth"), "wider than the window"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_stop_keeps_the_text_frees_the_model_and_survives_a_reload(
    gateway: FakeGateway, open_page: OpenPage, size: tuple[int, int]
) -> None:
    gateway.state.scenario = SLOW
    chat = open_page(size).ask("Count")
    expect(chat.answers).to_contain_text("w5 ")
    pressed = time.monotonic()
    chat.stop.click()
    assert within(5, lambda: bool(gateway.state.stopped_at))
    assert gateway.state.stopped_at[0] - pressed < 3
    chat.answered("w5 ")
    expect(chat.marks).to_have_text("Stopped")
    expect(chat.notice).to_have_text("")
    chat.open()
    expect(chat.questions).to_have_text("Count")
    expect(chat.answers).to_contain_text("w5 ")
    expect(chat.marks).to_have_text("Stopped")
    expect(chat.conversation("Count")).to_have_count(1)


def test_closing_the_tab_frees_the_model(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = SLOW
    chat = open_page().ask("Count")
    expect(chat.answers).to_contain_text("w3 ")
    chat.page.close()
    assert within(10, lambda: bool(gateway.state.stopped_at))


def test_typing_goes_on_while_an_answer_comes(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(120)], delay_s=0.03)
    chat = open_page().ask("Hello")
    expect(chat.answers).to_contain_text("w3 ")
    chat.message.fill("my next thought")
    chat.message.press("Enter")
    chat.answered("w119")
    expect(chat.message).to_have_value("my next thought")
    expect(chat.questions).to_have_count(1)


def test_retry_replaces_the_last_answer(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("One").answered("Hello, this is an answer.")
    gateway.state.scenario = Scenario(words=["A new answer."])
    chat.retry.click()
    chat.answered("A new answer.")
    expect(chat.questions).to_have_count(1)
    expect(chat.answers).to_have_count(1)
    expect(chat.conversations).to_have_count(1)
    chat.open()
    expect(chat.answers).to_have_text("A new answer.")


def test_a_retry_that_fails_keeps_the_old_answer(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("One").answered("Hello, this is an answer.")
    gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "slow", {"retry-after": "9"}))
    chat.retry.click()
    expect(chat.notice).to_contain_text("9 s")
    expect(chat.answers).to_have_text("Hello, this is an answer.")
    chat.open()
    expect(chat.answers).to_have_text("Hello, this is an answer.")
    expect(chat.conversations).to_have_count(1)


def test_a_limit_names_the_wait_beside_the_chat_and_the_text_comes_back(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "slow down", {"retry-after": "6"}))
    chat = open_page().ask("Do not lose me")
    expect(chat.notice.locator("[role=alert]")).to_contain_text("6 s")
    expect(chat.notice.locator(".wait")).to_have_text(re.compile("[1-5] s left"))
    expect(chat.send).to_be_disabled()
    expect(chat.message).to_have_value("Do not lose me")
    expect(chat.conversations).to_have_count(0)
    expect(chat.questions).to_have_count(0)
    expect(chat.answers).to_have_count(0)
    gateway.state.scenario = Scenario()
    chat.message.press("Enter")
    expect(chat.questions).to_have_count(0)
    expect(chat.notice).to_contain_text("can send again now")
    expect(chat.send).to_be_enabled()
    chat.message.press("Enter")
    chat.answered("Hello, this is an answer.")
    expect(chat.notice).to_have_text("")


def test_a_broken_answer_is_marked_and_its_error_stands_beside_it(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(fails_after=2)
    chat = open_page().ask("Hello").answered("Hello, ")
    expect(chat.notice.locator("[role=alert]")).to_contain_text("kept")
    expect(chat.marks).to_have_text("Broken off")
    expect(chat.log).not_to_contain_text("Retry")
    gateway.state.scenario = Scenario()
    chat.retry.click()
    chat.answered("this is an answer.")
    expect(chat.marks).to_have_count(0)


def test_people_who_wait_see_the_download_and_may_not_lose_their_text(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    gateway.state.status = {
        **READY, "ready": False, "stage": "download", "done": 50_000_000, "total": 100_000_000, "unit": "bytes",
    }  # fmt: skip
    gateway.state.scenario = Scenario(error=(503, "upstream_not_ready", "loading", {"retry-after": "5"}))
    chat = open_page()
    expect(chat.status).to_contain_text("Downloading SmolLM2 135M Instruct: 50.0 MB / 100.0 MB (50 %)")
    expect(chat.status.locator("progress")).to_be_visible()
    expect(chat.status).to_contain_text("tiny English-only demo")
    chat.ask("Too early")
    expect(chat.notice).to_contain_text("started or restarted")
    expect(chat.message).to_have_value("Too early")
    gateway.state.status = {**READY, "ready": False, "stage": "load", "since": time.time() - 5}
    expect(chat.status).to_contain_text("Loading SmolLM2")
    gateway.state.status = {**READY, "ready": False, "stage": "failed", "message": "not enough memory"}
    expect(chat.status).to_contain_text("could not be started: not enough memory")
    gateway.state.status, gateway.state.scenario = dict(READY), Scenario()
    expect(chat.status).to_contain_text("is ready")
    chat.message.press("Enter")
    chat.answered("Hello, this is an answer.")


def test_the_gateway_away_and_back_again_needs_no_reload(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.broken = True
    chat = open_page()
    expect(chat.status).to_contain_text("Connecting")
    chat.ask("Hello")
    expect(chat.notice).to_contain_text("the database is away")
    expect(chat.message).to_have_value("Hello")
    gateway.state.broken = False
    expect(chat.status).to_contain_text("is ready")
    chat.message.press("Enter")
    chat.answered("Hello, this is an answer.")


def test_settings_reach_the_gateway(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("With the defaults").answered("Hello, this")
    chat.limit_tokens(512).page.click("#settings button")
    chat.page.locator("#instructions textarea").fill("Be brief.")
    chat.ask("With mine").answered("Hello, this")
    default, mine = [r["body"] for r in gateway.state.requests if r["path"] == "/v1/responses"]
    assert (default["temperature"], default["top_p"], default["max_total_tokens"]) == (1, 0.7, 2048)
    assert "instructions" not in default
    assert (mine["max_total_tokens"], mine["instructions"]) == (512, "Be brief.")


def test_truncated_history_is_told(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(truncated_items=4, incomplete=True)
    chat = open_page().ask("Hello").answered("Hello, this is an answer.")
    expect(chat.notice).to_contain_text("oldest 4 messages")
    expect(chat.marks).to_have_text("Cut at the token limit")


def test_what_cannot_be_sent_is_said_and_kept(open_page: OpenPage) -> None:
    chat = open_page()
    chat.ask("   ")
    expect(chat.notice).to_contain_text("nothing to send")
    long = "x" * 1_000_000
    chat.ask(long)
    expect(chat.notice.locator("[role=alert]")).to_contain_text("1,000,000 characters")
    assert chat.message.input_value() == long
    expect(chat.questions).to_have_count(0)


def test_half_an_emoji_is_replaced_and_the_chat_goes_on(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(error=(503, "upstream_not_ready", "slow", {"retry-after": "9"}))
    chat = open_page()
    chat.page.click("#settings button")
    chat.type_half_an_emoji(chat.page.locator("#instructions textarea"))
    chat.type_half_an_emoji(chat.message).message.press("Enter")
    expect(chat.notice).to_contain_text("9 s")
    expect(chat.message).to_have_value("a \ufffd b")
    gateway.state.scenario = Scenario()
    chat.type_half_an_emoji(chat.message).message.press("Enter")
    expect(chat.questions).to_have_text("a \ufffd b")
    chat.answered("Hello, this is an answer.")
    chat.ask("And now?").answered("Hello, this is an answer.")
    expect(chat.questions).to_have_text(["a \ufffd b", "And now?"])
    asked = [r["body"] for r in gateway.state.requests if r["path"] == "/v1/responses"][-2]
    assert (asked["input"], asked["instructions"]) == ("a \ufffd b", "a \ufffd b")


def test_the_servers_looked_up_no_other_host(webui: WebUI, open_page: OpenPage) -> None:
    open_page().ask("Hello").answered()
    hosts = set(webui.audit_log.read_text().split())
    assert hosts <= {"127.0.0.1", "localhost", "::1", "None", "0.0.0.0"}, hosts
    assert "127.0.0.1" in hosts
