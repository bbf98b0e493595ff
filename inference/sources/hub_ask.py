"""Asks `hub_child.py` one thing and waits for its answer; it is killed when this is left early."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.accounts import Account
from inference.settings import child_environment
from inference.sources.child import run
from inference.sources.hub_child import MARK, SENT

PROGRAM = Path(__file__).with_name("hub_child.py")
HUGGINGFACE_ENVIRON = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def ask_hub(
    job: Mapping[str, Any],
    environ: Mapping[str, str],
    account: Account,
    stop: threading.Event,
    *,
    rows: Sequence[Sequence[str]] = (),
    on_tick: Callable[[], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The child's answer; with `reason` and `said` in it when it failed. `rows` are files to send: name, path, SHA-256.

    Raises Cancelled.
    """
    answers: list[str] = []

    def keep(line: str) -> None:
        if line.startswith(MARK):
            answers.append(line.removeprefix(MARK))
        elif line.startswith(SENT) and on_bytes:
            on_bytes(int(line.removeprefix(SENT)))

    token = account.token.value if account.token else ""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({**job, "rows": rows}, file)  # in a file: a command line may be too short for many names
        file.flush()
        argv = [sys.executable, "-P", str(PROGRAM), file.name]
        code = run(argv, child_environment(**environ, INTERNLM_HUB_TOKEN=token), keep, stop, on_tick=on_tick)
    answer = json.loads(answers[-1]) if answers else {"reason": "other", "said": f"its child ended with code {code}"}
    return dict(answer)
