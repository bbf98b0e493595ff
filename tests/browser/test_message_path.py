"""The way of a message in a real Chromium: found again, changed, continued, rated, counted; drafts, keys, scrolling."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE, OpenPage, within
from tests.fakes.gateway import READY, FakeGateway, Scenario

pytestmark = pytest.mark.browser
WORDS = [f"w{n} " for n in range(200)]
WHOLE = "".join(WORDS).strip()


def texts(chat: ChatPage) -> list[str]:
    return [text.strip() for text in chat.answers.all_inner_texts()]


def test_a_reload_finds_the_running_answer_again(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=WORDS, delay_s=0.06)
    chat = open_page().ask("Count")
    expect(chat.answers).to_contain_text("w5 ")
    chat.open()
    expect(chat.questions).to_have_text("Count")
    expect(chat.stop).to_be_visible()
    expect(chat.answers).to_contain_text("w5 ")
    chat.answered("w199")
    assert texts(chat) == [WHOLE]
    assert len(gateway.state.answers) == 1
    assert gateway.state.stopped_at == []


def test_two_tabs_watch_one_answer_and_the_last_that_goes_ends_it(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(3000)], delay_s=0.03)
    first = open_page().ask("Count")
    expect(first.answers).to_contain_text("w3 ")
    second = ChatPage(first.page.context.new_page(), first.url).open()
    expect(second.stop).to_be_visible()
    expect(second.answers).to_contain_text("w9 ")
    first.page.close()
    second.page.wait_for_timeout(5_000)
    assert gateway.state.stopped_at == [], "one of the two is still here"
    second.page.close()
    assert within(20, lambda: bool(gateway.state.stopped_at))


def test_a_stop_in_one_tab_is_seen_in_the_other(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(3000)], delay_s=0.03)
    first = open_page().ask("Count")
    expect(first.answers).to_contain_text("w3 ")
    second = ChatPage(first.page.context.new_page(), first.url).open()
    second.stop.click()
    for chat in (first, second):
        expect(chat.marks).to_have_text("Stopped")
        expect(chat.send).to_be_visible()


def test_a_lost_connection_costs_no_word_and_doubles_none(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=WORDS, delay_s=0.02, cut_after=60)
    chat = open_page().ask("Count").answered("w199")
    assert texts(chat) == [WHOLE]
    expect(chat.notice).to_have_text("")
    expect(chat.marks).to_have_count(0)


def test_a_changed_message_begins_a_branch_and_the_earlier_version_is_a_click_away(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page().ask("First <b>").answered("Hello, this")
    chat.ask("Second").answered("Hello, this")
    gateway.state.scenario = Scenario(words=["Quite ", "another ", "answer."])
    chat.page.locator("#chat button[title=Edit]").first.click()
    editing = chat.page.locator("#chat textarea")
    editing.fill(editing.input_value().replace("First", "Changed"))
    chat.page.locator("#chat button[title=Submit]").click()
    chat.answered("Quite another answer.")
    expect(chat.questions).to_have_text("Changed <b>")
    expect(chat.answers).to_have_count(1)
    expect(chat.conversations).to_have_count(2)
    chat.open()
    expect(chat.questions).to_have_text("Changed <b>")
    chat.earlier.click()
    expect(chat.questions).to_have_text(["First <b>", "Second"])
    expect(chat.earlier).to_be_hidden()


def test_a_cut_answer_goes_on(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=["One ", "two "], incomplete=True)
    chat = open_page().ask("Count").answered("One two")
    expect(chat.marks).to_have_text("Cut at the token limit")
    gateway.state.scenario = Scenario(words=["three ", "four"])
    chat.go_on.click()
    expect(chat.answers).to_contain_text("One two three four")
    expect(chat.marks).to_have_count(0)
    expect(chat.go_on).to_be_hidden()
    expect(chat.questions).to_have_count(1)
    chat.open()
    expect(chat.answers).to_have_text("One two three four")


def test_a_stopped_answer_goes_on_after_a_reload(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=WORDS, delay_s=0.05)
    chat = open_page(PHONE).ask("Count")
    expect(chat.answers).to_contain_text("w3 ")
    chat.stop.click()
    expect(chat.marks).to_have_text("Stopped")
    chat.open()
    gateway.state.scenario = Scenario(words=["and ", "the ", "end."])
    chat.go_on.click()
    chat.answered("and the end.")
    assert texts(chat)[0].startswith("w0 w1 w2 w3")
    expect(chat.marks).to_have_count(0)


def test_a_rating_is_stored_and_seen_again(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Hello").answered("Hello, this")
    chat.page.locator("#chat button[title=Like]").first.click()
    expect(chat.notice).to_contain_text("rating is stored")
    assert list(gateway.state.feedback.values()) == ["up"]
    chat.open()
    expect(chat.page.locator("#chat button[title=Liked]:visible")).to_have_count(1)
    chat.page.locator("#chat button[title=Dislike]:visible").click()
    expect(chat.notice).to_contain_text("rating is stored")
    assert list(gateway.state.feedback.values()) == ["down"]
    chat.page.locator("#chat button[title=Disliked]:visible").click()
    expect(chat.notice).to_contain_text("taken back")
    assert list(gateway.state.feedback.values()) == [None]


def test_what_an_answer_took_is_told_on_request(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(delay_s=0.05)
    chat = open_page().ask("Hello").answered("Hello, this")
    expect(chat.folded).to_have_text("5 tokens")
    chat.folded.locator(".title").click()
    expect(chat.folded).to_contain_text("prompt 41 tokens · answer 5 tokens")
    expect(chat.folded).to_contain_text("tokens/s")
    expect(chat.meter).to_contain_text("46 of 4,096 tokens of context (1 %)")


def test_reasoning_folds_away(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=["<think>", "\nLet me ", "see.\n", "</think>", "\n\n", "Forty-two."])
    chat = open_page().ask("Answer?").answered("Forty-two.")
    expect(chat.answers).to_have_text("Forty-two.")
    thought = chat.folded.filter(has_text="Reasoning")
    expect(thought).to_be_visible()
    expect(chat.log).not_to_contain_text("think>")
    thought.locator(".title").click()
    expect(thought).to_contain_text("Let me see.")


def test_drafts_survive_a_reload_and_belong_to_their_conversation(open_page: OpenPage) -> None:
    chat = open_page()
    chat.message.fill("not sent yet")
    chat.page.wait_for_timeout(1_000)
    chat.open()
    expect(chat.message).to_have_value("not sent yet")
    chat.message.press("Enter")
    chat.answered("Hello, this")
    chat.message.fill("for the first")
    chat.new_chat.click()
    expect(chat.questions).to_have_count(0)
    expect(chat.message).to_have_value("")
    chat.message.fill("for a new one")
    chat.conversation("not sent yet").click()
    expect(chat.questions).to_have_count(1)
    expect(chat.message).to_have_value("for the first")
    chat.new_chat.click()
    expect(chat.message).to_have_value("for a new one")


def test_what_is_typed_during_an_answer_stays_and_survives_a_reload(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=WORDS, delay_s=0.03)
    chat = open_page().ask("Count")
    expect(chat.answers).to_contain_text("w3 ")
    chat.message.fill("my next thought")
    chat.page.wait_for_timeout(1_000)
    chat.open()
    expect(chat.message).to_have_value("my next thought")
    chat.answered("w199")
    expect(chat.message).to_have_value("my next thought")


def test_older_messages_come_on_request(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Begin").answered("Hello, this")
    (conversation,) = gateway.state.conversations.values()
    fill(conversation, 59)
    chat.open()
    expect(chat.questions).to_have_count(20)
    expect(chat.log).not_to_contain_text("question 30.")
    chat.older.click()
    expect(chat.questions).to_have_count(40)
    chat.older.click()
    expect(chat.questions).to_have_count(60)
    expect(chat.older).to_be_hidden()
    chat.message.fill("And now")
    chat.message.press("Enter")
    expect(chat.questions).to_have_count(20)
    expect(chat.answers.last).to_contain_text("Hello, this is an answer.")
    expect(chat.older).to_be_visible()


def fill(conversation: dict[str, Any], count: int, chars: int = 20) -> None:
    """Puts so many more turns into a stored conversation."""
    question, answer = conversation["items"][:2]
    for n in range(count):
        for item, text in ((question, f"question {n}."), (answer, f"answer {n}. ".ljust(chars, "x"))):
            content = [{**item["content"][0], "text": text}]
            copy = {**item, "id": f"msg_f{item['role']}{n}", "response_id": None, "content": content}
            conversation["items"].append(copy)


def test_the_keyboard_sends_breaks_lines_and_stops(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=WORDS, delay_s=0.05)
    chat = open_page()
    chat.message.focus()
    chat.page.keyboard.type("one")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("two")
    expect(chat.message).to_have_value("one\ntwo")
    chat.page.keyboard.press("Enter")
    expect(chat.answers).to_contain_text("w3 ")
    expect(chat.message).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(chat.marks).to_have_text("Stopped")
    expect(chat.message).to_be_focused()
    chat.page.keyboard.type("next")
    expect(chat.message).to_have_value("next")


def test_keys_of_an_input_method_neither_send_nor_stop(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=WORDS, delay_s=0.05)
    chat = open_page().ask("Count")
    expect(chat.answers).to_contain_text("w3 ")
    chat.message.fill("nihao")
    press = """(box, key) => box.dispatchEvent(
        new KeyboardEvent("keydown", {key, keyCode: 229, isComposing: true, bubbles: true, cancelable: true}))"""
    chat.message.evaluate(press, "Escape")
    expect(chat.stop).to_be_visible()
    chat.stop.click()
    expect(chat.marks).to_have_text("Stopped")
    chat.message.evaluate(press, "Enter")
    chat.page.wait_for_timeout(500)
    expect(chat.message).to_have_value("nihao")
    expect(chat.questions).to_have_count(1)


def test_the_reader_who_scrolled_up_is_left_there(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[f"line {n}\n\n" for n in range(150)], delay_s=0.06)
    chat = open_page(PHONE).ask("Write")
    expect(chat.answers).to_contain_text("line 40")
    box = chat.log
    assert box.evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight") < 200, "it follows the answer"
    box.hover()
    chat.page.mouse.wheel(0, -100_000)
    chat.page.wait_for_timeout(300)
    expect(chat.answers).to_contain_text("line 70")
    assert box.evaluate("box => box.scrollTop") < 100, "it was pulled down"
    chat.answered("line 149")
    assert box.evaluate("box => box.scrollTop") < 100, "it was pulled down at the end"


def test_what_is_out_of_sight_rests_while_an_answer_comes_and_keeps_its_size(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page().ask("Begin").answered("Hello, this")
    (conversation,) = gateway.state.conversations.values()
    fill(conversation, 15, chars=4_000)
    chat.open()
    expect(chat.questions).to_have_count(16)
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(150)], delay_s=0.03)
    first = "row => [row.offsetHeight, getComputedStyle(row).contentVisibility]"
    height, _ = chat.page.locator("#chat .bot-row").nth(2).evaluate(first)
    chat.ask("Count")
    expect(chat.answers.last).to_contain_text("w20 ")
    assert within(5, lambda: chat.page.locator("#chat .bot-row").nth(2).evaluate(first) == [height, "auto"])
    chat.answered("w149")
    assert within(5, lambda: chat.page.locator("#chat .bot-row").nth(2).evaluate(first) == [height, "visible"])
    assert chat.log.evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight") < 5, "it follows the answer"


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_place_in_the_queue_is_shown(gateway: FakeGateway, open_page: OpenPage, locale: str) -> None:
    gateway.state.scenario = Scenario(places=[3] * 12 + [2])
    chat = open_page(locale=locale).ask("Hello")
    expect(chat.marks).to_contain_text("第 3 位" if locale == "zh-CN" else "number 3 in line")
    chat.answered("Hello, this is an answer.")
    expect(chat.marks).to_have_count(0)


def test_a_crowd_and_an_overload_stand_in_the_status_line(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.status = {**READY, "waiting": 3, "max_waiting": 64}
    chat = open_page()
    expect(chat.status).to_contain_text("people waiting: 3")
    gateway.state.status = {**READY, "waiting": 64, "max_waiting": 64}
    expect(chat.status).to_contain_text("Overloaded")
    gateway.state.status = {**READY, "ready": False, "stage": "failed", "message": "not enough memory"}
    expect(chat.status).to_contain_text("could not be started: not enough memory")
    expect(chat.status).to_contain_text("inference server's log")
    gateway.state.status = dict(READY)
    expect(chat.status).to_contain_text("is ready")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_message_and_its_code_are_copied(gateway: FakeGateway, open_page: OpenPage, size: tuple[int, int]) -> None:
    gateway.state.scenario = Scenario(words=["Look: `x < y`\n\n", "```python\nprint(1 < 2)\n```\n"])
    chat = open_page(size)
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.ask("Code").answered("print(1 < 2)")
    pasted = "navigator.clipboard.readText()"
    chat.page.locator("#chat .bot-row + .message-buttons button[title='Copy message']:visible").click()
    assert within(10, lambda: "print(1 < 2)" in chat.page.evaluate(pasted))
    assert chat.page.evaluate(pasted).strip() == "Look: `x < y`\n\n```python\nprint(1 < 2)\n```"
    chat.page.locator("#chat pre").hover()
    chat.page.locator("#chat [data-testid=bot] pre button, #chat .code_wrap button").first.click()
    assert within(10, lambda: str(chat.page.evaluate(pasted)).strip() == "print(1 < 2)")


def test_the_meter_counts_what_is_typed(open_page: OpenPage) -> None:
    chat = open_page(PHONE)
    chat.message.fill("hello 🙂")
    expect(chat.meter).to_contain_text("7 of 100,000 characters")
    chat.message.fill("")
    expect(chat.meter).not_to_contain_text(re.compile("characters"))
