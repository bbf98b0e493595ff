"""InternLM2's own way with tools, as text: what the model reads, and the calls in what it writes.

Definitions stand in a turn of the role `system name=<|plugin|>`, results in one of `environment name=<|plugin|>`, and a
call is `<|action_start|><|plugin|>`, a line break, `{"name": …, "parameters": {…}}`, `<|action_end|>`.
Format: https://github.com/InternLM/InternLM/blob/main/chat/chat_format.md
"""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec

from gateway.dialects import Prompt, PromptMessage, ToolCall
from gateway.dialects.forced_call import definitions, parse_call

START, PLUGIN, END = "<|action_start|>", "<|plugin|>", "<|action_end|>"
SYSTEM_ROLE, RESULT_ROLE = f"system name={PLUGIN}", f"environment name={PLUGIN}"
_OPENING = re.compile(rf"{re.escape(START)}\s*{re.escape(PLUGIN)}")
_LONGEST_OPENING = len(START) + len(PLUGIN) + 8


def plugin_messages(prompt: Prompt) -> list[PromptMessage]:
    """The prompt's messages with its tools, the calls and their results written as InternLM2 knows them."""
    messages = [_written(message) for message in prompt.messages]
    if prompt.tools:
        place = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
        messages.insert(place, PromptMessage(SYSTEM_ROLE, definitions(prompt.tools)))
    return messages


def _written(message: PromptMessage) -> PromptMessage:
    if message.role == "tool":
        return PromptMessage(RESULT_ROLE, message.text)
    if message.tool_calls:
        calls = "".join(f"{START}{PLUGIN}\n{_call(call)}{END}" for call in message.tool_calls)
        return replace(message, text=message.text + calls, tool_calls=())
    return message


def _call(call: ToolCall) -> str:
    arguments = msgspec.Raw(call.arguments.encode())
    return msgspec.json.encode({"name": call.name, "parameters": arguments}).decode()


class CallReader:
    """Reads calls out of an answer that comes in pieces, cut anywhere.

    What is no call is text, and all of it is shown: words around calls, and what stands between the markers but cannot
    be read as a call.

    Attributes:
        calls: (name, arguments as JSON) of the calls found so far.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._held = ""
        self._opening = ""
        self._follows_call = False

    def feed(self, piece: str) -> str:
        """The text that may be shown now."""
        self._held += piece
        shown = ""
        while True:
            if self._opening:
                body, end, rest = self._held.partition(END)
                if not end:
                    return shown
                self._held = rest
                shown += self._ended(body, end)
                continue
            found = _OPENING.search(self._held)
            if not found:
                break
            shown += self._text(self._held[: found.start()])
            self._opening, self._held = found[0], self._held[found.end() :]
        place = _begun_at(self._held)
        free, self._held = self._held[:place], self._held[place:]
        return shown + self._text(free)

    def flush(self) -> str:
        """What was held back, when the answer has ended; a call that only lacks its end is one."""
        held, self._held = self._held, ""
        return self._ended(held, "") if self._opening else self._text(held)

    def _ended(self, body: str, end: str) -> str:
        opening, self._opening = self._opening, ""
        call = parse_call(body)
        if call is None:
            return opening + body + end
        self.calls.append(call)
        self._follows_call = True
        return ""

    def _text(self, text: str) -> str:
        """Text beside calls; the line breaks right behind a call belong to it."""
        if self._follows_call:
            text = text.lstrip()
            self._follows_call = not text
        return text


def _begun_at(text: str) -> int:
    """Where the end of `text` may be the beginning of an opening; its length when nothing may."""
    place = text.find("<", max(0, len(text) - _LONGEST_OPENING))
    while place >= 0:
        tail = text[place:]
        if START.startswith(tail) or (tail.startswith(START) and PLUGIN.startswith(tail[len(START) :].lstrip())):
            return place
        place = text.find("<", place + 1)
    return len(text)
