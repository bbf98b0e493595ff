"""What requests to engines have in common: OpenAI's words for messages, tools, the answer's form, log probabilities."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects import Prompt, PromptMessage
from gateway.errors import InvalidRequest

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def require_neutral(prompt: Prompt, engine: str, *names: str) -> None:
    """Refuses parameters that the engine would ignore, or take for something else.

    Raises:
        InvalidRequest: one of them has a value that would change the answer.
    """
    for name in names:
        if getattr(prompt, name):
            raise not_supported(name, engine)


def not_supported(param: str, engine: str, what: str = "") -> InvalidRequest:
    """The refusal of what an engine has not; `what` says which value of the parameter."""
    value = f" with {what}" if what else ""
    return InvalidRequest(f"'{param}'{value} is not supported by the engine of this model ({engine}).", param=param)


def question_of(prompt: Prompt) -> dict[str, Any]:
    """What the answer goes on from, as OpenAI writes it: messages, or a raw prompt."""
    return {"messages": messages_of(prompt)} if prompt.raw is None else {"prompt": prompt.raw}


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The messages as OpenAI writes them."""
    return [_message(message) for message in prompt.messages]


def _message(message: PromptMessage) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        written["content"] = message.text or None
        written["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    return written


def prompt_texts(prompt: Prompt) -> list[str]:
    """All that the model reads, without the template: for engines that count texts only."""
    texts = [prompt.raw] if prompt.raw is not None else [message.text for message in prompt.messages]
    texts += [call.name + call.arguments for message in prompt.messages for call in message.tool_calls]
    if prompt.tools:
        texts.append(msgspec.json.encode(tools_of(prompt)["tools"]).decode())
    return texts


def tools_of(prompt: Prompt) -> dict[str, Any]:
    """`tools` and `tool_choice` as OpenAI writes them; nothing when there are none.

    A function without parameters is one that takes none: TGI wants that said.
    """
    if not prompt.tools:
        return {}
    tools = []
    for tool in prompt.tools:
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or NO_PARAMETERS}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.strict is not None:
            function["strict"] = tool.strict
        tools.append({"type": "function", "function": function})
    choice: Any = "required" if prompt.must_call else "auto"
    if len(prompt.must_call) == 1 < len(prompt.tools):
        choice = {"type": "function", "function": {"name": prompt.must_call[0]}}
    return {"tools": tools, "tool_choice": choice}


def format_of(prompt: Prompt, engine: str) -> dict[str, Any]:
    """`response_format` as OpenAI writes it; nothing for plain text.

    Raises:
        InvalidRequest: a regular expression, which OpenAI does not know.
    """
    wanted = prompt.response_format
    if wanted is None:
        return {}
    if wanted.regex is not None:
        raise not_supported("response_format", engine, "a regular expression")
    if wanted.schema is None:
        return {"response_format": {"type": "json_object"}}
    schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def logprobs_of(prompt: Prompt) -> dict[str, Any]:
    """`logprobs` and `top_logprobs` as OpenAI writes them in a chat, and in legacy completions."""
    if prompt.top_logprobs is None:
        return {}
    if prompt.raw is not None:
        return {"logprobs": prompt.top_logprobs}
    return {"logprobs": True, "top_logprobs": prompt.top_logprobs}


def refuse_logprobs(prompt: Prompt, engine: str) -> None:
    """Raises InvalidRequest when log probabilities are wanted."""
    if prompt.top_logprobs is not None:
        raise not_supported("logprobs", engine)
