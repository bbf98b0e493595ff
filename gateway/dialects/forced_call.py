"""A tool call that the engine's grammar forces: the answer must be the call as JSON, and is turned into one.

For engines that let a model answer in words although `tool_choice` says that it must call (llama.cpp, when the model's
template knows no tools), and for models with a tool format of their own (InternLM2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from gateway.dialects import AnswerFormat, Prompt, PromptMessage, Tool
from gateway.dialects.chunks import FAILURES, read_event, usage_object, usage_of
from gateway.dialects.events import EventWriter, new_call
from gateway.dialects.requests import NO_PARAMETERS, not_supported
from gateway.dialects.schema_refs import inlined

_INSTRUCTION = (
    'Answer with a call of one of these functions, as JSON: {"name": the function, "parameters": its parameters}.\n'
)


def as_forced_call(prompt: Prompt) -> Prompt:
    """`prompt` with its tools in a system message, and an answer that can only be a call of one that must be called."""
    described = _INSTRUCTION + definitions(prompt.tools)
    messages = [*prompt.messages]
    if messages and messages[0].role == "system":  # many templates know one system message, and only at the beginning
        messages[0] = replace(messages[0], text=f"{messages[0].text}\n\n{described}")
    else:
        messages.insert(0, PromptMessage("system", described))
    return with_grammar(replace(prompt, messages=messages))


def with_grammar(prompt: Prompt) -> Prompt:
    """`prompt` without tools, and with the form of a call of one that must be called for its answer.

    Raises:
        InvalidRequest: a schema that cannot be put into another one.
    """
    if prompt.response_format is not None:
        raise not_supported("response_format", "a call is forced by the same means", "a 'tool_choice' that must call")
    schema = _schema_of_call([tool for tool in prompt.tools if tool.name in prompt.must_call])
    return replace(prompt, tools=(), must_call=(), response_format=AnswerFormat(schema=schema, name="call"))


def definitions(tools: Sequence[Tool]) -> str:
    """The tools as a model reads them: a JSON list of name, description and parameters."""
    described = [
        {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters or NO_PARAMETERS}
        for tool in tools
    ]
    return msgspec.json.format(msgspec.json.encode(described), indent=4).decode()


def parse_call(text: str) -> tuple[str, str] | None:
    """Name and arguments (as JSON) of a call that a model wrote; None when it is none."""
    try:
        written: Any = msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    if isinstance(written, dict) and isinstance(written.get("call"), dict):
        written = written["call"]
    if not isinstance(written, dict) or not isinstance(written.get("name"), str) or not written["name"]:
        return None
    arguments = written.get("parameters", written.get("arguments"))
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            return None
    return (written["name"], msgspec.json.encode(arguments).decode()) if isinstance(arguments, dict) else None


def _schema_of_call(tools: Sequence[Tool]) -> dict[str, Any]:
    """Of one tool the call itself; of several an object with `call`, since grammars want properties at the top."""
    calls = []
    for tool in tools:
        properties = {
            "name": {"type": "string", "enum": [tool.name]},
            "parameters": inlined(tool.parameters or NO_PARAMETERS, "tools"),
        }
        call = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        calls.append(call)
    if len(calls) == 1:
        return calls[0]
    whole = {"type": "object", "properties": {"call": {"anyOf": calls}}, "required": ["call"]}
    return whole | {"additionalProperties": False}


class ForcedCallRepair:
    """Makes a tool call of an answer that is one as JSON. An answer that was cut stays the text that it is."""

    is_done = False
    is_over = False

    def __init__(self, model: str) -> None:
        self._writer = EventWriter(model)
        self._texts: list[str] = []

    def patched(self, payload: bytes) -> bytes | None:
        try:
            event = read_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return payload  # whoever decodes it says so
        if event.error is not None or (event.choices and event.choices[0].finish_reason in FAILURES):
            return payload
        if not event.choices:
            usage = usage_of(event)
            return None if usage is None else self._writer.usage(usage_object(usage))
        choice = event.choices[0]
        self._texts.append(choice.added)
        if choice.finish_reason is None:
            return self._writer.choice() if self._writer.is_first else None  # a sign of life, and the role
        text = "".join(self._texts)
        call = parse_call(text)
        if call is None:
            return self._writer.choice(text, choice.finish_reason)
        return self._writer.choice(reason="tool_calls", calls=[new_call(0, *call)])

    def may_pass(self, events: int) -> bool:
        return False

    def usage_event(self, prompt_tokens: int) -> bytes:
        raise AssertionError("asked for only when is_over, which is never so here")

    def ending(self) -> list[bytes]:
        return []
