"""OpenAI's chunks, written: what repairs put in place of an engine's own events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.dialects.chunks import CallDelta


class EventWriter:
    """The chunks of one answer: one id, one date, the public model id, the role in the first only."""

    def __init__(self, model: str, *, is_raw: bool = False) -> None:
        self.is_raw = is_raw
        self.is_first = True
        self._offset = 0
        kind, prefix = ("text_completion", "cmpl") if is_raw else ("chat.completion.chunk", "chatcmpl")
        self.head = b'{"id":"%b-%b","object":"%b","created":%d,"model":%b,' % (
            prefix.encode(),
            uuid.uuid4().hex.encode(),
            kind.encode(),
            int(time.time()),
            msgspec.json.encode(model),
        )

    def choice(
        self,
        text: str | None = None,
        reason: str | None = None,
        *,
        calls: Sequence[Mapping[str, Any]] = (),
        tokens: Sequence[Mapping[str, Any]] = (),
    ) -> bytes:
        """A chunk with `text`, pieces of tool calls, the tokens' log probabilities, and the reason to finish."""
        choice: dict[str, Any] = {"index": 0}
        if self.is_raw:
            choice["text"] = text or ""
            choice["logprobs"] = legacy_logprobs(tokens, self._offset) if tokens else None
            self._offset += sum(len(token["token"]) for token in tokens)
        else:
            delta: dict[str, Any] = {"role": "assistant"} if self.is_first else {}
            if text is not None or (self.is_first and not calls):
                delta["content"] = text or ""
            if calls:
                delta["tool_calls"] = calls
            choice["delta"] = delta
            choice["logprobs"] = {"content": tokens, "refusal": None} if tokens else None
        self.is_first = False
        choice["finish_reason"] = reason
        return self.head + b'"choices":' + msgspec.json.encode([choice]) + b"}"

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The chunk that tells the usage, in OpenAI's words."""
        return self.head + b'"choices":[],"usage":' + msgspec.json.encode(usage) + b"}"


class CallPieces:
    """Pieces of tool calls, so that ids are unique, and id and name come with the first piece of a call only."""

    def __init__(self) -> None:
        self._arguments: dict[int, str] = {}

    def __bool__(self) -> bool:
        return bool(self._arguments)

    def written(self, calls: Sequence[CallDelta]) -> list[dict[str, Any]]:
        """The pieces to hand on; those that add nothing are left out."""
        pieces = []
        for call in calls:
            arguments = call.function.arguments or ""
            if call.index not in self._arguments:
                pieces.append(new_call(call.index, call.function.name or "", arguments))
            elif arguments:
                pieces.append({"index": call.index, "function": {"arguments": arguments}})
            self._arguments[call.index] = self._arguments.get(call.index, "") + arguments
        return pieces

    @property
    def are_whole(self) -> bool:
        """Whether the arguments of all calls are JSON objects, so that none was cut."""
        try:
            for arguments in self._arguments.values():
                msgspec.json.decode(arguments, type=dict)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


def new_call(index: int, name: str, arguments: str) -> dict[str, Any]:
    """The first piece of a call, with an id of its own."""
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def token_entry(entry: Mapping[str, Any], at_most: int) -> dict[str, Any]:
    """One token's log probability in OpenAI's form: with `bytes`, and no more alternatives than were asked for."""
    alternatives = [_with_bytes(other) for other in entry.get("top_logprobs") or ()]
    return {**_with_bytes(entry), "top_logprobs": alternatives[:at_most]}


def _with_bytes(entry: Mapping[str, Any]) -> dict[str, Any]:
    token = str(entry.get("token", ""))
    content = entry.get("bytes")
    if content is None and token and "\ufffd" not in token:  # else a part of a character, whose bytes nobody told
        content = list(token.encode())
    return {"token": token, "logprob": entry.get("logprob"), "bytes": content}


def legacy_logprobs(tokens: Sequence[Mapping[str, Any]], offset: int = 0) -> dict[str, Any]:
    """The same in the form of OpenAI's older completions; `offset` is where the first token begins in the text."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in token.get("top_logprobs") or ()} for token in tokens
        ],
        "text_offset": offsets,
    }
