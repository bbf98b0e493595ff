"""docs/troubleshooting.md against the code: every message that it quotes is said somewhere, every code has its entry.

A quoted message is what stands in ticks in the first cell of a row, `…` in it for whatever differs. It is looked for in
the texts of the programs: constants and f-strings with `…` for what they fill in, and the lines of the scripts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import inference.errors
from gateway import errors
from webui.texts import TEXTS

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = (ROOT / "docs" / name for name in ("troubleshooting.md", "troubleshooting.zh-CN.md"))
PAGES = (ENGLISH, CHINESE)
BY_CODE = 7  # sections that list codes, by their place on the page: answers of the API, and the exit codes
WEB_UI = 8
EXIT_CODES = 12
_FEWEST_LETTERS = 7  # a Chinese message has few
_FILLED_IN = re.compile(r"%[-.\d]*[sdrfg]|\{\w*(?:[:!][^}]*)?\}")


def _text_of(node: ast.AST) -> str:
    """A constant or an f-string, with `…` for what is filled in."""
    if isinstance(node, ast.Constant):
        return _FILLED_IN.sub("…", node.value) if isinstance(node.value, str) else ""
    assert isinstance(node, ast.JoinedStr)
    return "".join("…" if isinstance(part, ast.FormattedValue) else str(ast.literal_eval(part)) for part in node.values)


@cache
def said_by_the_code() -> tuple[str, ...]:
    said: list[str] = []
    for folder in ("gateway", "hosting", "inference", "webui"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            said += _texts(path)
    said += _texts(ROOT / "app.py")
    for script in sorted((ROOT / "scripts").glob("*.sh")):
        said += script.read_text().splitlines()
    return tuple(said)


def _texts(path: Path) -> Iterator[str]:
    """All but the docstrings."""
    tree = ast.parse(path.read_text())
    silent = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node not in silent:
            yield _text_of(node)


def is_said(message: str) -> bool:
    """Whether one text has all that stays the same, in this order."""
    longest = max(message.split("…"), key=len)
    return any(longest in text and _pattern(message).search(text) for text in said_by_the_code())


@cache
def _pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*?".join(re.escape(part) for part in message.split("…") if part))


def sections(page: Path) -> list[str]:
    return page.read_text().split("\n## ")[1:]


def first_cells(section: str) -> list[str]:
    return [line.split(" | ")[0].strip("| ") for line in section.splitlines() if re.match(r"\| (`|\d)", line)]


def quoted(section: str) -> list[str]:
    return [message for cell in first_cells(section) for message in re.findall(r"`([^`]+)`", cell)]


def messages(page: Path) -> list[list[str]]:
    """Those of each section but the lists of codes and of places."""
    found = [quoted(section) for section in sections(page)]
    return [quotes for place, quotes in enumerate(found) if place not in (0, BY_CODE, EXIT_CODES)]


def test_a_message_is_found_by_what_stays_the_same_in_it() -> None:
    assert is_said("Port … on … is taken by another program")
    assert is_said("… answered …: are its key, its address and the model's name right?")
    assert is_said("1500 MB of free disk are needed here for the packages, … MB are left.")
    assert not is_said("Port … on … is taken by another programme")
    assert not is_said("The connection to … worked (…).")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_quoted_message_occurs_in_the_code(page: Path) -> None:
    every = [message for quotes in messages(page) for message in quotes]
    assert len(every) > 100
    assert [message for message in every if not is_said(message)] == []
    assert [message for message in every if len(re.findall(r"\w", message)) < _FEWEST_LETTERS] == [], "too vague"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_of_the_api_has_an_entry(page: Path) -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)]
    given = {
        keyword.value.value
        for path in (ROOT / "gateway").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    }
    listed = quoted(sections(page)[BY_CODE])
    assert len(listed) == len(set(listed))
    assert set(listed) == {kind.default_code for kind in ours} | given


@pytest.mark.parametrize(("page", "language"), [(ENGLISH, "en"), (CHINESE, "zh")], ids=["en", "zh"])
def test_every_error_that_the_web_ui_shows_has_an_entry(page: Path, language: str) -> None:
    shown = {"gateway_unreachable", "connection_lost", "webui_key_missing", "own_key_refused", "other_error"}
    shown |= set(quoted(sections(page)[BY_CODE]))
    texts = [
        _FILLED_IN.sub("…", text)
        for key, text in TEXTS[language].items()
        if key.removesuffix("_no_text") in shown and not _FILLED_IN.fullmatch(text)
    ]
    assert len(texts) > 15
    entries = [_pattern(message) for message in quoted(sections(page)[WEB_UI])]
    assert [text for text in texts if not any(entry.search(text) for entry in entries)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_exit_code_has_an_entry(page: Path) -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", sections(page)[EXIT_CODES], re.MULTILINE)
    kinds = [kind for kind in vars(inference.errors).values() if isinstance(kind, type)]
    assert sorted(rows) == sorted((str(kind.exit_code), kind.__name__) for kind in kinds)


def test_both_languages_have_the_same_messages_in_the_same_order() -> None:
    """But for those of the web UI, which are quoted as people read them."""
    english, chinese = messages(ENGLISH), messages(CHINESE)
    assert len(english) == len(chinese)
    differing = [place for place, (ours, theirs) in enumerate(zip(english, chinese, strict=True)) if ours != theirs]
    assert len(differing) <= 1, "only the section of the web UI may differ"
    assert [len(first_cells(one)) for one in sections(ENGLISH)] == [len(first_cells(one)) for one in sections(CHINESE)]
