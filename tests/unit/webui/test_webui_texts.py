"""Both languages say the same things, with the same values."""

from __future__ import annotations

import re
import string

import pytest

from webui.texts import TEXTS, language_of, say

pytestmark = pytest.mark.unit


# English has a form of its own for one of something.
FOR_ONE = {key for key in TEXTS["en"] if key.endswith("_one")}


def test_both_languages_have_the_same_keys() -> None:
    assert TEXTS["en"].keys() - FOR_ONE == TEXTS["zh"].keys()


@pytest.mark.parametrize("key", sorted(FOR_ONE))
def test_one_of_something_is_said_in_the_singular(key: str) -> None:
    several = key.removesuffix("_one")
    assert say("en", several, n=1) != TEXTS["en"][several].format(n=1)
    assert say("en", several, n=2) == TEXTS["en"][several].format(n=2)
    assert say("zh", several, n=1) == TEXTS["zh"][several].format(n=1)


@pytest.mark.parametrize("key", sorted(TEXTS["en"].keys() - FOR_ONE))
def test_both_languages_use_the_same_values(key: str) -> None:
    def values(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert values(TEXTS["en"][key]) == values(TEXTS["zh"][key])


@pytest.mark.parametrize("key", [k for k in TEXTS["zh"] if k not in {"stage_ready", "other_language"}])
def test_chinese_is_chinese(key: str) -> None:
    assert re.search(r"[\u4e00-\u9fff]", TEXTS["zh"][key])


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-TW", "zh"),
        ("ZH", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("en;q=0.5,zh;q=0.9", "zh"),
        ("fr-FR,zh;q=0.5", "zh"),
        ("de", "en"),
        ("zh;q=0", "en"),
        ("zh;q=nonsense,en", "en"),
        ("*,;,;;q", "en"),
    ],
)
def test_the_browser_chooses_the_language(header: str, language: str) -> None:
    assert language_of(header) == language


def test_values_are_put_in() -> None:
    assert "12 s" in say("en", "rate_limit_exceeded", wait=12)
    assert "1,000,000" in say("zh", "message_too_long", n=1_000_000, limit=5)
