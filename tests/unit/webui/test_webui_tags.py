"""HTML in messages is text, and what people typed comes back as it was when they edit it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies

from webui.tags import CLOSES, OPENS, tags_as_text, typed_as_text, typed_from_text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("#include <stdio.h>", "#include \\<stdio.h>"),
        ("a < b, 1<2, <3", "a < b, 1<2, <3"),
        ("<|im_start|>", "<|im_start|>"),
        ("</b><!-- --><?php", "\\</b>\\<!-- -->\\<?php"),
        ("`<b>` <b> ``<i>`<u>``", "`<b>` \\<b> ``<i>`<u>``"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n\\<b>"),
        ("```html\n<b>", "```html\n<b>"),
        ("$a<b$ $$c<d$$ \\(e<f\\) \\[g<h\\] <i>", "«$a<b$» «$$c<d$$» «\\(e<f\\)» «\\[g<h\\]» \\<i>"),
        ("\\<b>", "\\<b>"),
        ("\\\\<b>", "\\\\\\<b>"),  # two backslashes are one to be seen, and a tag
        ("", ""),
    ],
)
def test_html_is_text_to_be_read_but_code_and_formulas_stay(text: str, shown: str) -> None:
    assert visible(tags_as_text(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and then $10, US$5 or 5$/kg and 6$/kg",
        "- Apple: $1\n- **Pear**: $2\n\nThat is $3.",
        "costs $ 5 and $ 10",
        "```bash\n$ ls\n```\nthen\n```bash\n$ cd\n```",
        "Set `$HOME`, `$PATH`; open with `\\(`, close with `\\)`",
        "$ and $$ - $$$",
    ],
)
def test_money_and_shells_are_no_formulas(text: str) -> None:
    assert tags_as_text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the $n$th of $ x+1 $, 设$z$为 $2$", "the «$n$»th of «$ x+1 $», 设«$z$»为 «$2$»"),
        ("for $5 one gets $x$ and $y$", "for $5 one gets «$x$» and «$y$»"),
        ("$$\na\n\nb\n$$ \\[\nc\n\\]", "«$$\na\n\nb\n$$» «\\[\nc\n\\]»"),
        ("an open $x + <b", "an open «$x + \\<b"),  # so that what comes is only added to what was sent
        ("an open \\[x", "an open «\\[x"),
        ("of $HOME\nno more", "of $HOME\nno more"),
        (f"{OPENS}$a{CLOSES}$<b>", "«$a$»\\<b>"),
    ],
)
def test_formulas_are_marked(text: str, shown: str) -> None:
    assert visible(tags_as_text(text)) == shown


def visible(text: str) -> str:
    """With the marks of formulas to be seen."""
    return text.replace(OPENS, "«").replace(CLOSES, "»")


def test_long_nonsense_is_rendered_in_no_time() -> None:
    for piece in (
        "`",
        "$",
        "<a",
        "\\(",
        "```",
        "~~~",
        "`a",
        "``a",
        "$a\n",
        "\\[a ",
        "`a``b",
        "$$a",
        "\\",
        "$ a",
        "$a $",
    ):
        began = time.perf_counter()
        tags_as_text(piece * (100_000 // len(piece)))
        assert time.perf_counter() - began < 3, piece


@pytest.mark.parametrize(
    "text",
    ["#include <stdio.h>", "a < b", "`<b>` <b>", "$a<b$ <i>", "plain", r"\<b>", r"`\<b>` \\<b>", r"\<", "```\n\\<b>"],
)
def test_a_text_comes_back_from_the_page_as_it_was(text: str) -> None:
    assert typed_from_text(typed_as_text(text)) == text


# What decides where code, formulas and tags begin, and a little of everything else.
_PIECES = ["\\", "<", "b", "/", "`", "``", "```", "~~~", "$", "$$", "\\(", "\\)", "\\[", "\\]", "\n", " ", ">", "中"]


@settings(max_examples=500, deadline=None)
@given(strategies.lists(strategies.sampled_from(_PIECES), max_size=24).map("".join) | strategies.text(max_size=40))
def test_any_text_comes_back_from_the_page_as_it_was(text: str) -> None:
    shown = typed_as_text(text)
    assert typed_from_text(shown) == text.replace(OPENS, "").replace(CLOSES, "")
    assert typed_as_text(typed_from_text(shown)) == shown


def test_what_is_typed_anew_where_a_message_is_edited_stays() -> None:
    assert typed_from_text("<i> and \\<b>") == "<i> and <b>"
