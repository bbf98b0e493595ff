"""docs/walk.md: a row for each of the 45 things that the tutorial asks for, and nothing in it that is not there.

Links of all pages are looked at by test_docs.py; here it is that each row has one or a command, and that they exist.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

import gateway.__main__
import inference.__main__
from tests.pages import ROOT

pytestmark = pytest.mark.unit
ROW = re.compile(r"^\| (S\d\d) \| (.+?) \| (.+?) \| (.*) ?\|$", re.MULTILINE)
WITH_PAGE = pytest.mark.parametrize("page", ["walk.md", "walk.zh-CN.md"])
NOT_RUN = "◇"


def rows(page: str) -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = ROW.findall((ROOT / "docs" / page).read_text())
    return found


def commands_of(parser: argparse.ArgumentParser) -> set[str]:
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name for action in actions for name in action.choices}


@WITH_PAGE
def test_there_are_45_rows_in_order(page: str) -> None:
    assert [row[0] for row in rows(page)] == [f"S{number:02}" for number in range(1, 46)]


@WITH_PAGE
def test_each_row_is_served_by_a_command_a_page_or_a_file_that_is_there(page: str) -> None:
    for name, _, served, _ in rows(page):
        link = re.search(r"\]\([^)]+\)", served)
        command = re.search(r"`(make|python) [^`]+`", served)
        files = [code for code in re.findall(r"`([\w.]+)`", served) if (ROOT / code).is_file()]
        assert link or command or files, f"{name} is served by nothing that is there: {served}"


@WITH_PAGE
def test_each_row_is_shown_by_a_test_or_says_that_it_was_not_run(page: str) -> None:
    only_links = {"S18", "S45"}
    for name, _, _, shown in rows(page):
        tests = re.findall(r"`(tests/[^`]+)`", shown)
        assert [one for one in tests if not (ROOT / one).is_file()] == [], name
        assert tests or NOT_RUN in shown or name in only_links, name


@WITH_PAGE
def test_every_command_is_one_of_a_program_that_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    programs = {"inference": inference.__main__._parser(), "gateway": gateway.__main__._parser()}
    used = re.findall(r"`python -m (\w+) (\w+)", text)
    assert used
    assert [one for one in used if one[1] not in commands_of(programs[one[0]])] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for module in re.findall(r"`python -m (scripts\.\w+)`", text):
        assert Path(ROOT, *module.split(".")).with_suffix(".py").is_file()


def test_both_languages_name_the_same_tests_and_the_same_that_was_not_run() -> None:
    told = [[(row[0], re.findall(r"`[^`]+`|◇", row[3])) for row in rows(page)] for page in ("walk.md", "walk.zh-CN.md")]
    assert told[0] == told[1]
