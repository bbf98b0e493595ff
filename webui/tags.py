"""HTML in messages is text to be read: backslashes in front of tags, there and back. Pure.

Gradio shows messages as Markdown, and hands back what it was given when somebody edits one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Code and formulas, open ones while they are being written too; what they hold is never HTML. None of them may look
# further than to the next mark of its own kind, so that the time stays in proportion to the length.
_VERBATIM = re.compile(
    r"""```.*?(?:```|\Z) | ~~~.*?(?:~~~|\Z) | (?P<ticks>`+)(?!`).{1,2000}?(?<!`)(?P=ticks)(?!`)
      | \$\$[^$]+\$\$ | \$[^$\n]+\$ | \\\[(?:(?!\\[\[\]]).)+\\\] | \\\((?:(?!\\[()]).)+\\\)""",
    re.DOTALL | re.VERBOSE,
)
_TAG_START = re.compile(r"(?<!\\)(?P<slashes>\\*+)<(?=[A-Za-z/!?])")


def tags_as_text(text: str) -> str:
    """Markdown in which HTML is text to be read: `#include <stdio.h>` stays, and `<img …>` is no image."""
    # Of two backslashes Markdown makes one, so only behind an odd number of them a tag is none.
    return _at_tags(text, lambda slashes: slashes + (0 if slashes % 2 else 1))


def typed_as_text(text: str) -> str:
    """The same for what people typed: they see their backslashes in front of tags, too, and `typed_from_text` knows
    the one text that it was made of."""
    return _at_tags(text, lambda slashes: 2 * slashes + 1)


def typed_from_text(text: str) -> str:
    """What was typed, from what came back from the page; a tag that was written anew there stays."""
    return _at_tags(text, lambda slashes: slashes // 2 if slashes % 2 else slashes)


def _at_tags(text: str, how_many: Callable[[int], int]) -> str:
    """Changes the number of backslashes in front of each tag that is not inside code or a formula."""

    def changed(tag: re.Match[str]) -> str:
        return "\\" * how_many(len(tag["slashes"])) + "<"

    shown, end = [], 0
    for verbatim in _VERBATIM.finditer(text):
        shown += [_TAG_START.sub(changed, text[end : verbatim.start()]), verbatim[0]]
        end = verbatim.end()
    return "".join([*shown, _TAG_START.sub(changed, text[end:])])
