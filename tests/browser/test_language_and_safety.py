"""Chinese and English by the browser's language, and model output that can do nothing but be read."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import Route, expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import PHONE, OpenPage, WebUI, within
from tests.fakes.gateway import FakeGateway, Scenario

pytestmark = pytest.mark.browser

ATTACKS = [
    "![x](http://attacker.test/md.png)",
    '<img src="http://attacker.test/img.png" onerror="window.hacked=1">',
    "<img src=x onerror=window.hacked=1>",
    "<script>window.hacked=1</script>",
    '<iframe src="http://attacker.test/frame"></iframe>',
    "<svg onload=window.hacked=1><image href='http://attacker.test/svg.png'/></svg>",
    '<a href="javascript:window.hacked=1">click me</a>',
    '<style>body{background:url("http://attacker.test/style.png")}</style>',
    '<link rel="stylesheet" href="http://attacker.test/link.css">',
    '<video poster="http://attacker.test/poster.png" src="http://attacker.test/v.mp4" autoplay></video>',
    '<form action="http://attacker.test/form"><button>go</button></form>',
    '<meta http-equiv="refresh" content="0;url=http://attacker.test/meta">',
]


def test_the_page_is_chinese_for_a_chinese_browser(gateway: FakeGateway, open_page: OpenPage) -> None:
    chat = open_page(locale="zh-CN")
    expect(chat.send).to_have_text("发送")
    expect(chat.new_chat).to_have_text("新对话")
    expect(chat.message).to_have_attribute("placeholder", "输入消息…")
    expect(chat.status).to_contain_text("已就绪")
    expect(chat.status).to_contain_text("只会英文的小型演示模型")
    gateway.state.scenario = Scenario(error=(429, "rate_limit_exceeded", "slow", {"retry-after": "2"}))
    chat.ask("你好")
    expect(chat.notice).to_contain_text("2 秒")
    gateway.state.scenario = Scenario(words=["你好", "，", "世界"])
    expect(chat.notice).to_contain_text("可以再次发送")
    chat.message.press("Enter")
    chat.answered("你好，世界")


def test_the_page_is_english_for_others(open_page: OpenPage) -> None:
    chat = open_page(locale="de-DE")
    expect(chat.send).to_have_text("Send")
    expect(chat.status).to_contain_text("is ready")


def test_model_output_runs_nothing_and_loads_nothing(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.state.scenario = Scenario(words=[f"{attack}\n\n" for attack in ATTACKS] + ["the end"])
    chat = open_page()
    reached = _requests_to_the_attacker(chat)
    chat.ask("Attack").answered("the end")
    chat.open()
    expect(chat.answers).to_contain_text("the end")
    assert chat.page.evaluate("window.hacked") is None
    assert reached == []
    assert chat.page.url.startswith(chat.url)


def test_the_policy_is_what_keeps_images_from_loading(gateway: FakeGateway, open_page: OpenPage) -> None:
    """The test above would see a request if there were one: without the policy there is."""
    gateway.state.scenario = Scenario(words=[ATTACKS[0], " the end"])
    chat = open_page(bypass_csp=True)
    reached = _requests_to_the_attacker(chat)
    chat.ask("Attack").answered("the end")
    assert within(5, lambda: bool(chat.page.evaluate("1") and reached))


def _requests_to_the_attacker(chat: ChatPage) -> list[str]:
    reached: list[str] = []

    def answer(route: Route) -> None:
        reached.append(route.request.url)
        route.abort()

    chat.page.context.route("**/attacker.test/**", answer)
    return reached


def test_mathematics_tables_and_code_are_set(gateway: FakeGateway, open_page: OpenPage) -> None:
    text = "a $x^2$ b \\(y^2\\) c \\[z^2\\]\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\nprint(1)\n```\n"
    gateway.state.scenario = Scenario(words=[text])
    chat = open_page().ask("Show").answered("print(1)")
    expect(chat.answers.locator(".katex")).to_have_count(3)
    expect(chat.answers.locator("table")).to_have_count(1)
    expect(chat.answers.locator("pre code")).to_have_count(1)


def test_prices_and_shell_prompts_are_no_mathematics(gateway: FakeGateway, open_page: OpenPage) -> None:
    shell = "```bash\n$ ls\n```\n\nThen:\n\n```bash\n$ cd\n```"
    text = f"- Apple: $1\n- **Pear**: $2\n\n{shell}\n\nSet `$A` and `$B`, with $x$.\n"
    gateway.state.scenario = Scenario(words=[text])
    chat = open_page().ask("I have $5 and you have $6, so $5+6$").answered("Set")
    expect(chat.answers.locator("li")).to_have_text(["Apple: $1", "Pear: $2"])
    expect(chat.answers.locator("pre")).to_have_count(2)
    expect(chat.answers.locator(":not(pre) > code")).to_have_text(["$A", "$B"])
    expect(chat.answers.locator(".katex")).to_have_count(1)
    expect(chat.questions).to_contain_text("I have $5 and you have $6, so")
    expect(chat.questions.locator(".katex")).to_have_count(1)


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/info", "/gradio_api/upload", "/config", "/gradio_api/openapi.json", "/gradio_api/runs", "/nothing"],
)
def test_what_gradio_opens_by_itself_is_closed(webui: WebUI, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(webui.url + path, timeout=5)
    with caught.value as answer:
        assert answer.code == 404
        assert json.load(answer)["error"]["code"] == "not_found"


def test_the_web_uis_key_never_reaches_the_browser(open_page: OpenPage) -> None:
    chat = open_page()
    assert "sk-test" not in chat.page.content()
    assert "sk-test" not in chat.page.evaluate("JSON.stringify(window.gradio_config)")


def test_tables_break_no_words_ticks_are_seen_and_paragraphs_have_their_own_direction(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    columns = "|".join(f"Column{n}" for n in range(12))
    text = f"|{columns}|\n|{'-|' * 12}\n|{'word|' * 12}\n\n- [x] done\n\nשלום.\n\n```\n{'long ' * 90}\n```\n\nend\n"
    gateway.state.scenario = Scenario(words=[text])
    chat = open_page(PHONE).ask("Show").answered("end")
    lines = chat.answers.locator("th").first.evaluate(
        "e => e.clientHeight / parseFloat(getComputedStyle(e).lineHeight)"
    )
    assert lines < 2.5, "the heading of a column is broken"
    for wide in ("table", "pre"):  # what scrolls is reached with the keyboard
        expect(chat.answers.locator(wide)).to_have_attribute("tabindex", "0")
    expect(chat.answers.get_by_role("checkbox", name="done")).to_be_checked()
    assert chat.answers.locator("input").evaluate("e => getComputedStyle(e).appearance") == "auto"
    assert chat.answers.locator("p").first.evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    assert not chat.page.evaluate("document.documentElement.scrollWidth > innerWidth"), "wider than the window"
