"""InternLM2's tools on any engine (GATEWAY_TOOL_FORMAT=internlm2): the engine never hears of `tools`.

The gateway writes them into the prompt and reads the calls out of the answer; a call that `tool_choice` demands is
forced by the engine's grammar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from gateway.dialects import Chunk, Count, Dialect, Prompt, Repair
from gateway.dialects.chunks import FAILURES, read_event, usage_object, usage_of
from gateway.dialects.events import EventWriter, new_call
from gateway.dialects.forced_call import ForcedCallRepair, with_grammar
from gateway.dialects.repair import Chained
from gateway.dialects.requests import not_supported
from gateway.errors import GatewayError
from gateway.internlm2_tools import CallReader, plugin_messages

_NAME = "InternLM2"


class InternLM2Tools:
    """The dialect `inner` with the model's own tools; a Dialect itself."""

    def __init__(self, inner: Dialect) -> None:
        self._inner = inner
        self.CHAT_PATH = inner.CHAT_PATH
        self.COMPLETIONS_PATH = inner.COMPLETIONS_PATH
        self.HEALTH_PATH = inner.HEALTH_PATH
        self.KEEPS_CONNECTIONS = inner.KEEPS_CONNECTIONS
        self.MAY_END_WITHOUT_DONE = inner.MAY_END_WITHOUT_DONE
        self.is_plain_delta = inner.is_plain_delta

    def chat_body(self, prompt: Prompt, model: str) -> bytes:
        return self._inner.chat_body(_written(prompt), model)

    def repair(self, prompt: Prompt, model: str) -> Repair | None:
        inner = self._inner.repair(_written(prompt), model)
        if not prompt.tools:
            return inner
        return Chained(inner, ForcedCallRepair(model) if prompt.must_call else MarkerRepair(model))

    def decode(self, payload: bytes) -> Chunk:
        return self._inner.decode(payload)

    def count(self, text: str, model: str) -> Count | int:
        return self._inner.count(text, model)

    def count_chat(self, prompt: Prompt, model: str) -> Count | int:
        return self._inner.count_chat(_written(prompt), model)

    def is_healthy(self, body: bytes) -> bool:
        return self._inner.is_healthy(body)

    def refusal(self, status: int, body: bytes) -> GatewayError:
        return self._inner.refusal(status, body)


def _written(prompt: Prompt) -> Prompt:
    if prompt.raw is not None:
        return prompt
    if prompt.tools and prompt.response_format is not None:
        raise not_supported("response_format", _NAME, "'tools' beside it")
    written = replace(prompt, messages=plugin_messages(prompt))
    return with_grammar(written) if prompt.must_call else replace(written, tools=())


class MarkerRepair:
    """Makes tool calls of the model's markers, as the answer comes."""

    is_done = False
    is_over = False

    def __init__(self, model: str) -> None:
        self._writer = EventWriter(model)
        self._reader = CallReader()
        self._told = 0
        self._tokens: list[Mapping[str, Any]] = []

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
        reason = choice.finish_reason
        text = self._reader.feed(choice.added)
        if reason is not None:
            text += self._reader.flush()
        calls = [new_call(n, *call) for n, call in enumerate(self._reader.calls[self._told :], start=self._told)]
        self._told += len(calls)
        self._tokens += choice.tokens
        if not text and not calls and reason is None and not self._writer.is_first:
            return None
        if reason == "stop" and self._told:
            reason = "tool_calls"
        tokens, self._tokens = self._tokens, []
        return self._writer.choice(text or None, reason, calls=calls, tokens=tokens)

    def may_pass(self, events: int) -> bool:
        return False

    def usage_event(self, prompt_tokens: int) -> bytes:
        raise AssertionError("asked for only when is_over, which is never so here")

    def ending(self) -> list[bytes]:
        return []
