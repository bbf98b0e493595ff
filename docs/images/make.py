"""Makes the screenshots anew: `python docs/images/make.py http://127.0.0.1:7860 [NAME …]`, with `make run` beside it.

It chats with the model that runs there, in Debian's Chromium: look at the pictures
before you commit them, since what the small model says differs from run to run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

FOLDER = Path(__file__).resolve().parent
SHOTS = (
    ("chat.png", (1280, 800), "en-US"),
    ("chat-phone-zh.png", (390, 844), "zh-CN"),
)
PANELS = (  # what is clicked before the picture, after the chat
    ("list.png", (1280, 800), "en-US", ("#list .entry .more",)),
    ("list-phone-zh.png", (390, 844), "zh-CN", ("#sidebar .toggle-button", "#list .entry .more")),
    ("settings.png", (1280, 800), "en-US", ("#settings button",)),
    ("settings-phone-zh.png", (390, 844), "zh-CN", ("#sidebar .toggle-button", "#settings button")),
)
QUESTIONS = ("Write two sentences about the sea.", "Write two sentences about the mountains.")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
ANSWER_MS = 120_000


def main() -> None:
    """Takes all shots of the stack at the address that was given, or those that are named."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python docs/images/make.py URL [NAME …]")
    every = [*((*shot, ()) for shot in SHOTS), *PANELS]
    chosen = sys.argv[2:] or [name for name, *_ in every]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for name, size, locale, clicks in every:
            if name in chosen:
                take(browser, sys.argv[1], FOLDER / name, size, locale, clicks)
        browser.close()


def take(browser: Browser, url: str, file: Path, size: tuple[int, int], locale: str, clicks: tuple[str, ...]) -> None:
    """One person's chat, photographed when the last answer has ended and what is to be seen was clicked open."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale=locale)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#status [data-stage=ready]")).to_be_visible(timeout=ANSWER_MS)
    for number, question in enumerate(QUESTIONS, start=1):
        ask(page, question, number)
    page.locator("#message textarea").blur()
    page.wait_for_timeout(1000)  # the list and the buttons settle
    for selector in clicks:
        page.locator(selector).first.click()
        page.wait_for_timeout(500)
    page.screenshot(path=file)
    context.close()


def ask(page: Page, question: str, number: int) -> None:
    """Types a question and waits until its answer has ended."""
    page.locator("#message textarea").fill(question)
    page.locator("#message textarea").press("Enter")
    expect(page.locator("#chat [data-testid=user]")).to_have_count(number, timeout=ANSWER_MS)
    expect(page.locator("#stop")).to_be_hidden(timeout=ANSWER_MS)
    expect(page.locator("#send")).to_be_visible(timeout=ANSWER_MS)


if __name__ == "__main__":
    main()
