"""What the model's side tells of itself: the file `DATA_DIR/status.json` (its format is in inference/status.py).

A small file, replaced in one step. Whether the engine answers just now is not in it: ask gateway/upstreams.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.errors import UpstreamNotReady

_UNKNOWN: dict[str, Any] = {"stage": "unknown", "done": 0, "total": 0, "unit": "", "message": "", "since": None}
_COME_BACK_S = 60.0


def written_status(data_dir: Path) -> dict[str, Any]:
    """What was written last; stage `unknown` where there is nothing that can be read."""
    try:
        written = json.loads((data_dir / "status.json").read_bytes())
        return {name: written.get(name, default) for name, default in _UNKNOWN.items()}
    except (OSError, ValueError, AttributeError):
        return dict(_UNKNOWN)


def start_failure(data_dir: Path) -> UpstreamNotReady | None:
    """The error for callers when the model could not be started; None when it may yet come.

    The reason, which may name folders and settings, stays in the log and in /v1/status. OpenAI's SDKs are told not to
    try again by themselves: somebody has to do something first.
    """
    if written_status(data_dir)["stage"] != "failed":
        return None
    return UpstreamNotReady(
        "The model could not be started. Whoever runs this server finds the reason in its log, and at /v1/status.",
        code="upstream_start_failed",
        retry_after_s=_COME_BACK_S,
        headers={"x-should-retry": "false"},
    )
