"""Every state of the page as axe-core sees it, in both languages and both sets of colours, at two widths.

The rules are those of WCAG 2.2 A and AA and axe's best practices; a finding that axe calls serious or critical fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import DESKTOP, PHONE, WebUI, start_webui
from tests.fakes.gateway import FakeGateway, Scenario
from webui.users import Users

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
WAIT_MS = 45_000
RICH = """# A heading

Text with `code`, a [link](https://example.org) and $x^2$.

|a|b|
|-|-|
|1|2|

```python
print("你好")  # a line that is too long for the width of a page, and so it scrolls; too long for the width
```

- [x] 完成
"""
# What is read out or shown although nobody writes it: it has to be Chinese on a Chinese page.
_SAID = """() => {
  const shown = (e) => e.checkVisibility({checkOpacity: false, checkVisibilityCSS: true});
  const texts = [];
  const skipped = '#list .open, #title, code, .status-note, [lang]:not(html), style', said = '#chat .message-content';
  for (const e of document.querySelectorAll('body *')) {
    if (!shown(e) || e.closest(skipped)) continue;
    for (const name of ['aria-label', 'title', 'placeholder', 'alt', 'aria-description'])
      if (e.getAttribute(name)) texts.push(name + ': ' + e.getAttribute(name));
    for (const node of e.closest(said) ? [] : e.childNodes)
      if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) texts.push(node.textContent.trim());
  }
  return [...new Set(texts)].filter((text) => /[A-Za-z]{2}/.test(text) && !/[\\u4e00-\\u9fff]/.test(text));
}"""


def findings(page: Page) -> list[str]:
    """What axe calls serious or critical, with the elements."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]} | {node['failureSummary'][:300]}"
        for one in result["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_every_state_can_be_read_and_used_by_everybody(
    browser: Browser, gateway: FakeGateway, webui: WebUI, language: str, colours: str
) -> None:
    found: dict[str, list[str]] = {}
    context = browser.new_context(
        viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, locale=language, color_scheme=colours
    )  # type: ignore[arg-type]
    chat = ChatPage(context.new_page(), webui.url).open()
    page = chat.page
    assert page.evaluate("document.body.classList.contains('dark')") == (colours == "dark")

    def look(state: str) -> None:
        if seen := findings(page):
            found[state] = seen
        if language == "zh-CN" and (said := page.evaluate(_SAID)):
            found[f"{state}: not Chinese"] = said
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found[f"{state}: wider than the window"] = []

    look("empty")
    gateway.state.scenario = Scenario(words=[RICH])
    chat.ask("Show").answered("print", timeout_s=45)
    look("answered")
    gateway.state.scenario = Scenario(words=["word "] * 400, delay_s=0.05)
    chat.ask("Long")
    expect(chat.answers.last).to_contain_text("word", timeout=WAIT_MS)
    look("running")
    chat.stop.click()
    chat.answered("word", timeout_s=45)
    look("stopped")
    gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "slow", {"retry-after": "12"}))
    chat.ask("Refused")
    expect(chat.notice.locator("[role=alert]")).to_be_visible(timeout=WAIT_MS)
    look("refused")
    page.locator("#settings button").first.click()
    expect(page.locator("#total-tokens input[type=number]")).to_be_visible(timeout=WAIT_MS)
    look("settings")
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_timeout(300)
    look("phone")
    chat.toggle.click()
    page.wait_for_timeout(500)
    look("phone with its sidebar")
    context.close()
    assert found == {}, "\n".join(f"{state}:\n  " + "\n  ".join(each) for state, each in found.items())


@pytest.fixture(scope="module")
def login_ui(_gateway_server: tuple[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("login")
    Users(folder / "webui.users").put("ann", "correct horse")
    with start_webui(
        _gateway_server[0],
        folder,
        WEBUI_OWN_KEYS="allowed",
        WEBUI_OIDC_ISSUER="https://login.example.org",
        WEBUI_OIDC_CLIENT_ID="chat",
        WEBUI_OIDC_NAME="Example",
    ) as running:
        yield running


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_the_login_and_the_key_can_be_filled_in_by_everybody(
    browser: Browser, gateway: FakeGateway, login_ui: WebUI, language: str, colours: str
) -> None:
    found: dict[str, list[str]] = {}
    context = browser.new_context(
        viewport={"width": PHONE[0], "height": PHONE[1]}, locale=language, color_scheme=colours
    )  # type: ignore[arg-type]
    page = context.new_page()

    def look(state: str) -> None:
        if seen := findings(page):
            found[state] = seen
        if language == "zh-CN" and (said := page.evaluate(_SAID)):
            found[f"{state}: not Chinese"] = said
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")

    page.goto(login_ui.url)
    expect(page.locator("#name")).to_be_visible(timeout=WAIT_MS)
    look("login")
    page.fill("#name", "ann")
    page.fill("#password", "wrong")
    page.press("#password", "Enter")
    expect(page.locator("[role=alert]")).to_be_visible(timeout=WAIT_MS)
    look("wrong password")
    page.fill("#name", "ann")
    page.fill("#password", "correct horse")
    page.press("#password", "Enter")
    expect(page.locator("#account .who")).to_be_attached(timeout=WAIT_MS)
    page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
    look("logged in")
    page.goto(login_ui.url + "/key")
    look("key")
    context.close()
    assert found == {}, "\n".join(f"{state}:\n  " + "\n  ".join(each) for state, each in found.items())


def test_the_keyboard_goes_through_the_page_in_reading_order(
    browser: Browser, gateway: FakeGateway, webui: WebUI
) -> None:
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, locale="en-US")
    chat = ChatPage(context.new_page(), webui.url).open().ask("Hello").answered("this is an answer.", timeout_s=45)
    page = chat.page
    page.evaluate("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    seen: list[str] = []
    where = """() => {
      const e = document.activeElement;
      const part = e.closest('#new-chat, #list, #settings, #account, #chat, #composer');
      const r = e.getBoundingClientRect(), s = getComputedStyle(e);
      const ring = s.outlineStyle !== 'none' || s.boxShadow !== 'none' || e.matches('.toggle-button') ||
        getComputedStyle(e.closest('label') || e).outlineStyle !== 'none';
      return [part ? part.id : '', r.width > 0 && r.height > 0, ring, e.outerHTML.slice(0, 120)];
    }"""
    for _ in range(40):
        page.keyboard.press("Tab")
        part, has_size, has_ring, html = page.evaluate(where)
        if part and (not seen or seen[-1] != part):
            seen.append(part)
        assert has_size or not part, f"the focus is on something that is not there: {html}"
        assert has_ring or not part, f"the focus cannot be seen: {html}"
        if part == "composer":
            break
    wanted = ["new-chat", "list", "settings", "account", "chat", "composer"]
    assert [part for part in wanted if part in seen] == [part for part in dict.fromkeys(seen) if part in wanted]
    assert {"new-chat", "list", "account", "composer"} <= set(seen)
    context.close()
