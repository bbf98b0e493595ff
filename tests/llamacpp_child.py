"""llama.cpp with any GGUF file, in a child process and on a Unix socket, as the app runs it; for greedy answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference.engines.llamacpp import SERVER
from inference.engines.openmp import openmp_environment
from inference.settings import child_environment
from tests.llamacpp_wire import asked, unchunked

Ask = Callable[[str, dict[str, Any]], Any]
START_S = 120.0


@contextmanager
def llamacpp(model_file: Path, folder: Path, *, context: int = 1024) -> Iterator[Ask]:
    """A function that posts a body to a path and returns the answer."""
    folder.mkdir(parents=True, exist_ok=True)
    socket, log = folder / "llama.sock", folder / "llama.log"
    config = {"model_file": str(model_file), "alias": "tested", "socket": str(socket), "threads": 1, "slots": 1}
    config |= {"context_tokens": context, "prompt_cache_mib": 0}
    base = child_environment(INFERENCE_ENGINE_KEY="key", GGML_NO_BACKTRACE="1", PYTHONUNBUFFERED="1")
    environment = base | openmp_environment(folder, base)
    with log.open("wb") as out:
        argv = [sys.executable, "-P", str(SERVER), json.dumps(config)]
        process = subprocess.Popen(argv, env=environment, stdout=out, stderr=subprocess.STDOUT)

    def ask(path: str, body: dict[str, Any]) -> Any:
        head, _, content = asked(f"unix:{socket}", "POST", path, body, key="key").partition(b"\r\n\r\n")
        answer = json.loads(unchunked(content) if b"chunked" in head else content)
        assert head.split()[1] == b"200", answer
        return answer

    try:
        _wait(process, ask, log)
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], ask: Ask, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ask("/tokenize", {"content": "a"})
            return
        except (OSError, AssertionError, IndexError, ValueError):
            time.sleep(0.05)
    pytest.fail(f"llama.cpp did not start (exit code {process.poll()}):\n{log.read_text(errors='replace')[-4000:]}")
