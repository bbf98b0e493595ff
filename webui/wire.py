"""What the gateway says, as typed values; the only place that knows the names of its JSON fields.

Unknown event types are skipped (the gateway may say more later); a known one of a wrong shape is a broken stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Status:
    """State of the model, for people who wait."""

    stage: str = "unknown"
    ready: bool = False
    model: str = ""
    title: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    message: str = ""
    since: float = 0.0
    note: Mapping[str, str] = field(default_factory=dict)
    context_tokens: int = 0
    waiting: int = 0
    max_waiting: int = 0


@dataclass(frozen=True)
class Conversation:
    """One entry of a person's list.

    Attributes:
        updated_at: its last activity, Unix seconds.
        match: the place that a search found, "" without one.
    """

    id: str
    title: str
    updated_at: float = field(default=0, compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)
    match: str = ""


@dataclass(frozen=True)
class ConversationPage:
    """Conversations, newest activity first, and whether there are older ones."""

    conversations: tuple[Conversation, ...]
    has_more: bool


@dataclass(frozen=True)
class Counts:
    """What an answer took: tokens, and seconds for its slot, its first event and the rest; None where nobody knows.

    Engines count at the end, so of an answer that was stopped only the seconds are known.
    """

    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    queued_s: float | None = None
    first_token_s: float | None = None
    answer_s: float | None = None

    @property
    def total_tokens(self) -> int | None:
        """Of the model's context, how much the conversation with this answer takes."""
        if self.prompt_tokens is None or self.answer_tokens is None:
            return None
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class Answered:
    """What is known of a stored answer beside its text; `rating` is up, down or ""."""

    status: str = "completed"
    reason: str = ""
    counts: Counts | None = None
    rating: str = ""


@dataclass(frozen=True)
class Item:
    """One stored message of a conversation; `answered` of an answer only."""

    id: str
    role: str
    text: str
    status: str = "completed"
    response_id: str = ""
    answered: Answered | None = None


@dataclass(frozen=True)
class ItemPage:
    """The newest messages in reading order, and whether earlier ones were left out."""

    items: tuple[Item, ...]
    has_more: bool


@dataclass(frozen=True)
class Started:
    """The question is stored and its answer will come."""

    response_id: str


@dataclass(frozen=True)
class Queued:
    """It waits for a slot, at this place."""

    place: int


@dataclass(frozen=True)
class Running:
    """The model works on it."""


@dataclass(frozen=True)
class Delta:
    """The text that one event adds."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The closing event of an answer that is stored; `text` is all of it."""

    text: str
    answered: Answered
    truncated_items: int = 0


@dataclass(frozen=True)
class Failed:
    """The closing event of an answer that could not be given."""

    code: str
    message: str


@dataclass(frozen=True)
class Broken:
    """The stream ends here, the answer perhaps not."""

    code: str
    message: str


ResponseEvent = Started | Queued | Running | Delta | Finished | Failed | Broken


@dataclass(frozen=True)
class Told:
    """One event of a stream with its number; None where the page has no use for it, or the event has no number."""

    number: int | None
    event: ResponseEvent | None


def parse_status(body: Json) -> Status:
    """The answer of `GET /v1/status`."""
    return Status(
        stage=str(body.get("stage") or "unknown"),
        ready=bool(body.get("ready")),
        model=str(body.get("model") or ""),
        title=str(body.get("title") or ""),
        done=int(body.get("done") or 0),
        total=int(body.get("total") or 0),
        unit=str(body.get("unit") or ""),
        message=str(body.get("message") or ""),
        since=float(body.get("since") or 0),
        note={str(k): str(v) for k, v in (body.get("note") or {}).items()},
        context_tokens=int(body.get("context_tokens") or 0),
        waiting=int(body.get("waiting") or 0),
        max_waiting=int(body.get("max_waiting") or 0),
    )


def parse_models(body: Json) -> tuple[str, ...]:
    """The ids in the answer of `GET /v1/models`."""
    return tuple(str(model["id"]) for model in body["data"])


def parse_conversation(body: Json) -> Conversation:
    """One conversation object."""
    metadata = {str(name): str(value) for name, value in (body.get("metadata") or {}).items()}
    return Conversation(
        id=str(body["id"]),
        title=metadata.get("title", ""),
        updated_at=float(body.get("updated_at") or body.get("created_at") or 0),
        metadata=metadata,
        match=str(body.get("match") or ""),
    )


def parse_conversations(body: Json) -> ConversationPage:
    """A list of conversations."""
    return ConversationPage(tuple(parse_conversation(c) for c in body["data"]), bool(body.get("has_more")))


def parse_item(body: Json) -> Item:
    """One message; its text parts joined."""
    parts = body.get("content") or []
    text = parts if isinstance(parts, str) else "".join(str(part.get("text") or "") for part in parts)
    response = body.get("response")
    return Item(
        id=str(body["id"]),
        role=str(body.get("role") or ""),
        text=text,
        status=str(body.get("status") or "completed"),
        response_id=str(body.get("response_id") or ""),
        answered=parse_answered(response) if response else None,
    )


def parse_answered(response: Json) -> Answered:
    """What a response says of its answer beside the text."""
    return Answered(
        status=str(response.get("status") or "completed"),
        reason=str((response.get("incomplete_details") or {}).get("reason") or ""),
        counts=_counts(response.get("usage"), response.get("timing") or {}),
        rating=str((response.get("feedback") or {}).get("rating") or ""),
    )


def parse_items_newest_first(body: Json) -> ItemPage:
    """A list that was asked for in descending order, turned into reading order."""
    messages = [parse_item(item) for item in body["data"] if item.get("type", "message") == "message"]
    return ItemPage(tuple(reversed(messages)), bool(body.get("has_more")))


def parse_comment(text: str) -> Queued | None:
    """What a comment in a stream says: a place in the line, or nothing."""
    said, _, place = text.rpartition(" ")
    return Queued(int(place)) if said == "queued, place" and place.isdecimal() else None


def parse_event(name: str, body: Json) -> ResponseEvent | None:
    """One event of a streamed response, or None for those that the page has no use for."""
    match name:
        case "response.created":
            return Started(str(body["response"]["id"]))
        case "response.output_text.delta":
            return Delta(str(body["delta"]))
        case "response.in_progress":
            return Running()
        case "response.completed" | "response.incomplete":
            return _finished(body["response"])
        case "response.failed":
            return Failed(*_error(body["response"].get("error") or {}))
        case "error":
            return Broken(*_error(body.get("error") or body))
    return None


def _finished(response: Json) -> Finished:
    messages = [parse_item(item) for item in response["output"] if item.get("type", "message") == "message"]
    text = "".join(message.text for message in messages)
    return Finished(text, parse_answered(response), int(response.get("truncated_items") or 0))


def _error(error: Json) -> tuple[str, str]:
    return str(error.get("code") or "upstream_failed"), str(error.get("message") or "")


def _counts(usage: Json | None, timing: Json) -> Counts | None:
    seconds = {name: timing.get(name) for name in ("queued_s", "first_token_s", "answer_s")}
    if usage:
        return Counts(int(usage["input_tokens"]), int(usage["output_tokens"]), **seconds)
    return Counts(**seconds) if seconds["answer_s"] is not None else None
