"""Logs as JSON, one object a line, and what is noted of a request while it is answered.

The notes go with the task, so every line that belongs to a request carries its id without anybody passing it on.
Nothing here or in what uses it ever takes a prompt, an answer, a key or an end user's name: a name is easily guessed
from its hash, so no hash of it is logged either. The key's id says which program asked.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

_NO_HEADERS: Mapping[str, str] = {}


class Moments(Protocol):
    """When what happened to an answer, by `time.perf_counter`; None for what did not."""

    queued_at: float | None
    admitted_at: float | None
    first_at: float | None
    last_at: float | None


class Trace(Protocol):
    """The trace of one request; there is one when traces are configured."""

    headers: Mapping[str, str]
    """What the inference server is sent, so that its spans belong to the same trace."""

    def begin_answer(self) -> None:
        """A slot is there: from now on `headers` name the span of the answer."""

    def end_answer(self, moments: Moments, notes: Notes, code: str | None) -> None:
        """The answer has ended, `code` says how when it failed."""

    def end(self, notes: Notes) -> None:
        """The request has ended."""


@dataclass
class Notes:
    """What is known of one request so far, for its access line and its trace.

    Attributes:
        route: its template, such as `/v1/responses/{response_id}`; None outside of the API.
        status: of its answer; 0 while there is none.
        key_id: of the API key, never the key.
        has_left: its caller closed the connection before the answer was whole.
        upstream: the id of the inference server that answered.
    """

    request_id: str
    method: str
    started_at: float = field(default_factory=time.perf_counter)
    route: str | None = None
    status: int = 0
    key_id: str | None = None
    has_left: bool = False
    upstream: str | None = None
    ttft_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    trace: Trace | None = None

    def fields(self) -> dict[str, Any]:
        """Those of the access line."""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": _ms(time.perf_counter() - self.started_at),
            "key_id": self.key_id,
        } | self.answer_fields()

    def answer_fields(self) -> dict[str, Any]:
        """Those about an answer of a model; none when there was none."""
        if self.upstream is None:
            return {}
        return {
            "upstream": self.upstream,
            "ttft_ms": None if self.ttft_s is None else _ms(self.ttft_s),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }


notes: ContextVar[Notes | None] = ContextVar("notes", default=None)
"""Those of the request that the current task belongs to."""


def note_route(template: str) -> None:
    """Notes which route answers."""
    if (noted := notes.get()) is not None:
        noted.route = template


def note_key(key_id: str) -> None:
    """Notes whose request it is."""
    if (noted := notes.get()) is not None:
        noted.key_id = key_id


def upstream_headers() -> Mapping[str, str]:
    """What a request to an inference server carries of the request that it is for: its id, and its trace."""
    noted = notes.get()
    if noted is None:
        return _NO_HEADERS
    named = {"x-request-id": noted.request_id}
    return named if noted.trace is None else {**named, **noted.trace.headers}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the request's id and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (noted := notes.get()) is not None:
            entry["request_id"] = noted.request_id
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str) -> None:
    """Sends all logs of this process to standard error, as JSON."""
    logging.raiseExceptions = False  # a log that cannot be written must not fill the terminal
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
