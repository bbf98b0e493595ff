"""What is copied is what was written, whatever stands in front of tags to keep them text."""

from __future__ import annotations

import random

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, within
from tests.fakes.gateway import FakeGateway, Scenario
from webui.tags import tags_as_text, typed_as_text

pytestmark = pytest.mark.browser
ASKED = r"#include <stdio.h> \<b> `\<i>` \\</b>"
ANSWERED = "Use <b> and `<i>` now\n\n```html\n<p>\\<b></p>\n```\n$a<b$ done"
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
