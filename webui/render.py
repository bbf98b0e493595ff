"""Values to what people read: messages, errors, the state of the server. Pure; HTML made here is escaped here."""

from __future__ import annotations

import html
import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from webui.errors import GatewayError
from webui.tags import tags_as_text, typed_as_text
from webui.texts import TEXTS, say
from webui.view import Notice, Shown, View
from webui.wire import Counts, Status

_NO_WAIT_GIVEN_S = 5
_LOADING = {"load", "restarting"}  # what an engine whose log nobody reads does unseen
_DISK_BYTES_S = 500_000_000  # what the inference side says on its own terminal, too
_WAITS = {"rate_limit_exceeded", "overloaded"}  # sending again sooner is in vain; of the others nobody knows
_ALERTS = {"message_too_long"}  # notices that look like errors: the gateway's own refusal of a long message is one
_THOUGHT = re.compile(r"\s*<think>\n?(?P<thought>.*?)(?P<end></think>\s*|\Z)", re.DOTALL)
_THUMBS = {"up": "Like", "down": "Dislike"}
Bubble = dict[str, Any]


def messages(shown: Iterable[Shown], language: str) -> list[Bubble]:
    """Messages in the form of Gradio's Chatbot. A mark is a part of its own, so that copying leaves it out; what the
    model thought first, and what an answer took, fold away."""
    return [bubble for message in shown for bubble in _bubbles(message, language)]


def ratings(shown: Iterable[Shown], language: str) -> list[str | None]:
    """What was thought of each answer, in the form of the Chatbot: one entry for each part of each bubble."""
    given: list[str | None] = []
    for message in shown:
        for bubble in _bubbles(message, language) if message.role == "assistant" else ():
            given += [None] * len(bubble["content"])
            if "metadata" not in bubble:
                given[-len(bubble["content"])] = _THUMBS.get(message.rating)
    return given


def message_at(shown: Sequence[Shown], index: int, language: str) -> Shown | None:
    """The message that the Chatbot's bubble number `index` belongs to."""
    for message in shown:
        index -= len(_bubbles(message, language))
        if index < 0:
            return message
    return None


def list_state_html(selected: str, language: str, *, token: int) -> str:
    """For the sidebar's script: the open conversation, a number that changes with the list, and its words."""
    words = {key: text for key, text in TEXTS[language].items() if key.startswith("list_")}
    told = {"open": selected, "language": language, "token": str(token), "words": json.dumps(words, ensure_ascii=False)}
    return "<div " + " ".join(f'data-{name}="{_escape(value)}"' for name, value in told.items()) + "></div>"


def error_sentence(error: GatewayError, language: str, *, has_kept_text: bool = False) -> str:
    """An error as a sentence; waits are whole seconds, rounded up. Only where text came may it say that it is kept."""
    wait = math.ceil(error.retry_after_s if error.retry_after_s is not None else _NO_WAIT_GIVEN_S)
    keys = [error.code if has_kept_text else f"{error.code}_no_text", error.code, "other_error"]
    key = next(key for key in keys if key in TEXTS[language])
    return say(language, key, wait=max(1, wait), code=error.code, message=error.message or error.code)


def counts_sentences(counts: Counts, language: str) -> tuple[str, str]:
    """What an answer took, in short and in full."""
    answer_tokens, said = counts.answer_tokens or 0, [say(language, "counts_unknown")]
    short = say(language, "counts_short_time", s=(counts.first_token_s or 0) + (counts.answer_s or 0))
    if counts.total_tokens is not None:
        short = say(language, "counts_short", n=answer_tokens)
        said = [
            say(language, "counts_prompt", n=counts.prompt_tokens),
            say(language, "counts_answer", n=answer_tokens),
        ]
    if counts.queued_s:
        said.append(say(language, "counts_queued", s=counts.queued_s))
    if counts.first_token_s is not None:
        said.append(say(language, "counts_first", s=counts.first_token_s))
    if counts.answer_s is not None:
        said.append(say(language, "counts_seconds", s=counts.answer_s))
        if counts.answer_s > 0 and answer_tokens > 1:
            said.append(say(language, "counts_speed", n=(answer_tokens - 1) / counts.answer_s))
    return short, " · ".join(said)


def meter_html(view: View, context_tokens: int, most_chars: int, language: str, *, is_carried: bool) -> str:
    """What has been used of the model's context, and room for the characters that are being typed.

    The page's script finds here which conversation is open, and whether what is typed moves along to it.
    """
    counted = (m.counts.total_tokens for m in reversed(view.messages) if m.counts is not None)
    last = next((tokens for tokens in counted if tokens is not None), None)
    used = ""
    if last is not None and context_tokens:
        percent = min(100, round(100 * last / context_tokens))
        used = say(language, "context_used", n=last, limit=context_tokens, percent=percent)
    chars = say(language, "chars_typed", n="#", limit=f"{most_chars:,}")
    carried = ' data-carried="true"' if is_carried else ""
    return (
        f'<div class="meter" data-conversation="{_escape(view.conversation_id)}" data-chars="{_escape(chars)}"'
        f' data-most-chars="{most_chars}"{carried}><span class="meter-context">{_escape(used)}</span>'
        '<span class="meter-chars"></span></div>'
    )


def notice_html(
    notice: Notice | None, error: GatewayError | None, language: str, *, has_kept_text: bool = False
) -> str:
    """What stands beside the chat: an error, a remark, or nothing."""
    lines = []
    if error is not None:
        sentence = error_sentence(error, language, has_kept_text=has_kept_text)
        lines.append(_waiting(error, sentence, language) if error.code in _WAITS else _alert(sentence))
    if notice is not None:
        sentence = say(language, notice.key, **notice.values)
        is_alert = notice.key in _ALERTS
        lines.append(_alert(sentence) if is_alert else f'<div class="notice" role="status">{_escape(sentence)}</div>')
    return "".join(lines)


def status_html(status: Status, language: str, *, now: float | None = None) -> str:
    """The status line: a dot, a sentence, a bar where the end is known, and the model's note."""
    stage = _stage(status)
    kind = {"ready": "ready", "busy": "ready", "failed": "failed"}.get(stage, "busy")
    sentence = _escape(status_sentence(status, language, now=time.time() if now is None else now))
    bar = f'<progress max="{status.total}" value="{status.done}"></progress>' if _has_progress(status) else ""
    notes = [say(language, "failed_help")] if stage == "failed" else []
    notes += [note] if (note := status.note.get(language) or status.note.get("en", "")) else []
    note_line = "".join(f'<div class="status-note">{_escape(note)}</div>' for note in notes)
    # Shown by the styles where `page.js` has found out that this browser keeps nothing.
    note_line += f'<div class="status-note forgets">{_escape(say(language, "forgets"))}</div>'
    return (
        f'<div class="status status-{kind}" role="status" data-stage="{_escape(stage)}">'
        f'<span class="status-dot"></span><span class="status-text">{sentence}</span>{bar}</div>{note_line}'
    )


def status_sentence(status: Status, language: str, *, now: float) -> str:
    """What the server is doing, how far it is or how long it has been at it."""
    stage = _stage(status)
    key = f"stage_{stage}" if f"stage_{stage}" in TEXTS[language] else "stage_unknown"
    model = status.title or status.model or say(language, "the_model")
    sentence = say(language, key, model=model, n=status.waiting)
    if _has_progress(status):
        return f"{sentence}: {_amount(status)}"
    if stage == "failed" and status.message:
        return f"{sentence}: {status.message}"
    if status.ready or stage == "failed" or not 2 <= now - status.since < 86_400:
        return sentence
    return " · ".join([sentence, _elapsed(int(now - status.since), language), *_expected(status, language)])


def _stage(status: Status) -> str:
    """The stage, and of a server that is ready whether people wait."""
    if not status.ready or not status.waiting:
        return status.stage
    return "overloaded" if status.waiting >= status.max_waiting else "busy"


def _elapsed(seconds: int, language: str) -> str:
    minutes, rest = divmod(seconds, 60)
    return say(language, "elapsed_minutes", m=minutes, s=rest) if minutes else say(language, "elapsed", s=rest)


def _expected(status: Status, language: str) -> list[str]:
    """How long loading takes, where only its size is known: arithmetic, and told as such."""
    if status.stage not in _LOADING or status.unit != "bytes" or status.total <= 0:
        return []
    seconds = max(1, round(status.total / _DISK_BYTES_S))
    return [say(language, "expected", size=_size(status.total), s=seconds, speed=f"{_DISK_BYTES_S // 10**6} MB")]


def _has_progress(status: Status) -> bool:
    is_seen = status.stage not in _LOADING or status.done > 0
    return not status.ready and status.stage != "failed" and status.total > 0 and is_seen


def _amount(status: Status) -> str:
    percent = f"{min(100, 100 * status.done // status.total)} %"
    if status.unit != "bytes":
        return percent
    return f"{_size(status.done)} / {_size(status.total)} ({percent})"


def _size(size_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes / 1000:.0f} kB"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _bubbles(shown: Shown, language: str) -> list[Bubble]:
    thought, text = _thought(shown)
    bubbles = []
    if thought is not None:
        status = "done" if text or not shown.is_running else "pending"
        bubbles.append(_folded(say(language, "reasoning"), tags_as_text(thought), status))
    if text.strip() or shown.mark or shown.is_running or thought is None:
        bubbles.append({"role": shown.role, "content": _parts(replace(shown, text=text), language)})
    if shown.counts is not None and text.strip() and not shown.is_running:
        bubbles.append(_folded(*counts_sentences(shown.counts, language), "done"))
    return bubbles


def _thought(shown: Shown) -> tuple[str | None, str]:
    """What a model wrote between <think> and </think> before its answer, and the answer."""
    found = _THOUGHT.match(shown.text) if shown.role == "assistant" else None
    if found is None:
        return None, shown.text
    return found["thought"].strip(), shown.text[found.end() :]


def _folded(title: str, text: str, status: str) -> Bubble:
    return {"role": "assistant", "content": [_text(text)], "metadata": {"title": title, "status": status}}


def _parts(shown: Shown, language: str) -> list[dict[str, Any]]:
    """Its text and its mark; of an answer without a word the mark alone, not an empty bubble."""
    text = _text(typed_as_text(shown.text) if shown.role == "user" else tags_as_text(shown.text))
    if not shown.mark:
        return [text]
    mark = _text(f'<span class="mark">{_escape(say(language, shown.mark, place=shown.place))}</span>')
    return [text, mark] if shown.text.strip() else [mark]


def _waiting(error: GatewayError, sentence: str, language: str) -> str:
    """An error with its wait counted down by the page's script, which then says that sending works again."""
    if error.retry_after_s is None:
        return _alert(sentence)
    left = _escape(say(language, "wait_left", wait="#"))
    over = _escape(say(language, "wait_over"))
    return (
        f'<div class="notice notice-error" role="alert" data-wait="{max(1, math.ceil(error.retry_after_s))}"'
        f' data-left="{left}" data-over="{over}">{_escape(sentence)}'
        '<span class="wait" aria-hidden="true"></span></div>'
    )


def _alert(sentence: str) -> str:
    return f'<div class="notice notice-error" role="alert">{_escape(sentence)}</div>'


def _escape(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=True)  # on one line, so that it stays one block of HTML
