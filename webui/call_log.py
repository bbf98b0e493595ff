"""Each call of the gateway has a request id, and each that fails one JSON line with it; the gateway logs it, too."""

from __future__ import annotations

import json
import logging
import secrets
import sys
from typing import Any

log = logging.getLogger("webui.calls")
HEADER = "X-Request-Id"


def new_id() -> str:
    """For one call."""
    return "ui_" + secrets.token_hex(12)


def failed(request_id: str | None, method: str, path: str, *, status: int | None = None, error: str = "") -> None:
    """A call was refused, failed at the gateway, or got no whole answer; `error` says what broke it then."""
    fields: dict[str, object] = {"request_id": request_id, "method": method, "path": path}
    fields |= {"error": error} if status is None else {"status": status}
    is_refused = status is not None and status < 500
    level = logging.INFO if is_refused else logging.WARNING
    log.log(level, "a call of the gateway failed", extra={"fields": fields})


def configure() -> None:
    """All logs of this process go to standard error as JSON, one object a line."""
    logging.raiseExceptions = False  # a log that cannot be written must not fill the terminal
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("webui").setLevel(logging.INFO)


class _JsonLines(logging.Formatter):
    """In the form of the gateway's: time, level, logger, message, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)
