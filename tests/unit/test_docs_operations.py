"""docs/operations.md against the code: every alert has its row, and the table of cards says what `plan` computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference.__main__ import main
from tests.pages import ROOT

pytestmark = pytest.mark.unit
PAGES = [ROOT / "docs" / name for name in ("operations.md", "operations.zh-CN.md")]
CARDS = re.compile(r"^\| `(internlm2-\S+)` \| `(\S+)` \| (\w+) \| (.*) \|$", re.MULTILINE)
WITH_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@WITH_NAME
def test_every_alert_has_a_row_and_no_other_has(page: Path) -> None:
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "deploy" / "alerts.yml").read_text())
    assert re.findall(r"^\| `([A-Z][a-z]+[A-Z]\w+)` \|", page.read_text(), re.MULTILINE) == alerts


@WITH_NAME
def test_the_table_of_cards_says_what_plan_computes(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = CARDS.findall(page.read_text())
    assert len(told) >= 6
    for model, card, engine, cells in told:
        assert main(["plan", "--model", model, "--gpu", card, "--engine", engine]) == 0
        computed = capsys.readouterr().out
        assert cells.split(" | ") == _cells(computed), f"{model} on {card} by {engine}:\n{computed}"


def _cells(plan: str) -> list[str]:
    def found(pattern: str) -> str:
        match = re.search(pattern, plan)
        assert match, f"{pattern} is not in\n{plan}"
        return ", ".join(match.groups())

    return [
        found(r"  weights +- +(\d.*? GiB)  \((.*)\)"),
        found(r"  one conversation +(\d+) tokens"),
        found(r"  answers at once +(\d+)"),
        found(r"  tokens that fit +(\d+)"),
        found(r"  on the disk +(.*? GB), while it is made ready (.*? GB)"),
    ]
