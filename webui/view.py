"""What a page shows, as plain values between `chat.py`, which decides it, and `render.py`, which words it."""

from __future__ import annotations

from dataclasses import dataclass, field

from webui.errors import GatewayError


@dataclass(frozen=True)
class Shown:
    """A message on the page; `mark` is a key of texts.py for what is said below it, outside its text."""

    role: str
    text: str
    mark: str = ""
    item_id: str = ""


@dataclass(frozen=True)
class Notice:
    """Something said beside the chat: a key of texts.py with its values."""

    key: str
    values: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """The chat as it is now."""

    messages: tuple[Shown, ...] = ()
    conversation_id: str = ""
    running: bool = False
    notice: Notice | None = None
    error: GatewayError | None = None
    refused_text: str = ""  # was not stored: goes back to where it was typed
    has_kept_text: bool = False  # some of the answer that the error ended is among the messages
