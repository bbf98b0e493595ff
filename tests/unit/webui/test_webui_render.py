"""What people read: errors with their wait, the state of the server, and nothing unescaped."""

from __future__ import annotations

import html
import json
import time

import pytest

from webui import render
from webui.errors import GatewayError, GatewayUnreachable
from webui.view import Notice, Shown
from webui.wire import Status

pytestmark = pytest.mark.unit


def test_messages_keep_their_text_exactly_and_marks_stand_apart() -> None:
    text = "  indented\n\n    code\n1 < 2"
    shown = render.messages([Shown("user", text), Shown("assistant", "half", "mark_stopped")], "en")
    assert shown[0] == {"role": "user", "content": [{"type": "text", "text": text}]}
    assert shown[1]["content"][0] == {"type": "text", "text": "half"}
    assert "Stopped" in shown[1]["content"][1]["text"]


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
        ("$a<b$ $$c<d$$ \\(e<f\\) \\[g<h\\] <i>", "$a<b$ $$c<d$$ \\(e<f\\) \\[g<h\\] \\<i>"),
        ("\\<b>", "\\<b>"),
        ("", ""),
    ],
)
def test_html_is_text_to_be_read_but_code_and_formulas_stay(text: str, shown: str) -> None:
    assert render.tags_as_text(text) == shown


def test_long_nonsense_is_rendered_in_no_time() -> None:
    for piece in ("`", "$", "<a", "\\(", "```", "~~~", "`a", "``a", "$a\n", "\\[a ", "`a``b", "$$a", "\\"):
        began = time.perf_counter()
        render.tags_as_text(piece * (100_000 // len(piece)))
        assert time.perf_counter() - began < 3, piece


@pytest.mark.parametrize(
    ("retry_after_s", "wait"), [(12.0, "12 s"), (0.2, "1 s"), (0.0, "1 s"), (None, "5 s"), (2.1, "3 s")]
)
def test_a_limit_names_the_wait(retry_after_s: float | None, wait: str) -> None:
    error = GatewayError("rate_limit_exceeded", "slow down", retry_after_s=retry_after_s)
    assert wait.removesuffix(" s") in render.error_sentence(error, "zh")
    assert wait in render.error_sentence(error, "en")


def test_an_unknown_code_is_shown_with_its_message() -> None:
    sentence = render.error_sentence(GatewayError("brand_new", "Something {odd}."), "en")
    assert "Something {odd}." in sentence
    assert "brand_new" in sentence


def test_a_mark_without_text_stands_alone() -> None:
    (shown,) = render.messages([Shown("assistant", "", "mark_stopped")], "en")
    assert ["Stopped" in part["text"] for part in shown["content"]] == [True]


@pytest.mark.parametrize("code", ["upstream_failed", "connection_lost"])
def test_only_text_that_came_is_said_to_be_kept(code: str) -> None:
    error = GatewayError(code, "boom")
    assert "kept" in render.error_sentence(error, "en", has_kept_text=True)
    assert "保留" in render.error_sentence(error, "zh", has_kept_text=True)
    assert "kept" not in render.error_sentence(error, "en")
    assert "保留" not in render.error_sentence(error, "zh")


def test_a_store_that_fails_is_told_in_the_gateways_words() -> None:
    error = GatewayError("history_unavailable", "The server's disk is full.")
    assert render.error_sentence(error, "en") == "The server's disk is full."
    assert render.error_sentence(error, "zh") == "暂时无法读写对话记录：The server's disk is full."
    assert render.error_sentence(GatewayError("history_unavailable", ""), "en") != ""


def test_both_refusals_of_a_long_message_look_like_errors() -> None:
    ours = render.notice_html(Notice("message_too_long", {"n": 100_001, "limit": 100_000}), None, "en")
    gateways = render.notice_html(None, GatewayError("context_length_exceeded", "long"), "en")
    start = '<div class="notice notice-error" role="alert">'
    assert ours.startswith(start)
    assert gateways.startswith(start)


def test_notices_are_escaped_and_stay_on_one_line() -> None:
    error = GatewayError("x", "<script>\n\n# no</script>")
    made = render.notice_html(Notice("truncated", {"n": 3}), error, "en")
    assert "<script>" not in made
    assert "\n" not in made
    assert 'role="alert"' in made
    assert "oldest 3 messages" in made
    assert render.notice_html(None, None, "en") == ""
    assert "cannot be reached" in render.notice_html(None, GatewayUnreachable("x"), "en")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (
            Status("download", model="m", done=50_000_000, total=100_000_000, unit="bytes"),
            "Downloading m: 50.0 MB / 100.0 MB (50 %)",
        ),
        (
            Status("download", title="Model M", done=2_000, total=3_000_000_000, unit="bytes"),
            "Downloading Model M: 2 kB / 3.0 GB (0 %)",
        ),
        (Status("convert", model="m", done=3, total=4, unit="shards"), "Converting m: 75 %"),
        (Status("load", model="m", since=90.0), "Loading m · 10 s"),
        (Status("load", model="m", since=0.0), "Loading m"),
        (Status("failed", message="out of memory"), "The model could not be started: out of memory"),
        (Status("ready", ready=True, model="m"), "m is ready"),
        (Status("surprise"), "Waiting for the inference server"),
        (Status("connecting"), "Connecting to the server"),
    ],
)
def test_the_status_line_says_what_happens(status: Status, expected: str) -> None:
    assert render.status_sentence(status, "en", now=100_000.0 if status.since == 0 else 100.0) == expected


def test_the_status_line_is_escaped_and_carries_the_note_in_the_language() -> None:
    status = Status("failed", message="<img src=x>", note={"en": "Tiny.", "zh": "很小。"})
    assert "<img" not in render.status_html(status, "en")
    assert "很小。" in render.status_html(status, "zh")
    assert "<progress" in render.status_html(Status("download", done=1, total=2, unit="bytes"), "en")
    assert "<progress" not in render.status_html(Status("ready", ready=True, done=1, total=2), "en")


def test_what_the_list_is_told_is_one_line_and_escaped() -> None:
    told = render.list_state_html('conv_"1<', "zh", token=7)
    assert "\n" not in told
    assert told.startswith('<div data-open="conv_&quot;1&lt;" data-language="zh" data-token="7" data-words="')
    words = json.loads(html.unescape(told.split('data-words="')[1].split('"')[0]))
    assert words["list_untitled"] == "无标题"
    assert all(key.startswith("list_") for key in words)
