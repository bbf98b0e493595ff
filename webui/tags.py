"""HTML in messages is text to be read, and only formulas are formulas: there and back. Pure.

Gradio shows messages as Markdown, and hands back what it was given when somebody edits one. It looks for formulas
before it looks for code and paragraphs, so that two prices, or two prompts of a shell, swallowed all between them.
Therefore formulas are found here, and each gets a mark in front and one behind: invisible characters, which with the
delimiters that were written are Gradio's delimiters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

OPENS, CLOSES = "\u2061", "\u2062"
"""Marks around a formula; in no text that is shown for another reason."""

# Code and formulas, open ones while they are being written too; what they hold is never HTML. None of them may look
# further than to the next mark of its own kind, so that the time stays in proportion to the length. A single dollar
# opens as in Pandoc, where it touches the formula, or where both have a space; and no sum of money is one.
_VERBATIM = re.compile(
    r"""```.*?(?:```|\Z) | ~~~.*?(?:~~~|\Z) | (?P<ticks>`+)(?!`).{1,2000}?(?<!`)(?P=ticks)(?!`)
      | (?P<formula>
            (?<!\$)\$\$[^$`]+\$\$(?!\$)
          | (?<![\\$A-Za-z0-9])\$(?:(?!\s)(?:\\[^\n`]|[^$\n\\`])+(?<!\s)\$(?![\d$])
                               |[ ](?!\s)(?:\\[^\n`]|[^$\n\\`])+(?<!\s)[ ]\$(?![ ]?[\d$]))
          | \\\[(?:(?!\\[\[\]]).)+\\\] | \\\((?:(?!\\[()]).)+\\\))
      | (?P<open>
            (?<!\$)\$\$(?!\$)(?=[^$`]*\Z) | (?<![\\$A-Za-z0-9`])\$(?![\s$\d])(?=[^$\n`]+\Z)
          | \\\[(?=(?:(?!\\[\[\]]).)+\Z) | \\\((?=(?:(?!\\[()]).)+\Z))""",
    re.DOTALL | re.VERBOSE,
)
_TAG_START = re.compile(r"(?<!\\)(?P<slashes>\\*+)<(?=[A-Za-z/!?])")
_MARKS = re.compile(f"[{OPENS}{CLOSES}]")


def tags_as_text(text: str) -> str:
    """Markdown in which HTML is text to be read: `#include <stdio.h>` stays, and `<img …>` is no image."""
    # Of two backslashes Markdown makes one, so only behind an odd number of them a tag is none.
    return _at_tags(_MARKS.sub("", text), lambda slashes: slashes + (0 if slashes % 2 else 1), OPENS, CLOSES)


def typed_as_text(text: str) -> str:
    """The same for what people typed: they see their backslashes in front of tags, too, and `typed_from_text` knows
    the one text that it was made of."""
    return _at_tags(_MARKS.sub("", text), lambda slashes: 2 * slashes + 1, OPENS, CLOSES)


def typed_from_text(text: str) -> str:
    """What was typed, from what came back from the page; a tag that was written anew there stays."""
    return _at_tags(_MARKS.sub("", text), lambda slashes: slashes // 2 if slashes % 2 else slashes)


def _at_tags(text: str, how_many: Callable[[int], int], opens: str = "", closes: str = "") -> str:
    """Changes the number of backslashes in front of each tag that is not inside code or a formula; marks formulas."""

    def changed(tag: re.Match[str]) -> str:
        return "\\" * how_many(len(tag["slashes"])) + "<"

    shown, end = [], 0
    for verbatim in _VERBATIM.finditer(text):
        before, after = (opens, closes) if verbatim["formula"] else (opens if verbatim["open"] else "", "")
        shown += [_TAG_START.sub(changed, text[end : verbatim.start()]), before, verbatim[0], after]
        end = verbatim.end()
    return "".join([*shown, _TAG_START.sub(changed, text[end:])])
