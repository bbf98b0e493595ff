"""LiteLLM's proxy, installed for the comparison only: into a virtual environment of its own under build/."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import Target
from bench.processes import ROOT, free_port, running, wait_until_up

_FOLDER = ROOT / "build" / "litellm"
_INSTALL_S = 600
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
    if not _install():
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(_CONFIG.format(upstream_port=upstream_port, key=_KEY))
        command = [str(_FOLDER / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
        environ = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        log = Path(folder) / "litellm.log"
        with running([*command, "--port", str(port), "--num_workers", "1"], environ=environ, log=log) as process:
            wait_until_up(f"http://127.0.0.1:{port}/health/liveliness", process, within_s=120)
            yield Target("litellm", process.pid, port, _KEY)


def _install() -> bool:
    """Once; whether it is there now."""
    if (_FOLDER / "installed").exists():
        return True
    print("bench: installing LiteLLM for the comparison (once, into build/litellm) …", file=sys.stderr, flush=True)
    commands = (
        [sys.executable, "-m", "venv", str(_FOLDER)],
        [str(_FOLDER / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"],
    )
    try:
        for command in commands:
            subprocess.run(command, check=True, timeout=_INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"bench: LiteLLM is left out: {error}", file=sys.stderr)
        return False
    (_FOLDER / "installed").touch()
    return True
