"""An answer that was cut goes on: the same response, its text so far first, then what the model adds to it.

Engines continue a last message of the assistant instead of beginning a new one. When that fails the answer is again
what it was, so it can be tried once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gateway.auth import Caller
from gateway.dialects import Chunk, Prompt, Usage
from gateway.errors import GatewayError, InvalidRequest
from gateway.prompt import Fitted, fit
from gateway.response_schemas import ContinueRequest, ResponseRequest
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
        InvalidRequest: it has no text, or calls of functions, so there is nothing to go on from.
    """

    def __init__(self, parts: Parts, caller: Caller, stored: StoredResponse, request: ContinueRequest) -> None:
        if [item.kind for item in stored.output] != ["message"] or not stored.output[0].text:
            raise InvalidRequest("This response has no cut text that could go on.", param="response_id")
        super().__init__(parts, caller, _asked_again(stored, request))
        self._stored = stored
        self.earlier = stored.output[0].text
        self.answer_id = stored.output[0].id
        self.body = stored.body | {
            "status": "in_progress",
            "background": self.is_background,
            "error": None,
            "usage": None,
            "incomplete_details": None,
        }
        self._texts.append(self.earlier)

    def take(self, chunk: Chunk) -> str:
        text = super().take(chunk)
        if chunk.usage is not None and (before := self._stored.body["usage"]) is not None:
            tokens = before["output_tokens"] + chunk.usage.output_tokens
            self._usage = Usage(before["input_tokens"], tokens, chunk.usage.cached_tokens)
        return text

    async def _fit(self) -> tuple[Fitted, list[Item]]:
        items = await self.parts.store.history(self._caller.owner, None, self._stored.id)
        history = await asyncio.gather(*(self._counted(item) for item in items if is_readable(item)))
        instructions = self._request.instructions
        system = [await self._system(instructions)] if instructions else []
        fitted = fit(
            [*system, *history[:-2]],
            history[-2:],  # the question and what there is of its answer always stay
            budget=self.parts.settings.context_tokens,
            max_output_tokens=self._request.max_output_tokens,
            may_truncate=self._request.truncation == "auto",
        )
        return fitted, []

    def _prompt(self, fitted: Fitted) -> Prompt:
        return replace(super()._prompt(fitted), continues=True)

    async def _write_question(self, question: Sequence[Item]) -> None:
        cuts = [len(self.earlier)] if self.is_background else None
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


def _asked_again(stored: StoredResponse, request: ContinueRequest) -> ResponseRequest:
    body = stored.body
    return ResponseRequest(
        input="(goes on)",
        instructions=body["instructions"],
        temperature=body["temperature"],
        top_p=body["top_p"],
        truncation=body["truncation"],
        max_output_tokens=request.max_output_tokens,
        tools=body["tools"] or None,
        background=request.background,
        stream=request.stream,
    )
