"""LiteLLM's proxy, installed for the comparison only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.install import installed
from bench.load import Target
from bench.processes import free_port, running, wait_until_up

_KEY = "sk-bench"
_CONFIG = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{upstream_port}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""


@contextmanager
def proxy(upstream_port: int) -> Iterator[Target | None]:
    """The proxy with one worker and no log, in front of the mock; None where it cannot be installed."""
    programs = installed("litellm", "litellm[proxy]")
    if programs is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(_CONFIG.format(upstream_port=upstream_port, key=_KEY))
        command = [str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
        environ = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        log = Path(folder) / "litellm.log"
        with running([*command, "--port", str(port), "--num_workers", "1"], environ=environ, log=log) as process:
            wait_until_up(f"http://127.0.0.1:{port}/health/liveliness", process, within_s=120)
            yield Target("litellm", process.pid, port, _KEY)
