"""Events made into what OpenAI's clients expect, where the engine's differ.

As long as no stop text has to be looked for, an event that only adds text is repaired by byte operations: quotes in
texts are escaped, so `"choices":[` or `"delta":{"role":` stand unescaped only as keys of the event itself.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from gateway.dialects import Prompt, Repair, Usage
from gateway.dialects.chunks import FAILURES, Choice, Event, is_plain_delta, read_event, usage_object, usage_of
from gateway.dialects.events import CallPieces, EventWriter, token_entry
from gateway.dialects.stops import StopTexts
from gateway.errors import InvalidRequest, UpstreamFailed

_CHOICES = b'"choices":['
_ROLE = b'"delta":{"role":"assistant",'
_DELTA = b'"delta":{'
_REASONS = {"stop_sequence": "stop", "eos_token": "stop"}


class ChunkRepair:
    """For engines whose events begin with id, created and model, before the choices (TGI, LMDeploy).

    Gives all events one id, one date and the public model id, the role to the first only, finish reasons OpenAI's
    names, tool calls unique ids and an end. Cuts stop texts out, and ends the answer here (`is_over`) when the engine
    goes on after one, or beyond `max_tokens`, which counts events: only for engines that send each token as an event
    of its own.

    Args:
        prompt: what was asked for.
        max_tokens: the limit to keep here, or None when the engine keeps it.
        cuts_stops: whether stop texts are cut here.
    """

    is_done = False

    def __init__(self, model: str, prompt: Prompt, *, max_tokens: int | None = None, cuts_stops: bool = True) -> None:
        self.is_over = False
        self._writer = EventWriter(model, is_raw=prompt.raw is not None)
        self._stops = StopTexts(prompt.stop) if prompt.stop and cuts_stops else None
        self._max_tokens = max_tokens
        self._asked_tokens = prompt.max_tokens
        self._top_logprobs = prompt.top_logprobs
        self._has_tools = bool(prompt.tools)
        self._is_simple = not (self._stops or prompt.tools or prompt.raw is not None) and prompt.top_logprobs is None
        self._tokens = 0
        self._calls = CallPieces()
        self._has_finished = False
        self._unshown: list[dict[str, Any]] = []
        self._held: list[bytes] = []

    def patched(self, payload: bytes) -> bytes | None:
        is_last = self._max_tokens is not None and self._tokens + 1 >= self._max_tokens
        if self._is_simple and not is_last and is_plain_delta(payload):
            self._tokens += 1
            return self._renamed(payload)
        try:
            event = read_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return payload  # whoever decodes it says so
        if event.error is not None:
            return self._renamed(payload)
        if not event.choices:
            return self._counted(payload, event)
        choice = event.choices[0]
        if choice.finish_reason in FAILURES:
            return payload
        self._tokens += 1
        if self._writer.is_raw and (usage := usage_of(event)) is not None:
            self._held.append(self._writer.usage(usage_object(usage)))
        return self._decided(choice)

    def may_pass(self, events: int) -> bool:
        is_last = self._max_tokens is not None and self._tokens + events >= self._max_tokens
        if not self._is_simple or is_last:
            return False
        self._tokens += events
        return True

    def usage_event(self, prompt_tokens: int) -> bytes:
        return self._writer.usage(usage_object(Usage(prompt_tokens, self._tokens)))

    def ending(self) -> list[bytes]:
        if self._calls and not self._has_finished:
            self._held.insert(0, self._end_of_calls())
        held, self._held = self._held, []
        return held

    def _decided(self, choice: Choice) -> bytes | None:
        """An event with the choice's text, unless that is held back, and with the end, where the answer ends."""
        text, reason = choice.added, choice.finish_reason or None
        calls = self._calls.written(choice.calls)
        self._unshown += [token_entry(token, self._top_logprobs or 0) for token in choice.tokens]
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
        if not text and not calls and reason is None:
            return None
        self._has_finished = reason is not None
        if self._has_finished and self._calls:
            reason = "tool_calls" if self._calls.are_whole else "length"
        tokens = self._shown_tokens(text)
        return self._writer.choice(
            None if self._calls else text, _REASONS.get(reason or "", reason), calls=calls, tokens=tokens
        )

    def _shown_tokens(self, text: str) -> list[dict[str, Any]]:
        """The log probabilities that belong to `text`: all but those of a stop text that was cut out."""
        if self._stops is None or not self._stops.is_found:
            shown, self._unshown = self._unshown, []
            return shown
        shown, left = [], len(text)
        for token in self._unshown:
            if left <= 0:
                break
            shown.append(token)
            left -= len(token["token"])
        return shown

    def _counted(self, payload: bytes, event: Event) -> bytes | None:
        """The usage, which comes last: TGI has by then ended tool calls without a word."""
        if not self._has_tools or self._has_finished:
            return self._renamed(payload)
        if self._calls:
            self._held.append(self._renamed(payload))
            return self._end_of_calls()
        if event.usage is not None and event.usage.completion_tokens >= self._asked_tokens:
            raise InvalidRequest(
                f"The tool call did not fit into {self._asked_tokens} tokens. Ask for more of them.", param="max_tokens"
            )
        raise UpstreamFailed("The inference server ended a tool call without a result. Try again, or change the tools.")

    def _end_of_calls(self) -> bytes:
        self._has_finished = True
        return self._writer.choice(reason="tool_calls" if self._calls.are_whole else "length")

    def _renamed(self, payload: bytes) -> bytes:
        place = payload.find(_CHOICES)
        if place < 0:
            return payload
        tail = payload[place:]
        if self._writer.is_first:
            self._writer.is_first = False
        else:
            tail = tail.replace(_ROLE, _DELTA, 1)
        return self._writer.head + tail


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

    def may_pass(self, events: int) -> bool:
        return True

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


class Chained:
    """One repair after another; the first may be none."""

    def __init__(self, first: Repair | None, second: Repair) -> None:
        self._first = first
        self._second = second

    @property
    def is_done(self) -> bool:
        return self._second.is_done and (self._first is None or self._first.is_done)

    @property
    def is_over(self) -> bool:
        return self._second.is_over or (self._first is not None and self._first.is_over)

    def patched(self, payload: bytes) -> bytes | None:
        repaired = payload if self._first is None else self._first.patched(payload)
        return None if repaired is None else self._second.patched(repaired)

    def may_pass(self, events: int) -> bool:
        return False  # the second looks at the text

    def usage_event(self, prompt_tokens: int) -> bytes:
        assert self._first is not None, "only the first ends answers early"
        usage = self._first.usage_event(prompt_tokens)
        return self._second.patched(usage) or usage

    def ending(self) -> list[bytes]:
        late = self._first.ending() if self._first is not None else []
        repaired = [event for payload in late if (event := self._second.patched(payload)) is not None]
        return repaired + self._second.ending()
