"""The whole stack with the real small model, as a person meets it: `python app.py` and a browser, at two widths.

It runs with its own app.py, whose every look-up and connection is written down, so that the tests can say that neither
the browser nor the server asked another host for anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import DESKTOP, PHONE, ROOT, OpenPage, pages_of, within
from tests.conftest import Stack, run_app

pytestmark = pytest.mark.browser
STORY = "Write a very long story about a lighthouse keeper."


@pytest.fixture(scope="module")
def audited_stack(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("audited-stack")
    environ = {
        "GATEWAY_USER_RPM": "100000",
        "GATEWAY_KEY_RPM": "100000",
        "GATEWAY_ALL_USERS_RPM": "100000",
        "GATEWAY_ADDRESS_RPM": "100000",
        "AUDIT_LOG": str(data_dir / "hosts.log"),
        "PYTHONPATH": str(ROOT / "tests" / "browser" / "audit"),
    }
    with run_app(data_dir, models_dir, environ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def open_page(browser: Browser, audited_stack: Stack) -> Iterator[OpenPage]:
    with pages_of(browser, audited_stack.url) as open_page:
        yield open_page


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_person_chats_stops_reloads_and_finds_it_all_again(open_page: OpenPage, size: tuple[int, int]) -> None:
    chat = open_page(size)
    expect(chat.status).to_contain_text("is ready")
    expect(chat.status).to_contain_text("InternLM2")
    chat.ask(STORY)
    expect(chat.answers).to_contain_text(" ", timeout=30_000)
    lengths: set[int] = set()
    assert within(30, lambda: lengths.add(len(chat.answers.inner_text())) or len(lengths) >= 4), "no tokens one by one"
    chat.stop.click()
    chat.answered()
    expect(chat.marks).to_have_text("Stopped")
    said = chat.answers.inner_text().strip()
    assert said
    chat.open()
    expect(chat.questions).to_have_text(STORY)
    expect(chat.marks).to_have_count(1)
    assert chat.answers.inner_text().strip()[: len(said) // 2] == said[: len(said) // 2]
    expect(chat.conversation("lighthouse")).to_have_count(1)
    chat.retry.click()
    expect(chat.stop).to_be_visible()
    expect(chat.answers).to_contain_text(" ", timeout=30_000)
    chat.stop.click()
    chat.answered()
    expect(chat.conversation("lighthouse")).to_have_count(1)
    assert chat.hosts() == {"127.0.0.1"}
    assert chat.problems == []


def test_a_short_answer_ends_by_itself_and_the_talk_goes_on(open_page: OpenPage) -> None:
    chat = open_page().limit_tokens(512).ask("Say hello.").answered(timeout_s=60)
    chat.ask("What is 2+2?").answered(timeout_s=60)
    expect(chat.questions).to_have_count(2)
    expect(chat.notice.locator("[role=alert]")).to_have_count(0)
    chat.choose("Say hello", "delete")
    expect(chat.conversations).to_have_count(0)
    expect(chat.questions).to_have_count(0)


def test_two_browsers_never_see_each_other(open_page: OpenPage) -> None:
    ann = open_page().limit_tokens(256).ask("My secret is 42.").answered(timeout_s=60)
    expect(ann.conversation("secret")).to_have_count(1)
    bob = open_page()
    expect(bob.conversations).to_have_count(0)
    kept = ann.page.evaluate("JSON.stringify(localStorage)")
    bob.page.evaluate("kept => Object.entries(JSON.parse(kept)).forEach(([k, v]) => localStorage.setItem(k, v))", kept)
    bob.open()
    expect(bob.questions).to_have_count(0)
    expect(bob.notice).to_have_text("")
    expect(bob.log).not_to_contain_text("secret")


def test_the_stack_asked_no_other_host(audited_stack: Stack, open_page: OpenPage) -> None:
    open_page().limit_tokens(256).ask("Say hello.").answered(timeout_s=60)
    hosts = set(Path(os.fspath(audited_stack.data_dir), "hosts.log").read_text().split())
    assert "127.0.0.1" in hosts
    assert hosts <= {"127.0.0.1", "localhost", "::1", "None", "0.0.0.0"}, hosts


def test_a_reload_watches_the_answer_again_and_a_stopped_one_goes_on(open_page: OpenPage) -> None:
    chat = open_page().ask(STORY)
    expect(chat.answers).to_contain_text(" ", timeout=60_000)
    chat.open()
    expect(chat.questions).to_have_text(STORY)
    expect(chat.stop).to_be_visible()
    seen = chat.answers.inner_text()
    assert within(60, lambda: len(chat.answers.inner_text()) > len(seen) + 40), "it is not watched"
    chat.stop.click()
    expect(chat.marks).to_have_text("Stopped")
    kept = chat.answers.inner_text().strip()
    chat.go_on.click()
    expect(chat.stop).to_be_visible()
    assert within(60, lambda: len(chat.answers.inner_text()) > len(kept) + 40), "it does not go on"
    chat.stop.click()
    expect(chat.marks).to_have_text("Stopped")
    assert chat.answers.inner_text().startswith(kept[: len(kept) // 2])
