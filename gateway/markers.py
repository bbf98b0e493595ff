"""Keeps what people type from becoming control tokens.

Chat templates mark turns with special tokens, and every tokenizer turns the typed text of such a token into the token
itself, so `<|im_end|>` typed by a person would close the turn. A zero-width space after the marker's first character
breaks it up; to the eye, and nearly to the model, the text is the same. Done on the way upstream only: the store keeps
what was typed.

The names: InternLM2's `<|im_start|>`, `<|plugin|>` … and `[UNUSED_TOKEN_n]`; sentencepiece's `<s>`, `</s>`, `<unk>`,
`<pad>`; Llama's `[INST]`, `<<SYS>>`; SmolLM2's `<repo_name>`, `<file_sep>`, `<jupyter_code>` … (its tokenizer's added
tokens).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from gateway.dialects import Prompt

ZERO_WIDTH_SPACE = "\u200b"

_MARKER = re.compile(
    r"<\|[^<>|\s]{1,64}\|>"
    r"|</?s>|<unk>|<pad>|<bos>|<eos>|</?start_of_turn>|<end_of_turn>"
    r"|\[UNUSED_TOKEN_\d+\]|\[/?INST\]|<</?SYS>>"
    r"|<(?:repo_?name|file_sep|filename|gh_stars|empty_output|issue_(?:start|comment|closed)"
    r"|jupyter_(?:start|text|code|output|script))>"
)


def defused(prompt: Prompt) -> Prompt:
    """`prompt` with every marker in what callers wrote broken up: messages, arguments of calls, results, tools.

    A raw prompt is its caller's own template, whose markers are meant; and a schema that the answer must have is read
    by the engine's grammar, not by the model.
    """
    messages = [
        replace(
            message,
            text=defuse(message.text),
            tool_calls=[replace(call, arguments=defuse(call.arguments)) for call in message.tool_calls],
        )
        for message in prompt.messages
    ]
    if not prompt.tools:
        return replace(prompt, messages=messages)
    tools = [
        replace(tool, description=_defuse_all(tool.description), parameters=_defuse_all(tool.parameters))
        for tool in prompt.tools
    ]
    return replace(prompt, messages=messages, tools=tools)


def _defuse_all(value: Any) -> Any:
    if isinstance(value, str):
        return defuse(value)
    if isinstance(value, dict):
        return {defuse(key): _defuse_all(inner) for key, inner in value.items()}
    return [_defuse_all(inner) for inner in value] if isinstance(value, list) else value


def defuse(text: str) -> str:
    """`text` with every marker in it broken up."""
    if "<" not in text and "[" not in text:
        return text
    return _MARKER.sub(lambda match: match[0][0] + ZERO_WIDTH_SPACE + match[0][1:], text)
