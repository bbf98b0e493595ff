"""The foot of the sidebar: who is here, and what a place that forgets says to those who chat there."""

from __future__ import annotations

import pytest

from webui.account import account_html
from webui.identity import Person
from webui.texts import TEXTS

pytestmark = pytest.mark.unit
ANN = Person("a" * 32)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_where_conversations_may_be_gone_one_quiet_line_says_so(language: str) -> None:
    def foot(**how: bool) -> str:
        return account_html(ANN, language, has_login=False, takes_keys=False, **how)

    assert foot(keeps_chats=False).count(TEXTS[language]["chats_not_kept"]) == 1
    assert TEXTS[language]["chats_not_kept"] not in foot()
    assert "\n" not in foot(keeps_chats=False), "it is one block of HTML in Markdown"


def test_a_name_is_text() -> None:
    foot = account_html(Person("user:x", name="<b>x</b>"), "en", has_login=True, takes_keys=True)
    assert "<b>" not in foot
    assert "&lt;b&gt;x&lt;/b&gt;" in foot
