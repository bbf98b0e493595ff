"""OpenAI's response object, its items and its stream of typed events, as plain JSON-ready dictionaries.

Shapes: https://platform.openai.com/docs/api-reference/responses and …/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.dialects import Usage
from gateway.errors import GatewayError
from gateway.response_schemas import ResponseRequest
from gateway.sse import render
from gateway.store import Conversation, Item, Page, StoredAnswer, StoredResponse
from gateway.tool_schemas import NamedTool
from gateway.turn_items import CALL, output_part

TOP_P, TEMPERATURE = 1.0, 1.0
OUR_SAMPLING = ("top_k", "min_p", "repetition_penalty", "seed")
"""Parameters that OpenAI's object has no field for; they stand in ours where they were given."""


def new_body(response_id: str, request: ResponseRequest, *, model: str, created_at: int) -> dict[str, Any]:
    """A response that has just begun, without its output."""
    conversation_id = request.conversation_id
    sampling = {name: value for name in OUR_SAMPLING if (value := getattr(request, name)) is not None}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": bool(request.background),
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "conversation": {"id": conversation_id} if conversation_id else None,
        "store": request.store is not False,
        "temperature": TEMPERATURE if request.temperature is None else request.temperature,
        "text": {"format": _format_object(request)},
        "tool_choice": _choice_object(request),
        "tools": [tool.model_dump() for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": TOP_P if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "timing": None,
        "metadata": request.metadata or {},
        "max_total_tokens": request.max_total_tokens,
        "truncated_items": 0,
        **sampling,
    }


def _format_object(request: ResponseRequest) -> dict[str, Any]:
    wanted = request.text.format if request.text else None
    return {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True)


def _choice_object(request: ResponseRequest) -> str | dict[str, Any]:
    choice = request.tool_choice
    return choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto"


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
    """A conversation; `updated_at` (last activity, Unix seconds) and `match` (of a search) are ours."""
    match = {} if conversation.match is None else {"match": conversation.match}
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
        "metadata": conversation.metadata,
        **match,
    }


def answered_item(item: Item, answer: StoredAnswer | None) -> dict[str, Any]:
    """An item of a conversation, with what is known of the answer that it is (ours)."""
    shown = item_object(item)
    if answer is None or not item.is_output:
        return shown
    of_body = {name: answer.body.get(name) for name in ("incomplete_details", "usage", "timing")}
    return shown | {"response": {"id": answer.id, "status": answer.status, **of_body, "feedback": answer.feedback}}


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


def item_page(page: Page[Item], answers: Mapping[str, StoredAnswer] | None = None) -> dict[str, Any]:
    """A list of items, with what `answers` knows of those that are answers, by the id of their response."""
    known = answers or {}
    shown = [answered_item(item, known.get(item.response_id or "")) for item in page.entries]
    return page_object(shown, page.has_more)


class ResponseEvents:
    """Encodes the events of one response, with their sequence numbers.

    Args:
        answer_id: the id of the output item.
        after: events up to this number are counted, and encoded to nothing.
    """

    def __init__(self, answer_id: str, after: int = -1) -> None:
        self._answer_id = answer_id
        self._after = after
        self._next = 0
        self._has_item = False
        self._delta = (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
            b'"item_id":"'
            + answer_id.encode()
            + b'","output_index":0,"content_index":0,"delta":"%b","logprobs":[]}\n\n'
        )

    def created(self, body: dict[str, Any]) -> bytes:
        """The first event."""
        return self._event("response.created", response=body)

    def queued(self, body: dict[str, Any], place: int | None = None) -> bytes:
        """It waits for a slot; `place` in the queue is ours."""
        return self._event("response.queued", response=body if place is None else body | {"queue_position": place})

    def in_progress(self, body: dict[str, Any], earlier: dict[str, Any] | None = None) -> bytes:
        """It runs: the output item and content part that the deltas add to, and the part of it that there was before.

        An answer that may call functions gets them with its first text, since it may have none.
        """
        begun = self._event("response.in_progress", response=body)
        if earlier:
            return begun + self.delta(earlier["text"], earlier.get("logprobs", ()))
        return begun if body.get("tools") else begun + self._message()

    def _message(self) -> bytes:
        self._has_item = True
        item = {"id": self._answer_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        return b"".join(
            (
                self._event("response.output_item.added", output_index=0, item=item),
                self._part_event("response.content_part.added", part=output_part("")),
            )
        )

    def delta(self, text: str, logprobs: Sequence[Any] = ()) -> bytes:
        """One piece of the answer, with the log probabilities of its tokens when they were asked for."""
        if not logprobs:
            return self.deltas([msgspec.json.encode(text)[1:-1]])
        opening = b"" if self._has_item else self._message()
        return opening + self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def piece(self, piece: bytes) -> bytes:
        """One piece of the answer, as it stands in a JSON string."""
        if not self._has_item or self._next <= self._after:
            return self.deltas([piece])
        number, self._next = self._next, self._next + 1
        return self._delta % (number, piece)

    def deltas(self, pieces: Sequence[bytes]) -> bytes:
        """Pieces of the answer, each as it stands in a JSON string."""
        opening = b"" if self._has_item else self._message()
        first = self._next
        self._next += len(pieces)
        template = self._delta
        if first > self._after:
            return opening + b"".join([template % (first + n, piece) for n, piece in enumerate(pieces)])
        kept = [template % (first + n, piece) for n, piece in enumerate(pieces) if first + n > self._after]
        return opening + b"".join(kept)

    def closing(self, body: dict[str, Any], answers: Sequence[Item]) -> bytes:
        """The ends of part and item, the calls, then the end of the response: completed, or incomplete (cancelled ones,
        too)."""
        ends = b""
        for place, answer in enumerate(answers):
            if answer.kind == CALL:
                ends += self._call(place, answer)
            elif self._has_item:
                part = answer.content[0]
                logprobs = part.get("logprobs", [])
                ends += self._part_event("response.output_text.done", text=part["text"], logprobs=logprobs)
                ends += self._part_event("response.content_part.done", part=part)
                ends += self._event("response.output_item.done", output_index=place, item=output_item(answer))
        kind = "response.completed" if body["status"] == "completed" else "response.incomplete"
        return ends + self._event(kind, response=body | {"output": [output_item(answer) for answer in answers]})

    def _call(self, place: int, answer: Item) -> bytes:
        """A call of a function, which is told as a whole: until its end nobody knows that it is one."""
        item = output_item(answer)
        at = {"item_id": answer.id, "output_index": place}
        begun = item | {"status": "in_progress", "arguments": ""}
        return b"".join(
            (
                self._event("response.output_item.added", output_index=place, item=begun),
                self._event("response.function_call_arguments.delta", **at, delta=item["arguments"]),
                self._event(
                    "response.function_call_arguments.done", **at, name=item["name"], arguments=item["arguments"]
                ),
                self._event("response.output_item.done", output_index=place, item=item),
            )
        )

    def failed(self, body: dict[str, Any], error: GatewayError | None = None) -> bytes:
        """The end of a response that broke off, by `error` or by the one in `body`."""
        said = {"code": error.code, "message": error.message} if error else body["error"]
        return self._event("response.failed", response=body | {"status": "failed", "error": said})

    def go_on_behind(self) -> bytes:
        """Lets nothing that follows be left out: it gets numbers behind those that were seen."""
        self._next = max(self._next, self._after + 1)
        return b""

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._answer_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._next = self._next, self._next + 1
        if number <= self._after:
            return b""
        payload = {"type": kind, "sequence_number": number, **fields}
        return render(msgspec.json.encode(payload), event=kind)


def body_again(body: dict[str, Any], status: str) -> dict[str, Any]:
    """The body of a response as it was before it ended."""
    return body | {"status": status, "usage": None, "timing": None, "error": None, "incomplete_details": None}
