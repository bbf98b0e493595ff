"""The page as tests use it: its parts by selector, its steps by name, and what it asked the network for."""

from __future__ import annotations

import urllib.parse

from playwright.sync_api import Error, Locator, Page, expect

ANSWERS = "#chat [data-testid=bot]:not(:has(.mark)):not(:has(.thought-group))"


def load(page: Page, url: str, shown: Locator, *, timeout_s: float = 45) -> bool:
    """Goes to a page and waits until a part of it is shown; whether that took more than one attempt.

    Chromium gives up what it is loading when a network of the machine comes or goes, as those of containers do beside
    the tests. Then, and only then, the page is loaded once more.
    """
    changed: list[str] = []
    page.on("requestfailed", lambda r: changed.append(r.url) if r.failure == "net::ERR_NETWORK_CHANGED" else None)
    for attempt in range(4):
        changed.clear()
        try:
            page.goto(url)
            expect(shown).to_be_visible(timeout=timeout_s * 1000)
            return attempt > 0
        except (AssertionError, Error):
            if not changed and not any(frame.url.startswith("chrome-error:") for frame in page.frames):
                raise
    raise AssertionError(f"the networks of this machine do not come to rest, so {url} cannot be loaded")


class ChatPage:
    """One tab on the web UI."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requested: list[str] = []
        self.problems: list[str] = []
        self._answers_expected = 0
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", self._note)
        page.on("console", lambda m: self.problems.append(m.text) if m.type == "error" else None)
        self.message = page.locator("#message textarea")
        self.send = page.locator("#send")
        self.stop = page.locator("#stop")
        self.retry = page.locator("#retry")
        self.go_on = page.locator("#go-on")
        self.earlier = page.locator("#earlier")
        self.older = page.locator("#older")
        self.meter = page.locator("#meter")
        self.notice = page.locator("#notice")
        self.status = page.locator("#status")
        self.log = page.locator("#chat [role=log]")
        self.questions = page.locator("#chat [data-testid=user]")
        self.answers = page.locator(ANSWERS)
        self.folded = page.locator("#chat .thought-group")
        self.marks = page.locator("#chat .mark")
        self.conversations = page.locator("#list .open")
        self.new_chat = page.locator("#new-chat")
        self.toggle = page.locator("#sidebar .toggle-button")

    def _note(self, error: Error) -> None:
        """Keeps what went wrong. Gradio's own client does not catch the end of a stream that it closes itself."""
        if "AbortError: signal is aborted without reason" not in str(error):
            self.problems.append(str(error))

    def open(self) -> ChatPage:
        """Loads the page and waits until it has loaded its own state."""
        before = len(self.problems)
        if load(self.page, self.url, self.status.locator("[data-stage]")):
            del self.problems[before:]
        return self

    def limit_tokens(self, count: int) -> ChatPage:
        """Sets how many tokens prompt and answer may have together; needs the sidebar in view."""
        self.page.click("#settings button")
        number = self.page.locator("#total-tokens input[type=number]")
        number.fill(str(count))
        number.press("Tab")
        self.page.click("#settings button")
        return self

    def type_half_an_emoji(self, box: Locator) -> ChatPage:
        """As a script or a broken input method does; typed by Playwright it would become U+FFFD on its way."""
        write = r"box => { box.value = 'a \ud83d b'; box.dispatchEvent(new Event('input', {bubbles: true})) }"
        box.evaluate(write)
        return self

    def ask(self, text: str) -> ChatPage:
        """Types a message and sends it with Enter."""
        self._answers_expected = self.answers.count() + 1
        self.message.fill(text)
        self.message.press("Enter")
        return self

    def answered(self, text: str | None = None, *, timeout_s: float = 45) -> ChatPage:
        """Waits until the answer has begun, and then until it has ended."""
        if self._answers_expected:
            expect(self.answers).to_have_count(self._answers_expected, timeout=timeout_s * 1000)
            self._answers_expected = 0
        if text is not None:
            expect(self.answers.last).to_contain_text(text, timeout=timeout_s * 1000)
        expect(self.send).to_be_visible(timeout=timeout_s * 1000)
        expect(self.stop).to_be_hidden()
        return self

    def conversation(self, title: str) -> Locator:
        """An entry of the list."""
        return self.conversations.filter(has_text=title)

    def choose(self, title: str, what: str) -> ChatPage:
        """One of the things that an entry's menu offers: rename, pin, md, json, delete; needs the sidebar in view."""
        entry = self.page.locator("#list .entry").filter(has_text=title)
        entry.locator(".more").click()
        entry.locator(f".menu [data-do={what}]").click()
        return self

    def hosts(self) -> set[str]:
        """Every host that the page asked for anything."""
        return {host for url in self.requested if (host := urllib.parse.urlsplit(url).hostname)}
