"""docs/scaling.md is computed from docs/bench.md: when figures are measured anew, this says what to compute anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
DOCS = Path(__file__).resolve().parents[2] / "docs"
BENCH, PAGE = (DOCS / "bench.md").read_text(), (DOCS / "scaling.md").read_text()
ANSWER = 300  # tokens


def figures(row: str) -> list[float]:
    """The numbers in the second cell of a row of docs/bench.md."""
    found = re.search(rf"^\| {re.escape(row)} \| ([^|]*) \|", BENCH, re.MULTILINE)
    assert found, f"docs/bench.md has no row {row!r}"
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", found[1])]


def row_of_page(start: str) -> list[list[float]]:
    """The numbers in each further cell of a row of docs/scaling.md."""
    found = re.search(rf"^\| {re.escape(start)} \|(.*)\|$", PAGE, re.MULTILINE)
    assert found, f"docs/scaling.md has no row {start!r}"
    cells = found[1].replace(",", "").split("|")
    return [[float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)] for cell in cells]


def costs() -> dict[str, tuple[float, float]]:
    """Of each step: CPU in ms for an answer of 20 tokens, and for each further token."""
    paced = "CPU per streamed chunk, 256 streams at one token each 20 ms"
    _, chat_us, nginx_us = figures(f"{paced}: chat")
    _, stored_us, _ = figures(f"{paced}: stored")
    more, plain = figures("CPU of a stored turn beside a stateless one")
    shared = figures("CPU of each part for a streamed answer of 20 tokens: stored, Redis and PostgreSQL")
    return {
        "nginx": (20 * nginx_us / 1000, nginx_us / 1000),
        "gateway, stateless, limits in memory": (plain, (200 * chat_us / 1000 - plain) / 180),
        "gateway, stored, Redis and PostgreSQL": (shared[0], (200 * stored_us / 1000 - plain - more) / 180),
        "Redis": (shared[1], 0.0),
        "PostgreSQL": (shared[2], 0.0),
    }


def per_second(name: str) -> float:
    """Answers that half a core serves."""
    first, further = costs()[name]
    return 500 / (first + (ANSWER - 20) * further)


@pytest.mark.parametrize("name", list(costs()))
def test_what_a_token_costs_is_computed_from_the_bench(name: str) -> None:
    first, further = costs()[name]
    of_20, of_one_more, of_300, served = row_of_page(name)
    assert of_20[0] == pytest.approx(first, rel=0.02)
    assert of_one_more == ([pytest.approx(1000 * further, rel=0.02)] if further else [])
    assert of_300 == [pytest.approx(500 / per_second(name), rel=0.02)]
    assert served[0] == pytest.approx(per_second(name), rel=0.03)
    if len(served) > 1:
        assert served[1] == pytest.approx(per_second(name) * ANSWER, rel=0.03)


def test_how_many_of_each_is_computed_from_it() -> None:
    of_a_card = [cell[0] for cell in row_of_page("tokens/s of a card")]
    for start, name in (
        ("cards for one gateway at half a core, all turns stored", "gateway, stored, Redis and PostgreSQL"),
        ("cards for one nginx worker at half a core", "nginx"),
        (f"cards for a PostgreSQL at half a core, {ANSWER} tokens a turn", "PostgreSQL"),
    ):
        computed = [per_second(name) * ANSWER / rate for rate in of_a_card]
        assert [cell[0] for cell in row_of_page(start)] == [pytest.approx(one, rel=0.08) for one in computed], start
    people = row_of_page(f"people at one card who send a message a minute and get {ANSWER} tokens")
    assert [cell[0] for cell in people] == [rate * 60 // ANSWER for rate in of_a_card]
