"""OpenAI's response object, its items and its stream of typed events, as plain JSON-ready dictionaries.

Shapes: https://platform.openai.com/docs/api-reference/responses and …/responses-streaming.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from gateway.dialects import Usage
from gateway.errors import GatewayError
from gateway.schemas import ResponseRequest
from gateway.sse import render
from gateway.store import Conversation, Item, Page, StoredResponse

TOP_P, TEMPERATURE = 1.0, 1.0


def new_body(response_id: str, request: ResponseRequest, *, model: str, created_at: int) -> dict[str, Any]:
    """A response that has just begun, without its output."""
    conversation_id = request.conversation_id
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": request.previous_response_id,
        "conversation": {"id": conversation_id} if conversation_id else None,
        "store": request.store is not False,
        "temperature": TEMPERATURE if request.temperature is None else request.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": TOP_P if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "metadata": request.metadata or {},
        "max_total_tokens": request.max_total_tokens,
        "truncated_items": 0,
    }


def usage_object(usage: Usage | None) -> dict[str, Any] | None:
    """OpenAI's usage of a response."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def output_part(text: str) -> dict[str, Any]:
    """The one content part of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def item_object(item: Item) -> dict[str, Any]:
    """A stored message, call of a function or its output."""
    if item.kind != "message":
        own = {"id": item.id, "type": item.kind, "status": item.status, "response_id": item.response_id}
        return own | (item.data or {})
    return {
        "id": item.id,
        "type": "message",
        "role": item.role,
        "status": item.status,
        "content": item.content,
        "response_id": item.response_id,
    }


def output_item(item: Item) -> dict[str, Any]:
    """An answer inside a response's output."""
    shown = item_object(item)
    del shown["response_id"]
    return shown


def conversation_object(conversation: Conversation) -> dict[str, Any]:
    """A conversation; `updated_at` (last activity, Unix seconds) is ours."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
        "metadata": conversation.metadata,
    }


def response_object(stored: StoredResponse) -> dict[str, Any]:
    """A stored response with its output, and (ours) the feedback when there is some."""
    output = [output_item(item) for item in stored.output if item.text or item.status != "failed"]
    feedback = {"feedback": stored.feedback} if stored.feedback else {}
    return stored.body | {"output": output} | feedback


def page_object(entries: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """OpenAI's list."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


def item_page(page: Page[Item]) -> dict[str, Any]:
    """A list of items."""
    return page_object([item_object(item) for item in page.entries], page.has_more)


class ResponseEvents:
    """Encodes the events of one response, with their sequence numbers."""

    def __init__(self, answer_id: str) -> None:
        self._answer_id = answer_id
        self._numbers = itertools.count()

    def opening(self, body: dict[str, Any]) -> bytes:
        """created, in_progress, and the output item and content part that the deltas add to."""
        item = {"id": self._answer_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        return b"".join(
            (
                self._event("response.created", response=body),
                self._event("response.in_progress", response=body),
                self._event("response.output_item.added", output_index=0, item=item),
                self._part_event("response.content_part.added", part=output_part("")),
            )
        )

    def delta(self, text: str) -> bytes:
        """One piece of the answer."""
        return self._part_event("response.output_text.delta", delta=text, logprobs=[])

    def closing(self, body: dict[str, Any], answer: Item) -> bytes:
        """The ends of part and item, then completed or incomplete with the whole response."""
        text = answer.text
        return b"".join(
            (
                self._part_event("response.output_text.done", text=text, logprobs=[]),
                self._part_event("response.content_part.done", part=output_part(text)),
                self._event("response.output_item.done", output_index=0, item=output_item(answer)),
                self._event(f"response.{body['status']}", response=body | {"output": [output_item(answer)]}),
            )
        )

    def failed(self, body: dict[str, Any], error: GatewayError) -> bytes:
        """The end of a response that broke off."""
        fields = {"status": "failed", "error": {"code": error.code, "message": error.message}}
        return self._event("response.failed", response=body | fields)

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._answer_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        payload = {"type": kind, "sequence_number": next(self._numbers), **fields}
        return render(msgspec.json.encode(payload), event=kind)
