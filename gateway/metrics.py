"""What Prometheus is told. Names are in docs/api.md.

What happens is counted when it happens; what is (slots, queue, inference servers) is looked at when somebody asks.
Labels are few and bounded: routes by their template, the public model id, our own codes; never keys, users or texts.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import VERSION
from gateway.errors import GatewayError, RateLimited

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_ANSWERS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    Args:
        model: the public id of the model.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        count, histogram = self._counter, self._histogram
        self._requests = count("requests", "Requests by route, method and status.", "route", "method", "status")
        tokens = count("tokens", "Tokens of prompts and answers.", "model", "direction")
        self.input_tokens = tokens.labels(model, "input")
        self.output_tokens = tokens.labels(model, "output")
        ttft = histogram("time_to_first_token_seconds", "From the request to the first event.", _WAITS_S, "model")
        self.ttft = ttft.labels(model)
        per_token = "Between the first and the last event of an answer, divided by its tokens but the first."
        self.per_token = histogram("time_per_output_token_seconds", per_token, _PER_TOKEN_S, "model").labels(model)
        self._answers = histogram(
            "answer_seconds", "From the slot to the end of the answer.", _ANSWERS_S, "model", "outcome"
        )
        self.queue_wait = histogram("queue_wait_seconds", "From asking for a slot to getting it.", _WAITS_S)
        self._refusals = count("limit_refusals", "Requests that a limit refused.", "limit")
        self._upstream_failures = count("upstream_failures", "Failures of inference servers.", "upstream", "code")
        self._departures = count("departures", "Callers that left before their answer was whole.", "phase")
        self._turns = count("stored_turns", "Stored turns by their final status.", "status")
        ready = "1 when an inference server can serve a completion now."
        self.is_ready = Gauge("gateway_model_ready", ready, registry=self.registry)
        self._model = model

    def request(self, route: str, method: str, status: int) -> None:
        """A request of the API has ended."""
        self._requests.labels(route, method if method in METHODS else "other", str(status)).inc()

    def answer(self, outcome: str, seconds: float) -> None:
        """An answer has ended: `finished`, `failed` or `left`."""
        self._answers.labels(self._model, outcome).observe(seconds)

    def refused(self, error: GatewayError) -> None:
        """A limit did not let a request pass, or nobody could tell."""
        self._refusals.labels(error.limit if isinstance(error, RateLimited) else "unavailable").inc()

    def upstream_failed(self, upstream: str, code: str) -> None:
        """An inference server failed, before or in an answer."""
        self._upstream_failures.labels(upstream, code).inc()

    def departed(self, *, has_begun: bool) -> None:
        """A caller has left."""
        self._departures.labels("in_answer" if has_begun else "before_first_token").inc()

    def turn_ended(self, status: str) -> None:
        """A stored turn has got its final status."""
        self._turns.labels(status).inc()

    def observe(self, look: Callable[[], Iterable[Metric]]) -> None:
        """Has `look` called at each scrape."""
        self.registry.register(_Looks(look))

    def text(self) -> bytes:
        """All of it, in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"gateway_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"gateway_{name}", what, labels, buckets=buckets, registry=self.registry)


class _Looks(Collector):
    def __init__(self, look: Callable[[], Iterable[Metric]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        yield from self._look()


def gauge(name: str, what: str, value: float) -> Metric:
    """One number that goes up and down."""
    return GaugeMetricFamily(f"gateway_{name}", what, value=value)


def gauges(name: str, what: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """Several of them."""
    family = GaugeMetricFamily(f"gateway_{name}", what, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def counter(name: str, what: str, value: float) -> Metric:
    """One number that only grows, counted elsewhere."""
    return CounterMetricFamily(f"gateway_{name}", what, value=value)


def counters(name: str, what: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Several of them."""
    family = CounterMetricFamily(f"gateway_{name}", what, labels=(label,))
    for value, number in values:
        family.add_metric((value,), number)
    return family


def build() -> Metric:
    """Which version this is."""
    labels = (("version", "python"), [((VERSION, platform.python_version()), 1.0)])
    return gauges("build_info", "The version that runs.", *labels)
