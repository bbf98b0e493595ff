"""What a page shows, as plain values between `chat.py`, which decides it, and `render.py`, which words it."""

from __future__ import annotations

from dataclasses import dataclass, field

from webui.errors import GatewayError
from webui.wire import Counts


@dataclass(frozen=True)
class Shown:
    """A message on the page.

    Attributes:
        mark: a key of texts.py for what is said below it, outside its text.
        place: in the queue, for the mark that tells it.
        can_go_on: it is an answer that was cut and has text.
        is_running: more of it is to come.
    """

    role: str
    text: str
    mark: str = ""
    item_id: str = ""
    response_id: str = ""
    counts: Counts | None = None
    rating: str = ""
    can_go_on: bool = False
    is_running: bool = False
    place: int = 0


@dataclass(frozen=True)
class Notice:
    """Something said beside the chat: a key of texts.py with its values."""

    key: str
    values: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """The chat as it is now.

    Attributes:
        reach: how many messages it shows at most.
        earlier_id: the conversation that this one is a changed copy of, "" for none.
        refused_text: was not stored: goes back to where it was typed.
        has_kept_text: some of the answer that the error ended is among the messages.
    """

    messages: tuple[Shown, ...] = ()
    conversation_id: str = ""
    running: bool = False
    notice: Notice | None = None
    error: GatewayError | None = None
    refused_text: str = ""
    has_kept_text: bool = False
    has_older: bool = False
    reach: int = 0
    earlier_id: str = ""
