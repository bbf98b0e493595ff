"""Events made into what OpenAI's clients expect, where the engine's differ.

As long as no stop text has to be looked for, an event that only adds text is repaired by byte operations: quotes in
texts are escaped, so `"choices":[` or `"delta":{"role":` stand unescaped only as keys of the event itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.dialects.chunks import FAILURES, is_plain_delta, read_event
from gateway.dialects.stops import StopTexts

_CHOICES = b'"choices":['
_ROLE = b'"delta":{"role":"assistant",'
_DELTA = b'"delta":{'
_REASONS = {"stop_sequence": "stop", "eos_token": "stop"}


class ChunkRepair:
    """For engines whose events begin with id, created and model, before the choices (TGI, LMDeploy).

    Gives all events one id, one date and the public model id, the role to the first only, finish reasons OpenAI's
    names. Cuts stop texts out, and ends the answer here (`is_over`) when the engine goes on after one, or beyond
    `max_tokens`, which counts events: only for engines that send each token as an event of its own.
    """

    is_done = False

    def __init__(self, model: str, *, stop: Sequence[str] = (), max_tokens: int | None = None) -> None:
        self.is_over = False
        self._head = b'{"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,' % (
            uuid.uuid4().hex.encode(),
            int(time.time()),
            msgspec.json.encode(model),
        )
        self._stops = StopTexts(stop) if stop else None
        self._max_tokens = max_tokens
        self._tokens = 0
        self._is_first = True

    def patched(self, payload: bytes) -> bytes | None:
        is_last = self._max_tokens is not None and self._tokens + 1 >= self._max_tokens
        if self._stops is None and not is_last and is_plain_delta(payload):
            self._tokens += 1
            return self._renamed(payload)
        try:
            event = read_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return payload  # whoever decodes it says so
        if event.error is not None or not event.choices:
            return self._renamed(payload)
        choice = event.choices[0]
        if choice.finish_reason in FAILURES:
            return payload
        self._tokens += 1
        return self._decided(choice.delta.content or "", choice.finish_reason)

    def usage_event(self, prompt_tokens: int) -> bytes:
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": prompt_tokens + self._tokens,
        }
        return self._head + b'"choices":[],"usage":' + msgspec.json.encode(usage) + b"}"

    def ending(self) -> list[bytes]:
        return []

    def _decided(self, text: str, reason: str | None) -> bytes | None:
        """An event with `text`, unless that is held back, and with the end, where the answer ends."""
        has_ended = reason is not None
        if self._stops is not None:
            text = self._stops.feed(text)
            if self._stops.is_found:
                reason = "stop"
        if reason is None and self._max_tokens is not None and self._tokens >= self._max_tokens:
            reason = "length"
        if reason is not None and self._stops is not None:
            text += self._stops.flush()
        self.is_over = reason is not None and not has_ended
        if not text and reason is None:
            return None
        delta: dict[str, Any] = {"role": "assistant", "content": text} if self._is_first else {"content": text}
        self._is_first = False
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": _REASONS.get(reason or "", reason)}
        return self._head + b'"choices":' + msgspec.json.encode([choice]) + b"}"

    def _renamed(self, payload: bytes) -> bytes:
        place = payload.find(_CHOICES)
        if place < 0:
            return payload
        tail = payload[place:]
        if self._is_first:
            self._is_first = False
        else:
            tail = tail.replace(_ROLE, _DELTA, 1)
        return self._head + tail


class NameRepair:
    """For engines whose events need nothing, unless they have no id, tell the model's path, or repeat the role.

    The first event tells the names, the second the role; from then on it is known whether anything is to do.
    """

    is_over = False

    def __init__(self, model: str) -> None:
        self._model = model
        self._swaps: list[tuple[bytes, bytes]] | None = None
        self._knows_role = False

    @property
    def is_done(self) -> bool:
        return self._knows_role and not self._swaps

    def patched(self, payload: bytes) -> bytes:
        if self._swaps is None:
            self._swaps = self._learned(payload)
        elif not self._knows_role:
            self._knows_role = True
            if _ROLE in payload:
                self._swaps.append((_ROLE, _DELTA))
        for old, new in self._swaps or ():
            payload = payload.replace(old, new, 1)
        return payload

    def usage_event(self, prompt_tokens: int) -> bytes:
        raise AssertionError("asked for only when is_over, which is never so here: these engines end their answers")

    def ending(self) -> list[bytes]:
        return []

    def _learned(self, payload: bytes) -> list[tuple[bytes, bytes]] | None:
        """What to replace in each event, from the first; None when that is none to learn from."""
        try:
            event = read_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if event.error is not None:
            return None
        swaps = []
        wanted = (("id", event.id, f"chatcmpl-{uuid.uuid4().hex}"), ("model", event.model, self._model))
        for name, value, ours in wanted:
            if value == ours or not isinstance(value, str) or (name == "id" and value):
                continue
            key, tail = f'"{name}":'.encode(), msgspec.json.encode(ours)
            for space in (b"", b" "):
                if (old := key + space + msgspec.json.encode(value)) in payload:
                    swaps.append((old, key + tail))
        return swaps
