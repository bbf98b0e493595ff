"""Attacks as answers, messages and titles: nothing runs, nothing is loaded from elsewhere, the page stays usable."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Response, Route, expect

from tests.browser.attacks import ATTACKS, AWAY
from tests.browser.chat_page import ChatPage
from tests.browser.conftest import OpenPage, within
from tests.fakes.gateway import KEY, FakeGateway, Scenario

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
WAIT_S = 45


class Watch:
    """Whatever an attack would be seen by."""

    def __init__(self, chat: ChatPage) -> None:
        self.reached: list[str] = []
        self.dialogs: list[str] = []
        self.pages: list[Page] = []
        self._chat = chat
        context = chat.page.context
        context.route("**/*attacker.test/**", self._note)
        context.on("page", lambda page: self.pages.append(page))
        chat.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self._url = chat.page.url

    def _note(self, route: Route) -> None:
        self.reached.append(route.request.url)
        route.abort()

    def saw_nothing(self) -> None:
        """Fails with what was seen."""
        assert self._chat.page.evaluate("window.hacked") is None
        assert self.reached == []
        assert self.dialogs == []
        assert self.pages == []
        assert self._chat.page.url == self._url
        # what the policy stopped is among the requests that Chromium tells of, but none of it got as far as the route
        assert self._chat.hosts() <= {"127.0.0.1", "attacker.test"}


def test_there_are_enough_of_them() -> None:
    assert len(ATTACKS) >= 40
    assert len(set(ATTACKS.values())) == len(ATTACKS)


def test_answers_run_nothing_load_nothing_and_leave_the_page_usable(gateway: FakeGateway, open_page: OpenPage) -> None:
    """A few of them in each answer: the page has to take them all in one chat, as they come and after a reload."""
    chat = open_page()
    watch = Watch(chat)
    names = list(ATTACKS)
    for first in range(0, len(names), 12):
        texts = [ATTACKS[name] for name in names[first : first + 12]]
        words = [word for text in texts for word in _pieces(f"{text}\n\n")]
        gateway.state.scenario = Scenario(words=[*words, f"the end of {first}"], delay_s=0.002)
        chat.ask(f"Attack {first}").answered(f"the end of {first}", timeout_s=WAIT_S)
        watch.saw_nothing()
    _click_everything(chat)
    watch.saw_nothing()
    chat.open()
    expect(chat.answers.last).to_contain_text("the end of", timeout=WAIT_S * 1000)
    _click_everything(chat)
    watch.saw_nothing()
    gateway.state.scenario = Scenario()
    chat.ask("Still there?").answered("this is an answer.", timeout_s=WAIT_S)
    expect(chat.page.locator("gradio-app")).to_have_count(1)
    assert chat.page.evaluate("document.querySelector('base').href").startswith(chat.url)
    assert (
        chat.page.evaluate(
            "document.querySelectorAll('#chat :is(iframe, object, embed, form, meta, link, base)').length"
        )
        == 0
    )


def test_each_of_them_alone_in_a_stored_answer_does_nothing_either(gateway: FakeGateway, open_page: OpenPage) -> None:
    """What one leaves open cannot hide the next one: each is a message of its own, as a history brings them."""
    chat = open_page()
    watch = Watch(chat)
    for first in range(0, len(ATTACKS), 38):  # a page shows forty messages
        texts = list(ATTACKS.values())[first : first + 38]
        chat.new_chat.click()
        expect(chat.questions).to_have_count(0)
        chat.ask(f"Seed {first}").answered("this is an answer.", timeout_s=WAIT_S)
        newest = max(gateway.state.conversations.values(), key=lambda c: float(c["touched"]))
        newest["items"] += [_stored(f"msg_attack_{first}_{number}", text) for number, text in enumerate(texts)]
        chat.open()
        expect(chat.log).to_contain_text(f"Seed {first}", timeout=WAIT_S * 1000)
        expect(chat.page.locator("#chat [data-testid=bot]").nth(len(texts))).to_be_attached(timeout=WAIT_S * 1000)
        _click_everything(chat)
        watch.saw_nothing()
    chat.ask("Still there?").answered("this is an answer.", timeout_s=WAIT_S)


def test_messages_and_titles_are_no_better(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page()
    watch = Watch(chat)
    chat.ask("\n\n".join(ATTACKS.values())).answered("this is an answer.", timeout_s=WAIT_S)
    for name in ("image", "img", "onerror", "svg onload", "style attribute", "Gradio's own words"):
        chat.new_chat.click()
        expect(chat.questions).to_have_count(0)
        chat.ask(ATTACKS[name]).answered("this is an answer.", timeout_s=WAIT_S)
    watch.saw_nothing()
    chat.open()
    expect(chat.conversations.first).to_be_visible()
    _click_everything(chat)
    watch.saw_nothing()


def test_the_policy_alone_would_stop_them(open_page: OpenPage) -> None:
    """Put into the page past everything that cleans it, they still load nothing."""
    chat = open_page()
    watch = Watch(chat)
    blocked: list[str] = []
    chat.page.on("console", lambda m: blocked.append(m.text) if "Content Security Policy" in m.text else None)
    code = f"""
      const box = document.createElement('div');
      box.innerHTML = `<img src="{AWAY}/x.png"><img src=x onerror="window.hacked=1">
        <div style="background:url({AWAY}/y.png)">x</div><iframe src="{AWAY}"></iframe>`;
      document.body.append(box);
      const script = document.createElement('script');
      script.textContent = 'window.hacked=1';
      document.body.append(script);
      fetch('{AWAY}/z').catch(() => 0);
    """
    chat.page.evaluate(code)
    assert within(WAIT_S, lambda: bool(chat.page.evaluate("1")) and len(blocked) >= 5)
    watch.saw_nothing()


def test_the_key_of_the_web_ui_is_in_nothing_that_a_browser_gets(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario()
    chat = open_page()
    bodies: list[str] = []

    def keep(response: Response) -> None:
        bodies.append(str(response.all_headers()))
        if response.status < 300:
            bodies.append(response.body().decode("utf-8", "replace"))

    responses: list[Response] = []
    chat.page.goto("about:blank")  # what the page before was still asking for has no body any more
    chat.page.on("response", lambda response: responses.append(response))
    chat.open()
    chat.ask("Hello").answered("this is an answer.", timeout_s=WAIT_S)
    for response in responses:
        if "/queue/data" not in response.url and "/heartbeat/" not in response.url:  # streams: tested over HTTP
            keep(response)
    assert len(bodies) > 40
    assert not [body for body in bodies if KEY in body]
    assert KEY not in chat.page.content()
    assert KEY not in chat.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert "webui_person" not in chat.page.evaluate("document.cookie")


def _stored(item_id: str, text: str) -> dict[str, object]:
    content = [{"type": "output_text", "text": text}]
    item = {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "response_id": None}
    return item | {"content": content}


def _pieces(text: str) -> list[str]:
    """As a model would write it: cut in the middle of tags and addresses."""
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def _click_everything(chat: ChatPage) -> None:
    """Whatever in the chat could be pressed, except links that leave, which are looked at instead."""
    hrefs = chat.page.evaluate(
        "[...document.querySelectorAll('#chat a')]"
        ".map(a => a.getAttribute('href') || a.getAttribute('xlink:href') || '')"
    )
    assert not [href for href in hrefs if href.strip().lower().startswith(("javascript", "vbscript", "data:text"))]
    chat.page.evaluate(
        "document.querySelectorAll('#chat .prose :is(a:not([href^=http]), button, summary, input)')"
        ".forEach(e => e.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true})))"
    )
    chat.page.wait_for_timeout(300)
