"""Searching conversations: a plain part of their title or of a message, in any language, whatever the case.

No index of words: Chinese has no spaces between them, and one caller's messages are few enough to look through.
Both databases compare letters without case; SQLite only those of ASCII.
"""

from __future__ import annotations

import re

import sqlalchemy as sa

from gateway.tables import conversations, items

SNIPPET = 80
_title = conversations.c.metadata["title"].as_string()
_text = items.c.content[(0, "text")].as_string()  # every message is kept as one part


def holds(text: str) -> sa.ColumnElement[bool]:
    """The condition that a conversation's title or one of its messages has `text` in it."""
    in_messages = sa.exists().where(items.c.conversation_id == conversations.c.id, _part(_text, text))
    return _part(_title, text) | in_messages


def match_in(db: sa.Connection, conversation_id: str, title: str, text: str) -> str:
    """About 80 characters around `text`, in the newest message that has it, else in the title."""
    query = sa.select(_text).where(items.c.conversation_id == conversation_id, _part(_text, text))
    found = db.execute(query.order_by(items.c.position.desc()).limit(1)).scalar()
    return snippet(title if found is None else found, text)


def snippet(whole: str, text: str) -> str:
    """`whole` on one line, cut to about 80 characters around the first `text` in it."""
    line = " ".join(whole.split())
    wanted = " ".join(text.split())
    found = re.search(re.escape(wanted), line, re.IGNORECASE)
    at = found.start() if found else 0
    begin = max(0, at - max(0, SNIPPET - len(wanted)) // 2)
    end = min(len(line), max(at + len(wanted), begin + SNIPPET))
    begin = max(0, min(begin, end - SNIPPET))
    return ("…" if begin else "") + line[begin:end].strip() + ("…" if end < len(line) else "")


def _part(column: sa.ColumnElement[str], text: str) -> sa.ColumnElement[bool]:
    return column.icontains(text, autoescape=True)
