"""The sidebar's list in a real Chromium: days, names, pins, search, deletion with undo, files, keyboard, a thousand."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE, OpenPage, WebUI, free_port, pages_of, start_webui, within
from tests.fakes.gateway import FakeGateway, Scenario, _create, _item

pytestmark = pytest.mark.browser
ATTACK = '<img src=x onerror="window.hacked=1"> \' & </li>'


def stored(gateway: FakeGateway, chat: ChatPage, title: str, *, ago_s: float = 0, **metadata: str) -> str:
    """A conversation of this page's person, as if its last message had been some time ago; needs a reload."""
    user = gateway.state.requests[-1]["user"]
    items = [_item(gateway.state, "user", f"about {title}", "completed")]
    conversation = _create(gateway.state, user, {"title": title, **metadata}, items)
    conversation["updated_at"] = time.time() - ago_s
    conversation["touched"] = -ago_s
    return str(conversation["id"])


def undo(chat: ChatPage) -> Locator:
    return chat.page.locator("#list-undo [data-do=undo]")


def headings(chat: ChatPage) -> list[str]:
    return chat.page.locator("#list h3").all_inner_texts()


def test_days_are_those_of_the_browsers_time_zone(open_page: OpenPage) -> None:
    """10:30 in London is 23:30 in Auckland, and half past midnight in Honolulu."""
    moments = {
        "now": datetime(2026, 3, 10, 10, 30, tzinfo=ZoneInfo("UTC")),
        "10 hours": datetime(2026, 3, 10, 0, 30, tzinfo=ZoneInfo("UTC")),
        "12 hours": datetime(2026, 3, 9, 22, 30, tzinfo=ZoneInfo("UTC")),
        "a day": datetime(2026, 3, 9, 9, 0, tzinfo=ZoneInfo("UTC")),
        "six days": datetime(2026, 3, 4, 11, 0, tzinfo=ZoneInfo("UTC")),
        "eight days": datetime(2026, 3, 2, 0, 0, tzinfo=ZoneInfo("UTC")),
        "last year": datetime(2025, 12, 31, 23, 30, tzinfo=ZoneInfo("UTC")),
    }
    wanted: Mapping[str, Mapping[str, Any]] = {
        "UTC": {"10 hours": "today", "12 hours": "yesterday", "a day": "yesterday", "last year": [2025, 11]},
        "Pacific/Auckland": {"10 hours": "today", "12 hours": "today", "a day": "yesterday", "last year": [2026, 0]},
        "Pacific/Honolulu": {"10 hours": "yesterday", "12 hours": "yesterday", "a day": "week"},
        "America/New_York": {"10 hours": "yesterday", "12 hours": "yesterday", "six days": "week"},
    }
    script = """times => {
      const [now, ...others] = times.map(time => new Date(time));
      const groups = others.map(at => window.conversationList.groupOf(at, now));
      return groups.map(group => typeof group === "string" ? group : [group.year, group.month]);
    }"""
    for zone, groups in wanted.items():
        page = open_page(zone=zone).page
        found = page.evaluate(script, [moment.timestamp() * 1000 for moment in moments.values()])
        by_name = dict(zip(list(moments)[1:], found, strict=True))
        assert {name: by_name[name] for name in groups} == groups, zone
        assert by_name["six days"] == "week"
        assert by_name["eight days"] == [2026, 2], zone


def test_the_list_is_grouped_by_day_in_the_pages_language(gateway: FakeGateway, open_page: OpenPage) -> None:
    day = 86_400
    for locale, words in (("en-US", ["Pinned", "Today", "Yesterday", "Previous 7 days"]),
                          ("zh-CN", ["已置顶", "今天", "昨天", "过去 7 天"])):  # fmt: skip
        chat = open_page(locale=locale)
        for title, ago_s in (("now", 0), ("one", day), ("three", 3 * day), ("old", 400 * day)):
            stored(gateway, chat, title, ago_s=ago_s)
        stored(gateway, chat, "kept at the top", ago_s=90 * day, pinned="true")
        chat.open()
        expect(chat.conversations).to_have_text(["kept at the top", "now", "one", "three", "old"])
        assert headings(chat)[:4] == words
        year = str(datetime.fromtimestamp(time.time() - 400 * day).year)
        assert year in headings(chat)[4]


def test_a_title_is_text_and_renamed_by_hand(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask(ATTACK).answered("Hello, this")
    expect(chat.conversations).to_have_text(ATTACK)
    chat.choose("onerror", "rename")
    box = chat.page.locator("#list .rename")
    expect(box).to_be_focused()
    box.fill("A better name")
    box.press("Enter")
    expect(chat.conversations).to_have_text("A better name")
    chat.open()
    expect(chat.conversations).to_have_text("A better name")
    chat.choose("A better", "rename")
    box.fill("Never mind")
    box.press("Escape")
    expect(chat.conversations).to_have_text("A better name")
    expect(chat.questions).to_have_text(ATTACK)
    assert chat.page.evaluate("window.hacked") is None
    assert chat.problems == []


def test_what_is_pinned_stays_at_the_top(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    stored(gateway, chat, "older", ago_s=90)
    stored(gateway, chat, "newer")
    chat.open()
    expect(chat.conversations).to_have_text(["newer", "older"])
    chat.choose("older", "pin")
    expect(chat.conversations).to_have_text(["older", "newer"])
    chat.open()
    expect(chat.conversations).to_have_text(["older", "newer"])
    assert headings(chat) == ["Pinned", "Today"]
    chat.choose("older", "pin")
    expect(chat.conversations).to_have_text(["newer", "older"])


def test_titles_and_texts_are_searched(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    for title in ("The sea", "The mountains", "灯塔"):
        stored(gateway, chat, title)
    chat.open()
    expect(chat.conversations).to_have_count(3)
    box = chat.page.locator("#list-search")
    box.fill("about the MOUNT")
    expect(chat.conversations).to_have_count(1)
    expect(chat.page.locator("#list .match")).to_contain_text("about The mountains")
    chat.conversations.click()
    expect(chat.questions).to_have_text("about The mountains")
    box.fill("nothing of that kind")
    expect(chat.page.locator("#list .nothing")).to_have_text("Nothing was found.")
    box.press("Escape")
    expect(chat.conversations).to_have_count(3)


def test_a_deletion_can_be_taken_back(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Delete me").answered("Hello, this")
    chat.choose("Delete me", "delete")
    expect(chat.conversations).to_have_count(0)
    expect(chat.questions).to_have_count(0)
    expect(undo(chat)).to_be_focused()
    chat.open()
    expect(chat.page.locator("#list .nothing")).to_be_visible()
    expect(chat.questions).to_have_count(0)
    (one,) = gateway.state.conversations.values()
    assert within(5, lambda: "deleted" in one["metadata"])


def test_undo_brings_it_back_for_good(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Keep me").answered("Hello, this")
    chat.choose("Keep me", "delete")
    undo(chat).click()
    expect(chat.conversations).to_have_text("Keep me")
    expect(undo(chat)).to_have_count(0)
    chat.conversations.click()
    expect(chat.questions).to_have_text("Keep me")
    chat.page.wait_for_timeout(10_500)
    assert len(gateway.state.conversations) == 1
    expect(chat.conversations).to_have_text("Keep me")


def test_a_closed_page_still_deletes_after_ten_seconds(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("Delete me").answered("Hello, this")
    chat.choose("Delete me", "delete")
    expect(undo(chat)).to_be_visible()
    assert within(5, lambda: any("deleted" in c["metadata"] for c in gateway.state.conversations.values()))
    chat.page.close()
    assert gateway.state.conversations
    assert within(30, lambda: not gateway.state.conversations)


def test_the_conversation_that_is_being_answered_can_be_deleted(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(5000)], delay_s=0.03)
    chat = open_page().ask("Delete me")
    expect(chat.answers).to_contain_text("w3 ")
    chat.choose("Delete me", "delete")
    expect(chat.questions).to_have_count(0)
    expect(chat.conversations).to_have_count(0)
    assert within(45, lambda: bool(gateway.state.stopped_at)), "the model still writes"
    assert within(45, lambda: not gateway.state.conversations)
    expect(chat.send).to_be_visible()


def test_a_ui_that_is_stopped_in_these_ten_seconds_has_deleted(
    browser: Browser, gateway: FakeGateway, tmp_path: Path
) -> None:
    with start_webui(gateway.url, tmp_path) as webui, pages_of(browser, webui.url) as open_page:
        chat = open_page().ask("Delete me").answered("Hello, this")
        chat.choose("Delete me", "delete")
        assert within(5, lambda: any("deleted" in c["metadata"] for c in gateway.state.conversations.values()))
        webui.process.terminate()
        webui.process.wait(20)
        assert gateway.state.conversations == {}


def test_another_tab_sees_what_happened_when_it_is_looked_at(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page().ask("First").answered("Hello, this")
    other = ChatPage(chat.page.context.new_page(), chat.url).open()
    expect(other.conversations).to_have_text("First")
    chat.new_chat.click()
    expect(chat.questions).to_have_count(0)
    chat.ask("Second").answered("Hello, this")
    chat.choose("First", "delete")
    expect(chat.conversations).to_have_text("Second")
    assert within(5, lambda: any("deleted" in c["metadata"] for c in gateway.state.conversations.values()))
    other.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(other.conversations).to_have_text("Second")


@pytest.mark.parametrize("form", ["md", "json"])
def test_a_conversation_is_exported_as_a_file(open_page: OpenPage, form: str) -> None:
    chat = open_page().ask("纸鸢 and sea").answered("Hello, this")
    with chat.page.expect_download() as download:
        chat.choose("sea", form)
    assert download.value.suggested_filename == f"纸鸢 and sea.{form}"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert "纸鸢 and sea" in text
    assert "Hello, this is an answer." in text
    assert form == "md" or json.loads(text)["object"] == "conversation.export"


def test_a_file_is_imported_and_opened(open_page: OpenPage, tmp_path: Path) -> None:
    chat = open_page().ask("纸鸢 and sea").answered("Hello, this")
    with chat.page.expect_download() as download:
        chat.choose("sea", "json")
    chat.new_chat.click()
    expect(chat.questions).to_have_count(0)
    choose = chat.page.locator("#conversation-list input[type=file]")
    choose.set_input_files(download.value.path())
    expect(chat.questions).to_have_text("纸鸢 and sea")
    expect(chat.answers).to_have_text("Hello, this is an answer.")
    expect(chat.conversations).to_have_count(2)
    others = tmp_path / "talk.json"
    others.write_text(json.dumps({"messages": [{"role": "user", "content": ATTACK}]}))
    choose.set_input_files(others)
    expect(chat.questions).to_have_text(ATTACK)
    others.write_text("# no JSON")
    choose.set_input_files(others)
    expect(chat.page.locator("#list-problem")).to_contain_text("This file is not JSON.")
    expect(chat.conversations).to_have_count(3)
    assert chat.page.evaluate("window.hacked") is None


def test_a_thousand_are_listed_piece_by_piece_and_all_are_reached(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    for n in range(1000):
        stored(gateway, chat, f"number {n:03}", ago_s=n * 3600)
    chat.open()
    expect(chat.conversations).to_have_count(100)
    more = chat.page.locator("#list .show-more")
    for shown in range(200, 1001, 100):
        more.click()
        expect(chat.conversations).to_have_count(shown)
    expect(more).to_have_count(0)
    expect(chat.conversations.last).to_have_text("number 999")
    gateway.state.requests.clear()
    chat.ask("Newest").answered("Hello, this")
    expect(chat.conversations.first).to_have_text("Newest")
    expect(chat.conversations).to_have_count(1001)
    limits = [int(r["query"]["limit"]) for r in gateway.state.requests if r.get("query", {}).get("pinned") == "false"]
    assert limits
    assert max(limits) <= 20, "a turn asks for the whole list"
    chat.conversation("number 998").click()
    expect(chat.questions).to_have_text("about number 998")


def test_all_of_it_is_done_with_the_keyboard(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    for title in ("third", "second", "first"):
        stored(gateway, chat, title, ago_s={"first": 0, "second": 60, "third": 120}[title])
    chat.open()
    expect(chat.conversations).to_have_count(3)
    keyboard, focused = chat.page.keyboard, chat.page.locator(":focus")
    chat.conversations.first.focus()
    keyboard.press("ArrowDown")
    expect(focused).to_contain_text("second")
    keyboard.press("End")
    expect(focused).to_contain_text("third")
    keyboard.press("ArrowUp")
    keyboard.press("Enter")
    expect(chat.questions).to_have_text("about second")
    expect(chat.page.locator("#list [aria-current=true]")).to_contain_text("second")
    chat.conversation("second").focus()
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(focused).to_have_text("Rename")
    keyboard.press("ArrowDown")
    expect(focused).to_have_text("Pin")
    keyboard.press("Escape")
    expect(focused).to_have_attribute("aria-label", "More for “second”")
    keyboard.press("Enter")
    keyboard.press("End")
    expect(focused).to_have_text("Delete")
    keyboard.press("Enter")
    expect(focused).to_have_text("Undo")
    keyboard.press("Enter")
    expect(focused).to_contain_text("second")


def test_on_a_phone_the_undo_stays_in_view_and_opening_closes_the_drawer(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    chat = open_page(PHONE).ask("First topic").answered("Hello, this")
    chat.toggle.click()
    chat.choose("First topic", "delete")
    expect(chat.questions).to_have_count(0)
    expect(undo(chat)).to_be_in_viewport()
    undo(chat).click()
    chat.conversation("First topic").click()
    expect(chat.questions).to_have_text("First topic")
    expect(chat.new_chat).to_be_hidden()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_list_comes_back_by_itself_when_the_gateway_does(
    gateway: FakeGateway, open_page: OpenPage, size: tuple[int, int]
) -> None:
    chat = open_page(size)
    stored(gateway, chat, "still there")
    gateway.state.broken = True
    chat.open()
    if size == PHONE:
        chat.toggle.click()
    expect(chat.page.locator("#list-problem")).not_to_be_empty()
    gateway.state.broken = False
    expect(chat.conversations).to_have_text("still there")
    expect(chat.page.locator("#list-problem")).to_be_empty()


def test_the_list_is_there_after_a_restart_of_the_web_ui(
    browser: Browser, gateway: FakeGateway, tmp_path: Path
) -> None:
    port = free_port()
    with start_webui(gateway.url, tmp_path, port) as webui, pages_of(browser, webui.url) as open_page:
        chat = open_page().ask("Still here?").answered("Hello, this")
        chat.new_chat.click()
        webui.process.terminate()
        webui.process.wait(15)
        with start_webui(gateway.url, tmp_path, port):
            expect(chat.conversations).to_have_text("Still here?")
            chat.conversations.click()
            expect(chat.questions).to_have_text("Still here?", timeout=60_000)


def test_nobody_changes_what_is_anothers(gateway: FakeGateway, open_page: OpenPage, webui: WebUI) -> None:
    ann = open_page().ask("Ann's secret").answered("Hello, this")
    (one,) = gateway.state.conversations
    bob = open_page()
    script = """async ([id, path, body]) => {
      const how = body ? {method: "POST", body, headers: {"content-type": "application/json"}} : {};
      const answer = await fetch(`/webui/conversations/${id}${path}`, how);
      return [answer.status, await answer.text()];
    }"""
    for path, body in (("", '{"title": "x"}'), ("/delete", "{}"), ("/undelete", "{}"), ("/export?format=json", None)):
        status, text = bob.page.evaluate(script, [one, path, body])
        assert (status, "secret" in text) == (404, False), path
    bob.page.evaluate(
        "id => { const box = document.querySelector('#chosen textarea'); box.value = id + '#1';"
        " box.dispatchEvent(new Event('input', {bubbles: true})) }",
        one,
    )
    expect(bob.notice).to_contain_text("no longer exists")
    expect(bob.log).not_to_contain_text("secret")
    expect(ann.conversations).to_have_text("Ann's secret")
    assert gateway.state.conversations[one]["metadata"] == {"title": "Ann's secret"}
