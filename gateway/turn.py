"""One turn: opened, relayed, closed. The heart; read it beside docs/architecture.md.

Both kinds take a slot, open a generation and wait for its first event before their caller hears anything, so that what
fails until then has an honest status and leaves nothing behind. A `ChatTurn` stores nothing. A `ResponseTurn` writes
its question beside the model's work on the prompt, and is closed exactly once, whatever ends it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.admission import Admission
from gateway.auth import Caller
from gateway.chat_object import engine_role, sampling_of
from gateway.dialects import Chunk, Prompt, PromptMessage, Usage
from gateway.errors import GatewayError, NotFound, UpstreamFailed, UpstreamTimeout
from gateway.limits import Limits, Reservation, allowances_of
from gateway.open_turns import OpenTurns
from gateway.prompt import Fitted, Message, fit, require_plausible
from gateway.response_object import new_body, output_part, usage_object
from gateway.schemas import ChatMessage, ResponseRequest
from gateway.settings import Settings
from gateway.store import Item, Store, new_id
from gateway.upstream import Generation, Upstream

log = logging.getLogger("gateway.turn")
_TAKE_BACK_S = 5.0
_DEFAULT_MODELS = ("dummy", "tgi", "")  # what huggingface_hub and TGI's own clients send when none is named


@dataclass(frozen=True)
class Parts:
    """What a turn works with; put together once in gateway/main.py."""

    settings: Settings
    upstream: Upstream
    store: Store
    limits: Limits
    admission: Admission
    open_turns: OpenTurns

    async def charge(self, caller: Caller, *, is_answer: bool = True) -> Reservation:
        """Charges one request, and one answer at once, until it is settled.

        Raises:
            RateLimited, LimitsUnavailable, ShuttingDown
        """
        self.open_turns.require_open()
        allowances = allowances_of(caller, self.settings)
        if not is_answer:
            allowances = [replace(allowance, streams=None) for allowance in allowances]
        return await self.limits.reserve(allowances)

    def require_model(self, name: str | None) -> None:
        """Raises NotFound for a model that is not the one served; some clients name none, or the URL."""
        if name is None or name == self.settings.model or name in _DEFAULT_MODELS:
            return
        if not name.startswith(("http://", "https://")):
            raise NotFound(
                f"The model '{name[:100]}' is not served here; '{self.settings.model}' is.",
                param="model",
                code="model_not_found",
            )


class ChatTurn:
    """A stateless completion of `prompt`; `wants_usage` says whether a stream's caller asked for the usage."""

    def __init__(self, parts: Parts, caller: Caller, prompt: Prompt, *, wants_usage: bool = False) -> None:
        self.parts = parts
        self.wants_usage = wants_usage
        self.finish_reason: str | None = None
        self._caller = caller
        self._prompt = prompt

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Generation]:
        """Holds slot and generation. Raises Overloaded, ContextTooLong, UpstreamNotReady, UpstreamFailed …"""
        async with self.parts.open_turns.running(), self.parts.admission.lease(self._caller.owner):
            with await self.parts.upstream.open(self._prompt) as generation:
                async with _within(self.parts.settings.timeouts.turn_s):
                    yield generation

    def note(self, chunk: Chunk) -> None:
        """Remembers how the answer ended."""
        self.finish_reason = chunk.finish_reason or self.finish_reason

    def require_finished(self) -> None:
        """Raises UpstreamFailed when the stream ended without saying why: a cut answer must not pass as whole."""
        if self.finish_reason is None:
            raise UpstreamFailed("The inference server's answer broke off. Try again.")


class ResponseTurn:
    """A turn of the Responses API, stored unless its caller said `store: false`."""

    def __init__(self, parts: Parts, caller: Caller, request: ResponseRequest) -> None:
        self.parts = parts
        self.is_stored = request.store is not False
        self.answer_id = new_id("msg")
        self._caller = caller
        self._request = request
        self._last_item_id: str | None = None
        self._texts: list[str] = []
        self._checkpointed = 0
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self.body = new_body(new_id("resp"), request, model=parts.settings.model, created_at=int(time.time()))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Generation]:
        """Holds slot, generation and the open turn in the store; closes the turn whatever happens inside.

        A turn that fails before it is opened leaves nothing behind. Raises like ChatTurn.open, and NotFound,
        ConversationBusy, HistoryUnavailable.
        """
        async with self.parts.open_turns.running():
            fitted, question = await self._fit()
            self.body["truncated_items"] = fitted.dropped
            async with self.parts.admission.lease(self._caller.owner):
                generation = await self._begin(fitted, question)
                async with self.parts.open_turns.checkpointed(self), self._closing():
                    with generation:  # inside: the engine is free before the end is written
                        async with _within(self.parts.settings.timeouts.turn_s):
                            yield generation

    def take(self, chunk: Chunk) -> str:
        """Adds one event of the answer; returns the text that it adds."""
        if chunk.text:
            self._texts.append(chunk.text)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._usage = chunk.usage or self._usage
        return chunk.text

    def answer(self) -> Item:
        """The answer so far, or as it ended."""
        self._checkpointed = len(self._texts)
        return Item(
            id=self.answer_id,
            role="assistant",
            status=_item_status(self.body["status"]),
            content=[output_part("".join(self._texts))],
            is_output=True,
            tokens=self._usage.output_tokens if self._usage else None,
            response_id=self.body["id"],
        )

    def has_news(self) -> bool:
        """Whether the answer has grown since it was last taken."""
        return len(self._texts) > self._checkpointed

    async def _fit(self) -> tuple[Fitted, list[Item]]:
        """The prompt that fits, and the question's items with their tokens counted."""
        request, context = self._request, self.parts.settings.context_tokens
        messages = request.input_messages()
        size = sum(len(message.text.encode()) for message in messages) + len((request.instructions or "").encode())
        require_plausible(size, context, "input")
        asked, history = await asyncio.gather(
            asyncio.gather(*(self._counted(message.role, message.text) for message in messages)),
            self._history(),
        )
        question = [_question_item(message, counted.tokens) for message, counted in zip(messages, asked, strict=True)]
        system = [await self._counted("system", request.instructions)] if request.instructions else []
        budget = min(request.max_total_tokens or context, context)
        fitted = fit(
            [*system, *history],
            asked,
            budget=budget,
            max_output_tokens=request.max_output_tokens,
            may_truncate=request.truncation == "auto",
        )
        return fitted, question

    async def _history(self) -> list[Message]:
        request = self._request
        items = await self.parts.store.history(
            self._caller.owner, request.conversation_id, request.previous_response_id
        )
        self._last_item_id = items[-1].id if items else None
        return await asyncio.gather(*(self._counted(item.role, item.text, item.tokens) for item in items if item.text))

    async def _counted(self, role: str, text: str, tokens: int | None = None) -> Message:
        if tokens is None:
            tokens = await self.parts.upstream.count(text)
        return Message(engine_role(role), text, tokens)

    async def _begin(self, fitted: Fitted, question: Sequence[Item]) -> Generation:
        """Opens the generation while the question is written. When either fails, neither remains."""
        prompt = Prompt(
            messages=[PromptMessage(message.role, message.text) for message in fitted.messages],
            max_tokens=fitted.max_tokens,
            **sampling_of(self._request),
        )
        opening = asyncio.ensure_future(self.parts.upstream.open(prompt))
        writing = asyncio.ensure_future(self._write_question(question))
        try:
            await asyncio.wait({opening, writing}, return_when=asyncio.FIRST_EXCEPTION)
            if writing.done():
                writing.result()
            generation = await opening
            await writing
        except asyncio.CancelledError:  # the caller left: the question stays, with an empty answer
            if await self._take_back(opening, writing):
                await self._finish("incomplete", reason="interrupted")
            raise
        except BaseException:
            if await self._take_back(opening, writing):
                await self._abandon()
            raise
        return generation

    async def _write_question(self, question: Sequence[Item]) -> None:
        if self.is_stored:
            await self.parts.store.begin_turn(
                self._caller.owner,
                self.body,
                conversation_id=self._request.conversation_id,
                previous_id=self._request.previous_response_id,
                last_item_id=self._last_item_id,
                question=question,
                answer=replace(self.answer(), tokens=None),
            )

    async def _take_back(self, opening: asyncio.Future[Generation], writing: asyncio.Future[None]) -> bool:
        """Ends what `_begin` had started; tells whether the question is, or may yet come to be, in the store.

        A write that has begun cannot be called back. Writes keep their order, so what is written next comes after it.
        """
        both: set[asyncio.Future[Any]] = {opening, writing}
        if not opening.cancel() and not opening.cancelled() and opening.exception() is None:
            opening.result().close()
        await asyncio.wait(both, timeout=_TAKE_BACK_S)
        has_failed = writing.done() and (writing.cancelled() or writing.exception() is not None)
        return self.is_stored and not has_failed

    async def _abandon(self) -> None:
        try:
            await self.parts.store.abandon_turn(self.body["id"])
        except GatewayError as error:
            log.warning("a turn that failed could not be taken back: %s", error)
            self.body = self.body | {"status": "failed"}
            self.parts.open_turns.keep_for_later(self.body, self.answer())

    @asynccontextmanager
    async def _closing(self) -> AsyncIterator[None]:
        """Closes the turn exactly once: as completed, incomplete (cut, or the caller left) or failed."""
        try:
            yield
            if self._finish_reason is None:
                raise UpstreamFailed("The inference server's answer broke off. Try again.")
        except GatewayError as error:
            await self._finish("failed", error=error)
            raise
        except BaseException:  # the caller left, or a bug: either way what was generated is kept
            await self._finish("incomplete", reason="interrupted")
            raise
        if self._finish_reason == "length":
            await self._finish("incomplete", reason="max_output_tokens")
        else:
            await self._finish("completed")

    async def _finish(self, status: str, *, reason: str | None = None, error: GatewayError | None = None) -> None:
        self.body = self.body | {
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "error": {"code": error.code, "message": error.message} if error else None,
            "usage": usage_object(self._usage),
        }
        if not self.is_stored:
            return
        answer = self.answer()
        try:
            await self.parts.store.finish_turn(self.body, [answer])
        except GatewayError as unwritten:
            self.parts.open_turns.keep_for_later(self.body, answer)
            if status in ("completed", "incomplete") and reason != "interrupted":
                error_fields = {"code": unwritten.code, "message": unwritten.message}
                self.body = self.body | {"status": "failed", "error": error_fields}
                raise


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Bounds an answer as a whole: an engine that never ends, and a caller who does not read, would hold the slot."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise UpstreamTimeout("The answer took too long and was cut. Ask for a shorter one.") from None


def _item_status(response_status: str) -> str:
    return {"in_progress": "in_progress", "completed": "completed"}.get(response_status, "incomplete")


def _question_item(message: ChatMessage, tokens: int) -> Item:
    kind = "output_text" if message.role == "assistant" else "input_text"
    text = message.text
    content = [output_part(text)] if kind == "output_text" else [{"type": kind, "text": text}]
    return Item(new_id("msg"), message.role, "completed", content, tokens=tokens)
