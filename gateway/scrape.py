"""What is looked at when Prometheus asks: slots, queue, inference servers, background answers, the database."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from gateway.background import BackgroundAnswers
from gateway.database import Database
from gateway.metrics import build, counter, counters, gauge, gauges
from gateway.turn import Parts


def look_at(parts: Parts, background: BackgroundAnswers, database: Database) -> Iterator[Metric]:
    """The state of a gateway as metrics."""
    admission, upstreams = parts.admission, parts.upstreams
    yield build()
    yield gauge("slots", "Generations that may run at once.", admission.slots)
    yield gauge("slots_in_use", "Slots that are held.", admission.running)
    yield gauge("queue_depth", "Requests that wait for a slot.", admission.waiting)
    refusals = "Requests that got no slot: the waiting room was full, or none came free in time."
    yield counters("admission_refusals", refusals, "reason", admission.refused.items())
    yield gauge("background_answers", "Background answers that run or wait.", len(background))
    states = [
        ((member.name, state), float(is_so))
        for member in upstreams.members
        for state, is_so in (
            ("ready", member.takes),
            ("ejected", member.is_ejected),
            ("draining", member.is_draining),
        )
    ]
    yield gauges("upstream_state", "1 for what holds of an inference server.", ("upstream", "state"), states)
    running = [((member.name,), float(member.open)) for member in upstreams.members]
    yield gauges("upstream_open_answers", "Answers that run at an inference server.", ("upstream",), running)
    yield counter("upstream_retries", "Requests that another inference server was asked for.", upstreams.retries)
    yield gauge("answers_unwritten", "Ends of answers that the database has yet to take.", parts.open_turns.unwritten)
    yield gauge("database_up", "1 unless the database does not answer or the last write failed.", database.is_up)
    yield counter("database_failures", "Reads and writes that the database failed.", database.failures)
