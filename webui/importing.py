"""A file that a person chose, to a conversation that can be stored: pure, and every bad file gets one sentence.

Two forms are taken: our own export (`GET /v1/conversations/{id}/export?format=json`), and messages as OpenAI's chat
completions have them, a list or an object with `messages`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webui.chat import title_of

Item = Mapping[str, Any]
LARGEST_FILE_BYTES = 4 * 1024 * 1024
MOST_MESSAGES = 500  # a prompt has no more, and 30 requests a minute (the gateway's default) store them
_ROLES = ("user", "assistant", "system", "developer")
_CALL_FIELDS = {
    "function_call": ("type", "call_id", "name", "arguments"),
    "function_call_output": ("type", "call_id", "output"),
}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class ImportRefused(Exception):
    """The file is nothing that can be imported; `key` and `values` are a sentence of texts.py."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key = key
        self.values = values


@dataclass(frozen=True)
class Imported:
    """A conversation to be stored: its title and its items in order."""

    title: str
    items: tuple[Item, ...]


def parse_import(content: bytes, file_name: str = "") -> Imported:
    """Raises ImportRefused."""
    if len(content) > LARGEST_FILE_BYTES:
        raise ImportRefused("import_too_large", limit=LARGEST_FILE_BYTES // 1024 // 1024)
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ImportRefused("import_not_json") from error
    entries = _entries(parsed)
    if not entries:
        raise ImportRefused("import_empty")
    if len(entries) > MOST_MESSAGES:
        raise ImportRefused("import_too_many", n=len(entries), limit=MOST_MESSAGES)
    items = tuple(item for number, entry in enumerate(entries, start=1) if (item := _item(entry, number)))
    if not items:
        raise ImportRefused("import_empty")
    _require_calls_before_outputs(items)
    return Imported(_title(parsed, items, file_name), items)


def _entries(parsed: Any) -> list[Any]:
    if isinstance(parsed, dict):
        parsed = parsed.get("items", parsed.get("messages"))
    if not isinstance(parsed, list):
        raise ImportRefused("import_unknown_form")
    return parsed


def _item(entry: Any, number: int) -> Item | None:
    """What the gateway takes for an entry; None for a question or an instruction without a word."""
    kind = entry.get("type", "message") if isinstance(entry, dict) else None
    if isinstance(kind, str) and kind in _CALL_FIELDS:
        return _call(entry, _CALL_FIELDS[kind], number)
    if kind != "message" or entry.get("role") not in _ROLES or entry.get("tool_calls"):
        raise ImportRefused("import_bad_message", n=number)
    text = _text(entry.get("content"), number)
    if not text.strip() and entry["role"] != "assistant":
        return None
    status = {"status": "incomplete"} if entry.get("status") == "incomplete" else {}
    return {"type": "message", "role": entry["role"], "content": text, **status}


def _call(entry: Item, names: tuple[str, ...], number: int) -> Item:
    fields = {name: entry.get(name) for name in names}
    if not all(isinstance(value, str) and value for value in fields.values()):
        raise ImportRefused("import_bad_message", n=number)
    return {name: _CONTROL.sub("", str(value)) for name, value in fields.items()}


def _text(content: Any, number: int) -> str:
    """The text of a message; parts that are no text are refused."""
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise ImportRefused("import_bad_message", n=number)
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ImportRefused("import_bad_message", n=number)
    return _CONTROL.sub("", "".join(str(text) for text in texts).replace("\r\n", "\n"))


def _require_calls_before_outputs(items: tuple[Item, ...]) -> None:
    called: set[str] = set()
    for number, item in enumerate(items, start=1):
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            raise ImportRefused("import_bad_message", n=number)


def _title(parsed: Any, items: tuple[Item, ...], file_name: str) -> str:
    conversation = parsed.get("conversation") if isinstance(parsed, dict) else None
    metadata = conversation.get("metadata") if isinstance(conversation, dict) else None
    kept = metadata.get("title") if isinstance(metadata, dict) else None
    first = next((item["content"] for item in items if item.get("role") == "user"), "")
    name = file_name.rpartition("/")[2].removesuffix(".json")
    return title_of(kept if isinstance(kept, str) else "") or title_of(first) or title_of(name)
