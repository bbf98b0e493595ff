"""What people read: errors with their wait, the state of the server, and nothing unescaped."""

from __future__ import annotations

import html
import json

import pytest

from webui import render
from webui.errors import GatewayError, GatewayUnreachable
from webui.view import Notice, Shown, View
from webui.wire import Counts, Status

pytestmark = pytest.mark.unit


def test_messages_keep_their_text_exactly_and_marks_stand_apart() -> None:
    text = "  indented\n\n    code\n1 < 2"
    shown = render.messages([Shown("user", text), Shown("assistant", "half", "mark_stopped")], "en")
    assert shown[0] == {"role": "user", "content": [{"type": "text", "text": text}]}
    assert shown[1]["content"][0] == {"type": "text", "text": "half"}
    assert "Stopped" in shown[1]["content"][1]["text"]


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
        (Status("load", model="m", since=90.0), "Loading m · for 10 s"),
        (Status("load", model="m", since=0.0), "Loading m"),
        (Status("failed", message="out of memory"), "The model could not be started: out of memory"),
        (Status("ready", ready=True, model="m"), "m is ready"),
        (Status("ready", ready=True, model="m", waiting=3, max_waiting=64), "m is ready · people waiting: 3"),
        (
            Status("ready", ready=True, model="m", waiting=64, max_waiting=64),
            "Overloaded: all places are taken, 64 people are waiting. New messages are refused for now.",
        ),
        (Status("load", model="m", since=1.0), "Loading m · for 1 min 39 s"),
        (Status("download", model="m", since=90.0), "Downloading m · for 10 s"),
        (
            Status("load", model="m", total=15_500_000_000, unit="bytes", since=90.0),
            "Loading m · for 10 s · 15.5 GB: about 31 s from a disk of 500 MB/s",
        ),
        (
            Status("load", model="m", done=5_000_000, total=10_000_000, unit="bytes", since=90.0),
            "Loading m: 5.0 MB / 10.0 MB (50 %)",
        ),
        (
            Status("restarting", total=1_000_000_000, unit="bytes", since=95.0),
            "The inference server is being restarted · for 5 s · 1.0 GB: about 2 s from a disk of 500 MB/s",
        ),
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


def test_what_the_model_thought_folds_away_and_the_answer_stands_alone() -> None:
    shown = render.messages([Shown("assistant", "<think>\nhm, <b>\n</think>\n\nYes.")], "en")
    assert [bubble["content"][0]["text"] for bubble in shown] == ["hm, \\<b>", "Yes."]
    assert shown[0]["metadata"] == {"title": "Reasoning", "status": "done"}
    assert "metadata" not in shown[1]


def test_a_thought_under_way_is_shown_as_one() -> None:
    (thought, answer) = render.messages([Shown("assistant", "<think>first", is_running=True)], "zh")
    assert thought["metadata"] == {"title": "思考过程", "status": "pending"}
    assert thought["content"][0]["text"] == "first"
    assert answer["content"][0]["text"] == ""


def test_tags_of_a_thought_elsewhere_are_text() -> None:
    (shown,) = render.messages([Shown("assistant", "Write <think> first.")], "en")
    assert shown["content"][0]["text"] == "Write \\<think> first."
    (asked,) = render.messages([Shown("user", "<think>x</think>y")], "en")
    assert "think" in asked["content"][0]["text"]


def test_what_an_answer_took_is_told_in_short_and_in_full() -> None:
    counts = Counts(1234, 87, queued_s=0.0, first_token_s=0.12, answer_s=2.0)
    short, full = render.counts_sentences(counts, "en")
    assert short == "87 tokens"
    assert full == "prompt 1,234 tokens · answer 87 tokens · first token after 0.12 s · then 2.0 s · 43.0 tokens/s"
    assert render.counts_sentences(Counts(3, 1), "zh") == ("1 个 token", "提示 3 个 token · 回答 1 个 token")
    bubbles = render.messages([Shown("assistant", "Hi", counts=counts)], "en")
    assert bubbles[1]["metadata"]["title"] == "87 tokens"
    running = render.messages([Shown("assistant", "Hi", counts=counts, is_running=True)], "en")
    assert len(running) == 1


def test_of_a_stopped_answer_the_times_are_told() -> None:
    stopped = Counts(queued_s=0.0, first_token_s=0.5, answer_s=2.0)
    short, full = render.counts_sentences(stopped, "en")
    assert short == "2.5 s"
    assert full == "tokens not counted, as it did not end by itself · first token after 0.50 s · then 2.0 s"
    view = View((Shown("assistant", "a", counts=Counts(1000, 24)), Shown("assistant", "b", counts=stopped)), "conv_1")
    assert "1,024 of 4,096" in render.meter_html(view, 4096, 100_000, "en", is_carried=False)


def test_one_token_is_one_token() -> None:
    assert render.counts_sentences(Counts(1, 1), "en") == ("1 token", "prompt 1 token · answer 1 token")


def test_ratings_stand_at_the_answers_own_parts() -> None:
    counts = Counts(1, 2)
    shown = [
        Shown("user", "q"),
        Shown("assistant", "<think>t</think>a", rating="up", counts=counts),
        Shown("user", "q"),
        Shown("assistant", "a", "mark_length", rating="down"),
        Shown("assistant", "a"),
    ]
    assert render.ratings(shown, "en") == [None, "Like", None, "Dislike", None, None]


def test_a_bubble_is_found_again_as_its_message() -> None:
    shown = [Shown("user", "q"), Shown("assistant", "<think>t</think>a", counts=Counts(1, 2)), Shown("user", "r")]
    found = [render.message_at(shown, index, "en") for index in range(6)]
    assert found == [shown[0], shown[1], shown[1], shown[1], shown[2], None]


def test_people_see_the_backslash_that_they_typed_and_markdown_keeps_its_own() -> None:
    asked, answered = render.messages([Shown("user", r"\<b>"), Shown("assistant", r"\<b>")], "en")
    assert asked["content"][0]["text"] == r"\\\<b>"
    assert answered["content"][0]["text"] == r"\<b>"


def test_a_wait_is_counted_down_by_the_page_where_sending_sooner_is_in_vain() -> None:
    limited = GatewayError("rate_limit_exceeded", "slow down", retry_after_s=6.2)
    made = render.notice_html(None, limited, "zh")
    assert 'data-wait="7"' in made
    assert "现在可以再次发送了" in made
    for other in (GatewayError("upstream_not_ready", "", retry_after_s=2), GatewayError("rate_limit_exceeded", "")):
        assert "data-wait" not in render.notice_html(None, other, "en")


def test_the_meter_tells_what_is_used_and_which_conversation_is_open() -> None:
    view = View((Shown("assistant", "a", counts=Counts(1000, 24)),), 'conv_"1')
    made = render.meter_html(view, 4096, 100_000, "en", is_carried=True)
    assert "1,024 of 4,096 tokens of context (25 %)" in made
    assert 'data-conversation="conv_&quot;1"' in made
    assert 'data-carried="true"' in made
    empty = render.meter_html(View(), 0, 100_000, "en", is_carried=False)
    assert 'data-conversation=""' in empty
    assert "carried" not in empty
