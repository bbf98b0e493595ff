"""OpenTelemetry traces, where they are configured; otherwise this module is not even imported.

A request is a span of its own, in its caller's trace when there is one. An answer of the model in it is another one
(`chat` and the model's name, as OpenTelemetry's conventions for GenAI have it), whose id goes on to the inference
server, with children: the opening until the first event, the stream; the wait for a slot stands beside it. All but the
two outer ones are made at the end from what was noted, so nothing is traced while an answer streams. Prompts and
answers are in none of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import VERSION
from gateway.settings import TraceSettings
from gateway.telemetry import Moments, Notes

_CLOSE_S = 3.0
_PROPAGATOR = TraceContextTextMapPropagator()
_PASSED_ON = ("traceparent", "tracestate")


class Tracing:
    """Makes the traces and has them sent, from a thread of its own. What a collector does not take is dropped.

    Args:
        model: the public id of the model.
    """

    def __init__(self, settings: TraceSettings, model: str) -> None:
        resource = Resource.create({"service.name": settings.service_name, "service.version": VERSION})
        self._provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(settings.sampled))
        exporter = OTLPSpanExporter(
            endpoint=settings.endpoint, headers=dict(settings.headers), timeout=settings.timeout_s
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gateway", VERSION)
        self._model = model
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # a collector that is away: once is enough
        logging.getLogger("urllib3").setLevel(logging.WARNING)

    def begin(self, notes: Notes, headers: Iterable[tuple[bytes, bytes]]) -> RequestTrace:
        """The trace of a request with these headers."""
        carrier = {}
        for name, value in headers:
            if (text := name.decode("latin-1").lower()) in _PASSED_ON:
                carrier[text] = value.decode("latin-1")
        context = _PROPAGATOR.extract(carrier, Context())
        span = self._tracer.start_span(
            notes.method, context, SpanKind.SERVER, attributes={"http.request.method": notes.method}
        )
        return RequestTrace(self._tracer, span, self._model)

    def close(self) -> None:
        """Sends what is left; a collector that is away holds nobody up for longer than seconds."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


class RequestTrace:
    """The spans of one request; `headers` continue the trace at the inference server."""

    def __init__(self, tracer: Tracer, span: Span, model: str) -> None:
        self.headers: Mapping[str, str] = _headers_of(span)
        self._tracer = tracer
        self._span = span
        self._model = model
        self._answer: Span | None = None

    def begin_answer(self) -> None:
        """See `gateway.telemetry.Trace`."""
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": self._model}
        within = set_span_in_context(self._span, Context())
        self._answer = self._tracer.start_span(f"chat {self._model}", within, SpanKind.CLIENT, attributes=attributes)
        self.headers = _headers_of(self._answer)

    def end_answer(self, moments: Moments, notes: Notes, code: str | None) -> None:
        """See `gateway.telemetry.Trace`."""
        if moments.queued_at is not None:
            self._child("queue", self._span, moments.queued_at, moments.admitted_at)
        answer = self._answer
        if answer is None or moments.admitted_at is None:
            return
        if moments.first_at is not None:
            self._child("open", answer, moments.admitted_at, moments.first_at)
            self._child("stream", answer, moments.first_at, moments.last_at)
            answer.set_attribute("gen_ai.response.model", self._model)
            answer.set_attribute("gen_ai.usage.input_tokens", notes.input_tokens or 0)
            answer.set_attribute("gen_ai.usage.output_tokens", notes.output_tokens or 0)
            answer.set_attribute("gateway.upstream", notes.upstream or "")
            answer.set_attribute("gateway.time_to_first_token_ms", round((notes.ttft_s or 0) * 1000, 1))
        else:
            self._child("open", answer, moments.admitted_at, None)
        if code is not None:
            answer.set_attribute("error.type", code)
            answer.set_status(Status(StatusCode.ERROR))
        answer.end()

    def end(self, notes: Notes) -> None:
        """See `gateway.telemetry.Trace`."""
        span = self._span
        if notes.route is not None:
            span.update_name(f"{notes.method} {notes.route}")
            span.set_attribute("http.route", notes.route)
        span.set_attribute("http.response.status_code", notes.status)
        span.set_attribute("gateway.request_id", notes.request_id)
        if notes.key_id is not None:
            span.set_attribute("gateway.key_id", notes.key_id)
        if notes.status >= 500:
            span.set_attribute("error.type", str(notes.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _child(self, name: str, parent: Span, begun_at: float, ended_at: float | None) -> None:
        """A span that has ended; `ended_at` is None when it ends now."""
        within = set_span_in_context(parent, Context())
        span = self._tracer.start_span(name, within, start_time=_unix_ns(begun_at))
        span.end(_unix_ns(ended_at if ended_at is not None else time.perf_counter()))


def _headers_of(span: Span) -> Mapping[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
    return carrier


def _unix_ns(at: float) -> int:
    """A moment of `time.perf_counter` as Unix time."""
    return time.time_ns() - round((time.perf_counter() - at) * 1e9)
