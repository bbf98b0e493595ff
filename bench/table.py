"""Rows of the table, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        rounds: measured rounds; medians are told. The first, unmeasured one warms up.
        is_quick: less of everything, for a look while working.
    """

    rounds: int
    is_quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        """How many, in a full and in a quick run."""
        return quick if self.is_quick else full


@dataclass(frozen=True)
class Row:
    """One line: what was measured, what came out, what must be reached.

    Attributes:
        is_reached: None when it could not be measured, or has no target.
    """

    what: str
    measured: str
    must_reach: str = ""
    is_reached: bool | None = None


def not_measured(what: str, why: str, must_reach: str) -> Row:
    """A row that says why it is empty."""
    return Row(what, f"not measured: {why}", must_reach)


def render(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | measured | must reach | reached |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {row.what} | {row.measured} | {row.must_reach} | {words[row.is_reached]} |" for row in rows]
    return "\n".join(lines)
