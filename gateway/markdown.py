"""A conversation as a Markdown document that people read. What was said stands in fences, so nothing in it acts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from gateway.records import Conversation, Item

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|&~!])")
_NAMES = {"user": "User", "assistant": "Assistant", "system": "System", "developer": "Developer"}


def document(conversation: Conversation, items: Iterable[Item]) -> str:
    """Title, dates, other metadata, then each message under its role and time (UTC)."""
    others = {name: value for name, value in conversation.metadata.items() if name != "title"}
    lines = [
        f"# {plain(conversation.metadata.get('title') or 'Conversation')}",
        "",
        f"- Begun: {_time(conversation.created_at)}",
        f"- Last activity: {_time(conversation.updated_at)}",
        f"- Id: `{conversation.id}`",
        *(f"- {plain(name)}: {plain(value)}" for name, value in sorted(others.items())),
    ]
    for item in items:
        lines += ["", f"## {_heading(item)}", "", fenced(_content(item))]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """`text` on one line, with what Markdown and HTML would take for markup escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str) -> str:
    """`text` between fences that are longer than any inside it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _heading(item: Item) -> str:
    data = item.data or {}
    if item.kind == "function_call":
        who = f"Call of {plain(str(data.get('name', 'a function')))}"
    elif item.kind == "function_call_output":
        who = "Output of the call"
    else:
        who = _NAMES.get(item.role, plain(item.role))
    cut = ", cut" if item.status == "incomplete" else ""
    return f"{who} ({_time(item.created_at)}{cut})"


def _content(item: Item) -> str:
    data = item.data or {}
    if item.kind == "function_call":
        return str(data.get("arguments", ""))
    if item.kind == "function_call_output":
        output = data.get("output", "")
        return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return item.text


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
