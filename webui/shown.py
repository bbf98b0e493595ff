"""Stored items and ended turns to the messages that a page shows. Pure."""

from __future__ import annotations

from webui import wire
from webui.turn import Turn
from webui.view import Notice, Shown, View

_CUT = {"incomplete", "cancelled"}


def shown_items(items: tuple[wire.Item, ...]) -> tuple[Shown, ...]:
    """The messages among stored items."""
    return tuple(_shown(item) for item in items if item.role in {"user", "assistant"})


def cut_answer(view: View) -> Shown | None:
    """The last message, when it is an answer that can go on."""
    last = view.messages[-1] if view.messages else None
    return last if last is not None and last.can_go_on else None


def mark_of(answered: wire.Answered) -> str:
    """How an answer ended, where that is not simply its end: a key of texts.py."""
    if answered.status == "completed":
        return ""
    if answered.status == "cancelled":
        return "mark_stopped"
    if answered.status == "failed":
        return "mark_failed"
    return "mark_length" if answered.reason == "max_output_tokens" else "mark_incomplete"


def outcome(turn: Turn, start: View) -> View:
    """The closing view of a turn of which something was stored."""
    finished = turn.finished
    left_out = finished.truncated_items if finished else 0
    answered = finished.answered if finished else None
    if answered is not None:
        mark = mark_of(answered)
    else:
        mark = "mark_failed" if turn.error else "mark_stopped"
    answer = Shown(
        "assistant",
        turn.text,
        mark,
        response_id=turn.response_id,
        counts=answered.counts if answered else None,
        can_go_on=bool(turn.text) and answered is not None and answered.status in _CUT,
        is_running=not turn.is_over,
    )
    asked = () if turn.question is None else (turn.question,)
    return View(
        messages=(*start.messages, *asked, answer),
        conversation_id=turn.conversation_id,
        notice=Notice("truncated", {"n": left_out}) if left_out else None,
        error=turn.error,
        has_kept_text=bool(turn.text),
        has_older=start.has_older,
        reach=start.reach,
        earlier_id=start.earlier_id,
    )


def _shown(item: wire.Item) -> Shown:
    if item.role == "user":
        return Shown("user", item.text, item_id=item.id, response_id=item.response_id)
    answered = item.answered or wire.Answered(status=item.status)
    is_running = item.status == "in_progress"
    return Shown(
        item.role,
        item.text,
        "mark_in_progress" if is_running else mark_of(answered),
        item.id,
        item.response_id,
        counts=answered.counts,
        rating=answered.rating,
        can_go_on=bool(item.text) and bool(item.response_id) and answered.status in _CUT and not is_running,
        is_running=is_running,
    )
