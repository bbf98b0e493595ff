"""An answer that was cut goes on: the same response, its text so far first, then what the model adds to it.

Engines continue a last message of the assistant instead of beginning a new one. What the response was asked for with
holds for the rest, too; where an engine could not keep to it, the wish is refused. When the rest fails the answer is
again what it was, so it can be tried once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.auth import Caller
from gateway.dialects import Chunk, Prompt, Usage
from gateway.errors import ContextTooLong, GatewayError, InvalidRequest
from gateway.prompt import Fitted
from gateway.response_object import OUR_SAMPLING
from gateway.response_schemas import LOGPROBS, ContinueRequest, ResponseRequest
from gateway.response_turn import ResponseTurn
from gateway.store import Item, StoredResponse
from gateway.turn import Parts
from gateway.turn_items import is_readable


class ContinuedTurn(ResponseTurn):
    """The next piece of a stored answer.

    Args:
        stored: the response that was cut.
        request: how it is to go on.

    Raises:
        InvalidRequest: it has no text, or calls of functions, so there is nothing to go on from; or it was asked for
            with what no engine keeps to in the middle of an answer.
        NotFound: its model is not the one that is served now.
    """

    def __init__(self, parts: Parts, caller: Caller, stored: StoredResponse, request: ContinueRequest) -> None:
        if [item.kind for item in stored.output] != ["message"] or not stored.output[0].text:
            raise InvalidRequest("This response has no cut text that could go on.", param="response_id")
        parts.require_model(stored.body["model"])
        _require_free_text(stored)
        super().__init__(parts, caller, _asked_again(stored, request))
        self._stored = stored
        self.earlier = stored.output[0].content[0]
        self.answer_id = stored.output[0].id
        self.body = stored.body | {
            "status": "in_progress",
            "background": self.is_background,
            "error": None,
            "usage": None,
            "timing": None,
            "incomplete_details": None,
        }
        self._texts.append(self.earlier["text"])
        self._logprobs += _logprobs_of(stored)

    def take(self, chunk: Chunk) -> str:
        text = super().take(chunk)
        if chunk.usage is not None and (before := self._stored.body["usage"]) is not None:
            tokens = before["output_tokens"] + chunk.usage.output_tokens
            self._usage = Usage(before["input_tokens"], tokens, chunk.usage.cached_tokens)
        return text

    def _timing(self) -> dict[str, float | None]:
        own, before = super()._timing(), self._stored.body.get("timing") or {}  # earlier releases did not keep it
        return {name: _together(before.get(name), value) for name, value in own.items()}

    async def _fit(self) -> tuple[Fitted, list[Item]]:
        request, context = self._request, self.parts.settings.context_tokens
        items = await self.parts.store.history(self._caller.owner, None, self._stored.id)
        readable = [item for item in items if is_readable(item)]
        messages = await self._all_counted(readable)
        own = sum(item.response_id == self._stored.id for item in readable)
        try:  # question and answer so far always stay
            fitted = await self._fitted(messages[:-own], messages[-own:])
        except ContextTooLong:
            raise _no_room(request.max_total_tokens, context) from None
        return fitted, []

    def _prompt(self, fitted: Fitted) -> Prompt:
        return replace(super()._prompt(fitted), continues=True)

    async def _write_question(self, question: Sequence[Item]) -> None:
        cuts = [len(self._stored.output[0].text)] if self.is_background else None
        await self.parts.store.reopen_turn(self._caller.owner, self._stored.id, body=self.body, cuts=cuts)

    async def _abandon(self) -> None:
        self.body = self._stored.body
        try:
            await self.parts.store.finish_turn(self.body, self._stored.output)
        except GatewayError:
            self.parts.open_turns.keep_for_later(self.body, self._stored.output)

    async def _finish(self, status: str, reason: str | None = None, *, error: GatewayError | None = None) -> None:
        if status == "failed":  # what there was is still there, and can go on another time
            status, reason, error = "incomplete", "interrupted", None
        await super()._finish(status, reason, error=error)


def _together(before_s: float | None, own_s: float | None) -> float | None:
    return own_s if before_s is None else round(before_s + (own_s or 0), 3)


def _require_free_text(stored: StoredResponse) -> None:
    """Engines begin the form of an answer, or of a call that is demanded, anew behind the text that there is.

    Raises:
        InvalidRequest
    """
    if stored.status == "completed":  # which is refused anyway, for a better reason
        return
    again = "Ask again with room for the whole of it ('max_output_tokens')."
    if stored.body["text"]["format"]["type"] != "text":
        raise InvalidRequest(f"An answer in the form of 'text.format' cannot go on. {again}", param="text.format")
    if stored.body["tool_choice"] not in ("none", "auto"):
        raise InvalidRequest(f"A call that 'tool_choice' demands cannot go on. {again}", param="tool_choice")


def _no_room(max_total_tokens: int | None, context_tokens: int) -> ContextTooLong:
    if max_total_tokens is not None and max_total_tokens < context_tokens:
        return ContextTooLong(
            f"The conversation and the answer so far fill the {max_total_tokens:,} tokens of 'max_total_tokens'. Send "
            "a larger 'max_total_tokens' with this request.",
            param="max_total_tokens",
        )
    return ContextTooLong(
        f"The conversation and the answer so far fill the model's context of {context_tokens:,} tokens, so it cannot "
        "go on.",
        param="response_id",
    )


def _logprobs_of(stored: StoredResponse) -> list[Mapping[str, Any]]:
    return list(stored.output[0].content[0].get("logprobs", ()))


def _asked_again(stored: StoredResponse, request: ContinueRequest) -> ResponseRequest:
    body = stored.body
    top_logprobs = body.get("top_logprobs")
    has_logprobs = bool(top_logprobs or _logprobs_of(stored))
    return ResponseRequest(
        input="(goes on)",
        instructions=body["instructions"],
        temperature=body["temperature"],
        top_p=body["top_p"],
        **{name: body.get(name) for name in OUR_SAMPLING},  # earlier releases did not keep them
        truncation=body["truncation"],
        max_output_tokens=request.max_output_tokens or body["max_output_tokens"],
        max_total_tokens=request.max_total_tokens or body["max_total_tokens"],
        tools=body["tools"] or None,
        tool_choice=body["tool_choice"] if body["tools"] else None,
        parallel_tool_calls=False if body["parallel_tool_calls"] is False else None,
        include=[LOGPROBS] if has_logprobs else None,
        top_logprobs=top_logprobs if has_logprobs else None,
        background=request.background,
        stream=request.stream,
    )
