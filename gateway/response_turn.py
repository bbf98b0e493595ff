"""A turn of the Responses API: its question and its answer are kept, unless its caller said `store: false`.

The question is written beside the model's work on the prompt, or, when there is a wait for a slot, before its caller is
told so. The turn is closed exactly once, whatever ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from gateway.admission import Slot, Tell
from gateway.auth import Caller
from gateway.chat_object import CollectedCalls, called_by, sampling_of, text_format, tools_of
from gateway.dialects import Chunk, Prompt, Usage
from gateway.errors import GatewayError, UpstreamFailed
from gateway.prompt import Fitted, Message, fit, require_plausible
from gateway.response_object import new_body, usage_object
from gateway.response_schemas import ResponseRequest
from gateway.store import Item, new_id
from gateway.turn import Meter, Parts, within
from gateway.turn_items import (
    bound_to_question,
    call_item,
    counted_text,
    is_readable,
    message_of,
    output_part,
    prompt_messages,
    question_item,
    tools_text,
)
from gateway.upstream import Generation

log = logging.getLogger("gateway.response_turn")
_TAKE_BACK_S = 5.0
_COUNT_S = 2.0
_SMALL = 8
"""A question and history of so small a part of the budget are counted later: they fit in any case."""
Result = TypeVar("Result")


class ResponseTurn:
    """One question and its answer.

    Attributes:
        body: the response object as it is now, without its output.
        is_cancelled: somebody asked to end it; whoever runs it is cancelled then.
        earlier: the content part that the answer began with, before this turn.
    """

    def __init__(self, parts: Parts, caller: Caller, request: ResponseRequest) -> None:
        self.parts = parts
        self.is_stored = request.store is not False
        self.is_background = bool(request.background)
        self.is_cancelled = False
        self.answer_id = new_id("msg")
        self.earlier: dict[str, Any] | None = None
        self.meter = Meter(parts, caller)
        self.body = new_body(new_id("resp"), request, model=parts.settings.model, created_at=int(time.time()))
        self._caller = caller
        self._request = request
        self._last_item_id: str | None = None
        self._slot: Slot | None = None
        self._is_begun = False
        self._has_started = False
        self._counts_later = False
        self._tools = tools_of(request)
        self._texts: list[str] = []
        self._calls = CollectedCalls()
        self._call_ids: list[str] = []
        self._logprobs: list[Mapping[str, Any]] = []
        self._checkpointed = 0
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def owner(self) -> str:
        """Whose answer it is."""
        return self._caller.owner

    @asynccontextmanager
    async def open(self, tell: Tell | None = None) -> AsyncIterator[Generation]:
        """Holds slot, generation and the open turn in the store; closes the turn whatever happens inside.

        `tell` is called with the place when there is a wait for the slot, after the question is on disk. A background
        turn always begins so, with the place 0 first. A turn that fails before that leaves nothing behind. Raises like
        ChatTurn.open, and NotFound, ConversationBusy, HistoryUnavailable.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.parts.open_turns.running())
            await stack.enter_async_context(self.meter.running())
            fitted, question = await self._fit()
            self.body["truncated_items"] = fitted.dropped
            if self.meter.counts_tokens:
                fitted = await self._charged(fitted)

            async def wait_in_line(place: int) -> None:
                if not self._is_begun:
                    await self._enter_line(question)
                if tell is not None:
                    await tell(place)

            await stack.enter_async_context(self._closing())
            if self.is_background:
                await wait_in_line(0)
            observed = self.meter.observed
            observed.queued()
            lease = self.parts.admission.lease(self._caller.owner, wait_in_line if tell is not None else None)
            self._slot = await stack.enter_async_context(lease)
            observed.admitted()
            generation = await self._begin(fitted, question)
            self._has_started = True
            await stack.enter_async_context(self.parts.open_turns.checkpointed(self))
            # Closed before all else: the engine is free before the end is written.
            with generation, observed.streaming(generation.served_by):
                async with within(self.parts.settings.timeouts.turn_s):
                    yield generation

    def take(self, chunk: Chunk) -> str:
        """Adds one event of the answer; returns the text that it adds."""
        self.meter.events += 1
        if chunk.text:
            self._texts.append(chunk.text)
        if chunk.tool_calls:
            self._calls.take(chunk.tool_calls)
        if chunk.logprobs:
            self._logprobs += chunk.logprobs
        self._finish_reason = chunk.finish_reason or self._finish_reason
        if chunk.usage is not None:
            self._usage = chunk.usage
            self.meter.note(chunk.usage)
        return chunk.text

    def take_text(self, text: str) -> None:
        """Adds an event that only adds a piece of text."""
        self.meter.events += 1
        self._texts.append(text)

    def take_texts(self, texts: Sequence[str]) -> None:
        """Adds events that each only add a piece of text."""
        self.meter.events += len(texts)
        self._texts.extend(texts)

    def answer(self) -> Item:
        """The answer so far, or as it ended."""
        self._checkpointed = len(self._texts)
        return Item(
            id=self.answer_id,
            role="assistant",
            status=_item_status(self.body["status"]),
            content=[output_part("".join(self._texts), self._logprobs)],
            is_output=True,
            tokens=self._usage.output_tokens if self._usage else None,
            response_id=self.body["id"],
        )

    def answers(self) -> list[Item]:
        """All items of the output, so far or as it ended: the message, unless there are only calls, and the calls."""
        message, calls = self.answer(), self._calls.whole()
        while len(self._call_ids) < len(calls):
            self._call_ids.append(new_id("fc"))
        items = [
            call_item(item_id, call, status=message.status, response_id=message.response_id)
            for item_id, call in zip(self._call_ids, calls, strict=True)
        ]
        return [message, *items] if message.text or not items else items

    def has_news(self) -> bool:
        """Whether the answer has grown since it was last taken."""
        return len(self._texts) > self._checkpointed

    async def _fit(self) -> tuple[Fitted, list[Item]]:
        """The prompt that fits, and the question's items with their tokens counted."""
        request, context = self._request, self.parts.settings.context_tokens
        items = [question_item(entry) for entry in request.input_items()]
        size = sum(len(counted_text(item).encode()) for item in items) + len((request.instructions or "").encode())
        require_plausible(size, context, "input")
        history = await self._history()
        spoken = sum(message.tokens for message in history)
        self._counts_later = (spoken + size) * _SMALL <= self._budget and not self.meter.counts_tokens
        if self._counts_later:  # beside the engine's work on the prompt; until then each byte is a token
            asked, question = [message_of(item, len(counted_text(item).encode())) for item in items], items
        else:
            asked = await self._all_counted(items)
            question = [replace(item, tokens=message.tokens) for item, message in zip(items, asked, strict=True)]
        return await self._fitted(history, asked), question

    @property
    def _budget(self) -> int:
        context = self.parts.settings.context_tokens
        return min(self._request.max_total_tokens or context, context)

    async def _fitted(self, history: Sequence[Message], asked: Sequence[Message]) -> Fitted:
        """What the model gets: instructions and `asked` always, of `history` what has room. Raises ContextTooLong."""
        request = self._request
        system = [await self._system(request.instructions)] if request.instructions else []
        bound = len(history) - bound_to_question(history, asked)
        return fit(
            [*system, *history[:bound]],
            [*history[bound:], *asked],
            budget=self._budget - await self._tools_tokens(),
            max_output_tokens=request.max_output_tokens,
            may_truncate=request.truncation == "auto",
        )

    async def _tools_tokens(self) -> int:
        return await self.parts.upstreams.count(tools_text(self._tools)) if self._tools else 0

    async def _charged(self, fitted: Fitted) -> Fitted:
        tokens = await self.parts.upstreams.count_prompt(self._prompt(fitted))  # its template and tools, too
        is_limited = self._request.max_output_tokens is not None
        longest = await self.meter.charge_tokens(tokens, fitted.max_tokens, is_limited=is_limited)
        return replace(fitted, max_tokens=longest)

    async def _history(self) -> list[Message]:
        request = self._request
        items = await self.parts.store.history(
            self._caller.owner, request.conversation_id, request.previous_response_id
        )
        self._last_item_id = items[-1].id if items else None
        return await self._all_counted([item for item in items if is_readable(item)])

    async def _all_counted(self, items: Sequence[Item]) -> list[Message]:
        return await asyncio.gather(*(self._counted(item) for item in items))

    async def _counted(self, item: Item) -> Message:
        tokens = item.tokens
        if tokens is None:
            tokens = await self.parts.upstreams.count(counted_text(item))
        return message_of(item, tokens)

    async def _system(self, text: str) -> Message:
        return Message("system", text, await self.parts.upstreams.count(text))

    async def _enter_line(self, question: Sequence[Item]) -> None:
        """Writes the question of a turn that has to wait; from now on its end is written, too."""
        self.body = self.body | {"status": "queued"}
        writing = asyncio.ensure_future(self._write_question(question))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # the caller left: the question stays, with an empty answer
            await _to_its_end(asyncio.wait({writing}, timeout=_TAKE_BACK_S))
            self._is_begun = self._may_be_written(writing)
            raise
        self._is_begun = True

    async def _begin(self, fitted: Fitted, question: Sequence[Item]) -> Generation:
        """Opens the generation while the question is written. When either fails, neither remains."""
        prompt = self._prompt(fitted)
        if self._is_begun:
            self.body = self.body | {"status": "in_progress"}
            if self.is_stored:
                await self.parts.store.start_turn(self.body)
            return await self.parts.upstreams.open(prompt, self._slot)
        opening = asyncio.ensure_future(self.parts.upstreams.open(prompt, self._slot))
        writing = asyncio.ensure_future(self._write_question(question))
        try:
            await asyncio.wait([opening, writing], return_when=asyncio.FIRST_EXCEPTION)
            if writing.done():
                writing.result()
            generation = await opening
            await writing
        except asyncio.CancelledError:  # the caller left: the question stays, with an empty answer
            self._is_begun = await _to_its_end(self._take_back(opening, writing))
            raise
        except BaseException:
            await _to_its_end(self._undo(opening, writing))
            raise
        self._is_begun = True
        return generation

    def _prompt(self, fitted: Fitted) -> Prompt:
        return Prompt(
            messages=prompt_messages(fitted.messages),
            max_tokens=fitted.max_tokens,
            tools=self._tools,
            must_call=called_by(self._request.choice, self._tools),
            parallel_tool_calls=self._request.parallel_tool_calls,
            response_format=text_format(self._request),
            top_logprobs=(self._request.top_logprobs or 0) if self._request.include else None,
            **sampling_of(self._request),
        )

    async def _write_question(self, question: Sequence[Item]) -> None:
        if self.is_stored:
            if self._counts_later:
                with contextlib.suppress(GatewayError, TimeoutError):  # then the next turn counts them
                    async with asyncio.timeout(_COUNT_S):  # a question does not wait for an engine to be stored
                        counted = await self._all_counted(question)
                    question = [
                        replace(item, tokens=message.tokens) for item, message in zip(question, counted, strict=True)
                    ]
            await self.parts.store.begin_turn(
                self._caller.owner,
                self.body,
                conversation_id=self._request.conversation_id,
                previous_id=self._request.previous_response_id,
                last_item_id=self._last_item_id,
                question=question,
                answer=replace(self.answer(), tokens=None),
            )

    async def _undo(self, opening: asyncio.Future[Generation], writing: asyncio.Future[None]) -> None:
        if await self._take_back(opening, writing):
            await self._abandon()

    async def _take_back(self, opening: asyncio.Future[Generation], writing: asyncio.Future[None]) -> bool:
        """Ends what `_begin` had started; tells whether the question is, or may yet come to be, in the store.

        A write that has begun cannot be called back. Writes keep their order, so what is written next comes after it.
        """
        both: set[asyncio.Future[Any]] = {opening, writing}
        if not opening.cancel() and not opening.cancelled() and opening.exception() is None:
            opening.result().close()
        await asyncio.wait(both, timeout=_TAKE_BACK_S)
        return self._may_be_written(writing)

    def _may_be_written(self, writing: asyncio.Future[None]) -> bool:
        has_failed = writing.done() and (writing.cancelled() or writing.exception() is not None)
        return self.is_stored and not has_failed

    async def _abandon(self) -> None:
        try:
            await self.parts.store.abandon_turn(self.body["id"])
        except GatewayError as error:
            log.warning("a turn that failed could not be taken back: %s", error)
            self.body = self.body | {"status": "failed"}
            self.parts.open_turns.keep_for_later(self.body, self.answers())

    @asynccontextmanager
    async def _closing(self) -> AsyncIterator[None]:
        """Closes a turn that has begun exactly once: completed, incomplete (cut, caller left), failed, cancelled."""
        try:
            yield
            if self._finish_reason is None:
                raise UpstreamFailed("The inference server's answer broke off. Try again.")
        except GatewayError as error:
            if self._is_begun:
                await self._finish("failed", error=error)
            raise
        except BaseException:  # cancelled, the caller left, or a bug: either way what was generated is kept
            if self._is_begun:
                await (self._finish("cancelled") if self.is_cancelled else self._finish("incomplete", "interrupted"))
            raise
        if self._finish_reason == "length":
            await self._finish("incomplete", "max_output_tokens")
        else:
            await self._finish("completed")

    async def _finish(self, status: str, reason: str | None = None, *, error: GatewayError | None = None) -> None:
        self.body = self.body | {
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "error": {"code": error.code, "message": error.message} if error else None,
            "usage": usage_object(self._usage),
            "timing": self._timing(),
        }
        if not self.is_stored:
            return
        self.parts.metrics.turn_ended(status)
        answers, cuts = self.answers(), self.cuts()
        try:
            await _to_its_end(self.parts.store.finish_turn(self.body, answers, cuts=cuts))
        except GatewayError as unwritten:
            self.parts.open_turns.keep_for_later(self.body, answers, cuts)
            if status in ("completed", "incomplete") and reason != "interrupted":
                error_fields = {"code": unwritten.code, "message": unwritten.message}
                self.body = self.body | {"status": "failed", "error": error_fields}
                raise

    def _timing(self) -> dict[str, float | None]:
        return self.meter.observed.timing()

    def cuts(self) -> list[int] | None:
        """Where each piece of a background answer ends, in characters: its events can be made again from them."""
        if not self.is_background or not self._has_started:
            return None
        ends, end = [], 0
        for text in self._texts:
            end += len(text)
            ends.append(end)
        return ends


async def _to_its_end(work: Awaitable[Result]) -> Result:
    """Awaits what must not be left half done; a caller who leaves meanwhile changes nothing, since the end is near."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    return task.result()


def _item_status(response_status: str) -> str:
    return {"in_progress": "in_progress", "queued": "in_progress", "completed": "completed"}.get(
        response_status, "incomplete"
    )
