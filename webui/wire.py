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
class Item:
    """One stored message of a conversation."""

    id: str
    role: str
    text: str
    status: str = "completed"


@dataclass(frozen=True)
class ItemPage:
    """The newest messages in reading order, and whether earlier ones were left out."""

    items: tuple[Item, ...]
    has_more: bool


@dataclass(frozen=True)
class Started:
    """The question is stored and the answer has begun."""

    response_id: str


@dataclass(frozen=True)
class Delta:
    """The text that one event adds."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The closing event of an answer that is stored: `completed`, or `incomplete` with its reason."""

    status: str
    reason: str = ""
    truncated_items: int = 0


@dataclass(frozen=True)
class Failed:
    """The closing event of an answer that could not be given."""

    code: str
    message: str


ResponseEvent = Started | Delta | Finished | Failed


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
    return Item(str(body["id"]), str(body.get("role") or ""), text, str(body.get("status") or "completed"))


def parse_items_newest_first(body: Json) -> ItemPage:
    """A list that was asked for in descending order, turned into reading order."""
    messages = [parse_item(item) for item in body["data"] if item.get("type", "message") == "message"]
    return ItemPage(tuple(reversed(messages)), bool(body.get("has_more")))


def parse_event(name: str, body: Json) -> ResponseEvent | None:
    """One event of a streamed response, or None for those that the page has no use for."""
    match name:
        case "response.created":
            return Started(str(body["response"]["id"]))
        case "response.output_text.delta":
            return Delta(str(body["delta"]))
        case "response.completed" | "response.incomplete":
            return _finished(body["response"], name.removeprefix("response."))
        case "response.failed":
            return _failed(body["response"].get("error") or {})
        case "error":
            return _failed(body.get("error") or body)
    return None


def _finished(response: Json, status: str) -> Finished:
    reason = (response.get("incomplete_details") or {}).get("reason") or ""
    return Finished(status, str(reason), int(response.get("truncated_items") or 0))


def _failed(error: Json) -> Failed:
    return Failed(str(error.get("code") or "upstream_failed"), str(error.get("message") or ""))
