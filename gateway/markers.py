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

ZERO_WIDTH_SPACE = "\u200b"

_MARKER = re.compile(
    r"<\|[^<>|\s]{1,64}\|>"
    r"|</?s>|<unk>|<pad>|<bos>|<eos>|</?start_of_turn>|<end_of_turn>"
    r"|\[UNUSED_TOKEN_\d+\]|\[/?INST\]|<</?SYS>>"
    r"|<(?:repo_?name|file_sep|filename|gh_stars|empty_output|issue_(?:start|comment|closed)"
    r"|jupyter_(?:start|text|code|output|script))>"
)


def defuse(text: str) -> str:
    """`text` with every marker in it broken up."""
    if "<" not in text and "[" not in text:
        return text
    return _MARKER.sub(lambda match: match[0][0] + ZERO_WIDTH_SPACE + match[0][1:], text)
