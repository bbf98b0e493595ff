"""What is copied and edited is what was written, whatever stands in front of tags to keep them text."""

from __future__ import annotations

import random

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, within
from tests.fakes.gateway import FakeGateway, Scenario
from webui.tags import tags_as_text, typed_as_text

pytestmark = pytest.mark.browser
ASKED = r"#include <stdio.h> \<b> `\<i>` \\</b> $x^2$"
ANSWERED = "Use <b> and `<i>` now for $5\n\n```html\n<p>\\<b></p>\n```\n$a<b$ \\(c\\) $$d$$ done"
PIECES = [
    "\\",
    "<",
    "b",
    "/",
    "`",
    "``",
    "```",
    "~~~",
    "$",
    "$$",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "\n",
    " ",
    ">",
    "中",
    "🙂",
    "a",
    "5",
]


def test_messages_are_copied_as_they_were_written(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[ANSWERED])
    chat = open_page()
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.ask(ASKED).answered("done")
    expect(chat.questions).to_contain_text(r"#include <stdio.h> \<b>")
    for row, text in (("user", ASKED), ("bot", ANSWERED)):
        chat.page.locator(f"#chat .{row}-row + .message-buttons button[title='Copy message']").first.click(force=True)
        assert within(10, lambda: chat.page.evaluate("navigator.clipboard.readText()").strip() == text), row  # noqa: B023


def test_a_message_is_edited_without_losing_a_backslash_and_its_earlier_answer_can_be_rated(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page().ask("One").answered("Hello").ask(ASKED + " First").answered("Hello")
    chat.page.locator("#chat button[title=Edit]").last.click()
    editing = chat.page.locator("#chat textarea")
    editing.fill(editing.input_value().replace("First", "Changed"))
    chat.page.locator("#chat button[title=Submit]").click()

    def asked() -> list[str]:
        return [r["body"]["input"] for r in gateway.state.requests if r["path"] == "/v1/responses"]

    assert within(30, lambda: len(asked()) == 3), chat.notice.inner_text()
    assert asked()[1:] == [ASKED + " First", ASKED + " Changed"]
    expect(chat.conversations).to_have_count(2)
    chat.answered()
    chat.page.locator("#chat button[title=Like]:visible").first.click()
    expect(chat.notice).to_contain_text("your rating is stored")
    (rated,) = gateway.state.feedback
    of_copy = [c for c in gateway.state.conversations.values() if c["metadata"].get("earlier")]
    assert [item["text"] for item in of_copy[0]["items"][1]["content"]] == ["Hello, this is an answer."]
    assert of_copy[0]["items"][1]["response_id"] == rated


def test_where_a_browser_has_no_clipboard_for_scripts_copies_are_right_too(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    """As over plain HTTP, where Gradio copies a field that it selects."""
    chat = open_page().ask(ASKED).answered("Hello")
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.page.evaluate(
        "document.addEventListener('copy', e => { window.copied = e.clipboardData.getData('text/plain') })"
    )
    chat.page.evaluate("window.kept = navigator.clipboard; delete Navigator.prototype.clipboard")
    chat.page.locator("#chat .user-row + .message-buttons button[title='Copy message']").first.click(force=True)
    assert within(10, lambda: chat.page.evaluate("window.copied") == ASKED)


def test_the_script_and_the_server_agree_on_every_text(open_page: OpenPage) -> None:
    chance = random.Random(7)
    texts = ["".join(chance.choices(PIECES, k=chance.randrange(24))) for _ in range(3_000)]
    page = open_page().page
    back = page.evaluate("texts => texts.map(t => copying.written(t, 'user'))", [typed_as_text(t) for t in texts])
    assert back == texts
    no_slashes = [text for text in texts if "\\<" not in text]
    back = page.evaluate("texts => texts.map(t => copying.written(t, 'bot'))", [tags_as_text(t) for t in no_slashes])
    assert back == no_slashes


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_a_message_is_edited_with_the_keyboard_in_a_box_as_wide_as_the_chat(open_page: OpenPage, locale: str) -> None:
    chat = open_page(locale=locale).ask("One").answered("Hello")
    editing, edit = (
        chat.page.locator("#chat textarea"),
        chat.page.locator("#chat .user-row + .message-buttons button").last,
    )
    edit.click()
    assert editing.evaluate("e => e.clientWidth") > 500
    editing.press("Escape")
    expect(editing).to_have_count(0)
    expect(chat.message).to_be_focused()
    edit.click()
    editing.fill("Two")
    editing.press("Enter")
    editing.press("Control+Enter")
    expect(chat.questions).to_have_text("Two")
    chat.answered()
    expect(chat.earlier).to_be_visible()
