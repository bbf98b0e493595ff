"""Values to what people read: messages, errors, the state of the server. Pure; HTML made here is escaped here."""

from __future__ import annotations

import html
import json
import math
import re
import time
from collections.abc import Iterable
from typing import Any

from webui.errors import GatewayError
from webui.texts import TEXTS, say
from webui.view import Notice, Shown
from webui.wire import Status

_NO_WAIT_GIVEN_S = 5
_ALERTS = {"message_too_long"}  # notices that look like errors: the gateway's own refusal of a long message is one
# Code and formulas, open ones while they are being written too; what they hold is never HTML. None of them may look
# further than to the next mark of its own kind, so that the time stays in proportion to the length.
_VERBATIM = re.compile(
    r"""```.*?(?:```|\Z) | ~~~.*?(?:~~~|\Z) | (?P<ticks>`+)(?!`).{1,2000}?(?<!`)(?P=ticks)(?!`)
      | \$\$[^$]+\$\$ | \$[^$\n]+\$ | \\\[(?:(?!\\[\[\]]).)+\\\] | \\\((?:(?!\\[()]).)+\\\)""",
    re.DOTALL | re.VERBOSE,
)
_TAG_START = re.compile(r"(?<!\\)<(?=[A-Za-z/!?])")


def messages(shown: Iterable[Shown], language: str) -> list[dict[str, Any]]:
    """Messages in the form of Gradio's Chatbot; a mark is a part of its own, so that copying leaves it out."""
    return [{"role": m.role, "content": _parts(m, language)} for m in shown]


def tags_as_text(text: str) -> str:
    """Markdown in which HTML is text to be read: `#include <stdio.h>` stays, and `<img …>` is no image."""
    shown, end = [], 0
    for verbatim in _VERBATIM.finditer(text):
        shown += [_TAG_START.sub(r"\<", text[end : verbatim.start()]), verbatim[0]]
        end = verbatim.end()
    return "".join([*shown, _TAG_START.sub(r"\<", text[end:])])


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


def notice_html(
    notice: Notice | None, error: GatewayError | None, language: str, *, has_kept_text: bool = False
) -> str:
    """What stands beside the chat: an error, a remark, or nothing."""
    lines = []
    if error is not None:
        lines.append(_alert(error_sentence(error, language, has_kept_text=has_kept_text)))
    if notice is not None:
        sentence = say(language, notice.key, **notice.values)
        is_alert = notice.key in _ALERTS
        lines.append(_alert(sentence) if is_alert else f'<div class="notice" role="status">{_escape(sentence)}</div>')
    return "".join(lines)


def status_html(status: Status, language: str, *, now: float | None = None) -> str:
    """The status line: a dot, a sentence, a bar where the end is known, and the model's note."""
    kind = {"ready": "ready", "failed": "failed"}.get(status.stage, "busy")
    sentence = _escape(status_sentence(status, language, now=time.time() if now is None else now))
    bar = f'<progress max="{status.total}" value="{status.done}"></progress>' if _has_progress(status) else ""
    note = status.note.get(language) or status.note.get("en", "")
    note_line = f'<div class="status-note">{_escape(note)}</div>' if note else ""
    return (
        f'<div class="status status-{kind}" role="status" data-stage="{_escape(status.stage)}">'
        f'<span class="status-dot"></span><span class="status-text">{sentence}</span>{bar}</div>{note_line}'
    )


def status_sentence(status: Status, language: str, *, now: float) -> str:
    """What the server is doing, how far it is or how long it has been at it."""
    key = f"stage_{status.stage}" if f"stage_{status.stage}" in TEXTS[language] else "stage_unknown"
    sentence = say(language, key, model=status.title or status.model or say(language, "the_model"))
    if _has_progress(status):
        return f"{sentence}: {_amount(status)}"
    if status.stage == "failed" and status.message:
        return f"{sentence}: {status.message}"
    if status.stage in {"load", "warmup", "start", "restarting"} and 2 <= now - status.since < 86_400:
        return f"{sentence} · {int(now - status.since)} s"
    return sentence


def _has_progress(status: Status) -> bool:
    return not status.ready and status.stage != "failed" and status.total > 0


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


def _parts(shown: Shown, language: str) -> list[dict[str, Any]]:
    """Its text and its mark; of an answer without a word the mark alone, not an empty bubble."""
    text = _text(tags_as_text(shown.text))
    if not shown.mark:
        return [text]
    mark = _text(f'<span class="mark">{_escape(say(language, shown.mark))}</span>')
    return [text, mark] if shown.text.strip() else [mark]


def _alert(sentence: str) -> str:
    return f'<div class="notice notice-error" role="alert">{_escape(sentence)}</div>'


def _escape(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=True)  # on one line, so that it stays one block of HTML
