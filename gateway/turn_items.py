"""Items of the Responses API on their way: as callers write them, as the store keeps them, as the model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from gateway.chat_object import engine_role
from gateway.dialects import PromptMessage, Tool, ToolCall
from gateway.errors import InvalidRequest
from gateway.prompt import Message
from gateway.response_schemas import FunctionCallItem, FunctionCallOutput, InputItem
from gateway.store import Item, new_id

CALL, RESULT = "function_call", "function_call_output"


def output_part(text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    """The one content part of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def call_item(item_id: str, call: ToolCall, *, status: str, response_id: str | None = None) -> Item:
    """A call of a function."""
    data = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return Item(item_id, "assistant", status, [], is_output=True, response_id=response_id, kind=CALL, data=data)


def question_item(entry: InputItem, tokens: int | None = None) -> Item:
    """What the store keeps of an input item."""
    if isinstance(entry, FunctionCallItem):
        call = ToolCall(entry.call_id, entry.name, entry.arguments)
        return replace(call_item(new_id("fc"), call, status="completed"), is_output=False, tokens=tokens)
    if isinstance(entry, FunctionCallOutput):
        data = {"call_id": entry.call_id, "output": entry.text}
        return Item(new_id("fco"), "tool", "completed", [], tokens=tokens, kind=RESULT, data=data)
    is_answer = entry.role == "assistant"
    content = [output_part(entry.text)] if is_answer else [{"type": "input_text", "text": entry.text}]
    return Item(new_id("msg"), entry.role, "completed", content, tokens=tokens)


def counted_text(item: Item) -> str:
    """The text of an item that takes tokens."""
    data = item.data or {}
    if item.kind == CALL:
        return f"{data['name']} {data['arguments']}"
    return str(data["output"]) if item.kind == RESULT else item.text


def is_readable(item: Item) -> bool:
    """Whether a model can make something of it: an empty message and a call that was cut it cannot."""
    return item.status == "completed" if item.kind == CALL else item.kind == RESULT or bool(item.text)


def message_of(item: Item, tokens: int) -> Message:
    """What the prompt is chosen from."""
    data = item.data or {}
    if item.kind == CALL:
        return Message("assistant", "", tokens, call=ToolCall(data["call_id"], data["name"], data["arguments"]))
    if item.kind == RESULT:
        return Message("tool", data["output"], tokens, answers=data["call_id"])
    return Message(engine_role(item.role), item.text, tokens)


def prompt_messages(messages: Iterable[Message]) -> list[PromptMessage]:
    """What the model reads: calls belong to the assistant's message before them."""
    written: list[PromptMessage] = []
    for message in messages:
        if message.call is None:
            written.append(PromptMessage(message.role, message.text, tool_call_id=message.answers))
        elif written and written[-1].role == "assistant":
            written[-1] = replace(written[-1], tool_calls=[*written[-1].tool_calls, message.call])
        else:
            written.append(PromptMessage("assistant", "", [message.call]))
    return written


def bound_to_question(history: Sequence[Message], question: Sequence[Message]) -> int:
    """How many messages at the end of the history cannot be left out, since the question answers calls in them.

    Raises:
        InvalidRequest: a result answers no call before it.
    """
    asked = {message.call.id for message in question if message.call is not None}
    wanted = {message.answers for message in question if message.answers is not None} - asked
    if not wanted:
        return 0
    known = [n for n, message in enumerate(history) if message.call is not None and message.call.id in wanted]
    missing = wanted - {call.id for n in known if (call := history[n].call) is not None}
    if missing:
        raise InvalidRequest(f"'{min(missing)}' is the id of no call before its output.", param="input")
    return len(history) - known[0]


def tools_text(tools: Sequence[Tool]) -> str:
    """The definitions of tools, for counting their tokens."""
    return msgspec.json.encode(tools).decode()
