"""One answer of a model as its operator sees it: when what happened, told to metrics, trace and log once, at its end.

Nothing here runs while an answer streams; what a token costs must stay what it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Self

from gateway import telemetry
from gateway.errors import GatewayError
from gateway.metrics import Metrics

log = logging.getLogger("gateway.answer")
TIMES = ("queued_s", "first_token_s", "answer_s")
"""What `ObservedAnswer.timing` tells, in the order of time."""


class ObservedAnswer:
    """Call `queued`, `admitted` and `streaming` as it goes on, and `ended` once."""

    def __init__(self, metrics: Metrics) -> None:
        self.queued_at: float | None = None
        self.admitted_at: float | None = None
        self.first_at: float | None = None
        self.last_at: float | None = None
        self._metrics = metrics
        self._begun_at = time.perf_counter()
        self._notes = telemetry.notes.get()
        self._upstream: str | None = None

    def queued(self) -> None:
        """It asks for a slot."""
        self.queued_at = time.perf_counter()

    def admitted(self) -> None:
        """It has one."""
        self.admitted_at = time.perf_counter()
        if self.queued_at is not None:
            self._metrics.queue_wait.observe(self.admitted_at - self.queued_at)
        if self._notes is not None and self._notes.trace is not None:
            self._notes.trace.begin_answer()

    @property
    def has_slot(self) -> bool:
        """Whether it ever had one."""
        return self.admitted_at is not None

    def streaming(self, upstream: str) -> Self:
        """Its first event has come from `upstream`; the context ends with the last one."""
        self._upstream = upstream
        self.first_at = time.perf_counter()
        ttft_s = self.first_at - (self._begun_at if self._notes is None else self._notes.started_at)
        self._metrics.ttft.observe(ttft_s)
        if self._notes is not None:
            self._notes.upstream, self._notes.ttft_s = upstream, ttft_s
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.last_at = time.perf_counter()

    def timing(self) -> dict[str, float | None]:
        """How long it waited for its slot, then for the first event, and then took to the last one, in seconds."""
        marks = (self.queued_at, self.admitted_at, self.first_at, self.last_at)
        return dict(zip(TIMES, map(_between, marks, marks[1:]), strict=True))

    def ended(self, input_tokens: int, output_tokens: int, error: BaseException | None) -> None:
        """It has come to its end, by `error` or well."""
        code = _code(error)
        if self.admitted_at is not None:
            self._count(input_tokens, output_tokens, code)
        noted = self._notes
        if noted is None:
            return
        if self.first_at is not None:
            noted.input_tokens, noted.output_tokens = input_tokens, output_tokens
        if noted.trace is not None:
            noted.trace.end_answer(self, noted, code)

    def ran_on(self, status: str) -> None:
        """A background answer has ended; the line of its request was written long before."""
        fields = {"status": status, "ms": round((time.perf_counter() - self._begun_at) * 1000, 1)}
        answer = self._notes.answer_fields() if self._notes is not None else {}
        log.info("a background answer ended", extra={"fields": fields | answer})

    def _count(self, input_tokens: int, output_tokens: int, code: str | None) -> None:
        assert self.admitted_at is not None
        metrics = self._metrics
        outcome = "finished" if code is None else "left" if code == "left" else "failed"
        metrics.answer(outcome, time.perf_counter() - self.admitted_at)
        if self.first_at is None or self.last_at is None:
            return
        metrics.input_tokens.inc(input_tokens)
        metrics.output_tokens.inc(output_tokens)
        if output_tokens > 1:
            metrics.per_token.observe((self.last_at - self.first_at) / (output_tokens - 1))
        if code is not None and code.startswith("upstream_"):  # earlier ones were counted where they were tried again
            metrics.upstream_failed(self._upstream or "", code)


def _between(earlier: float | None, later: float | None) -> float | None:
    return None if earlier is None or later is None else round(later - earlier, 3)


def _code(error: BaseException | None) -> str | None:
    """How an answer failed; `left` when it was cancelled: by its caller, by `…/cancel`, by the stop of the gateway."""
    if error is None:
        return None
    if isinstance(error, GatewayError):
        return error.code
    return "left" if isinstance(error, asyncio.CancelledError) else GatewayError.default_code
