"""LMDeploy's API server, the GPU engine that pip installs; it gets the folder in Llama layout.

Its key would be an argument, which every user of the machine can read; so a short program of Python's fills in the
arguments from the environment and calls LMDeploy's own entry point.
"""

from __future__ import annotations

import re
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference.engines.lmdeploy_causes import explain_lmdeploy
from inference.plan import LaunchPlan
from inference.probe import ProbeFailed, generate_one_token, get
from inference.settings import child_environment
from inference.sockets import free_ports
from inference.status import Progress

KEY_VARIABLE = "INFERENCE_ENGINE_KEY"
PROGRAM = (
    "import os, sys; sys.argv[0] = 'lmdeploy'; "
    f"sys.argv += ['--api-keys', os.environ.pop('{KEY_VARIABLE}')]; "
    "from lmdeploy.cli import run; run()"
)
KEEP_ALIVE_S = "75"  # its 5 s would close the connections that the gateway keeps
# What would change where it looks for models or what it writes, and tokens of hubs that it does not need.
UNWANTED_VARIABLES = frozenset(
    {"LMDEPLOY_USE_MODELSCOPE", "LMDEPLOY_LOG_FILE", "TM_LOG_LEVEL", "UVICORN_LOG_LEVEL", "HF_TOKEN"}
    | {"HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "OPENXLAB_AK", "OPENXLAB_SK"}
)


@dataclass(frozen=True)
class LmDeploy:
    """`program` is LMDeploy's command on the PATH; the Python beside it runs the server. `folder` is private."""

    plan: LaunchPlan
    folder: Path
    program: str
    model_folder: Path | None = None
    port: int = field(default_factory=lambda: free_ports(1)[0])
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    dialect: str = "lmdeploy"
    parent_death_signal: int = signal.SIGKILL
    # SIGTERM waits for running answers without limit, and only interrupts, two of them, cut these short.
    stop_signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGINT)

    def serving(self, model_folder: Path) -> LmDeploy:
        """The same engine (same endpoint, same key) with its model."""
        return replace(self, model_folder=model_folder)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def description(self) -> str:
        return f"LMDeploy: {self.plan.model.name}, {self.plan.on_card}"

    def argv(self) -> list[str]:
        """`--chat-template hf`: it would choose one by words in the path. No `--max-concurrent-requests`: with that
        streams are not limited, and departed clients are not noticed.
        """
        assert self.model_folder is not None, "serving(path) comes first"
        gpu = self.plan.on_card
        options: dict[str, object] = {
            "--model-name": self.plan.model.name,
            "--server-name": "127.0.0.1",
            "--server-port": self.port,
            "--chat-template": "hf",
            "--backend": "turbomind",
            "--tp": gpu.cards,
            "--session-len": gpu.context_tokens,
            "--max-batch-size": gpu.requests,
            "--max-prefill-token-num": gpu.prefill_tokens,
            "--cache-max-entry-count": gpu.cache_ratio,
            "--quant-policy": 0 if gpu.kv_bits == 16 else gpu.kv_bits,
            "--log-level": "INFO",
        }
        words = [str(word) for pair in options.items() for word in pair]
        python = str(Path(self.program).with_name("python"))
        serve = ["serve", "api_server", str(self.model_folder), *words]
        return [python, "-c", PROGRAM, *serve, "--enable-prefix-caching", "--disable-fastapi-docs"]

    def environment(self) -> dict[str, str]:
        own = {KEY_VARIABLE: self.api_key, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        own |= {"UVICORN_TIMEOUT_KEEP_ALIVE": KEEP_ALIVE_S, "NO_COLOR": "1", "TM_LOG_COLOR": "0"}
        return child_environment(without=UNWANTED_VARIABLES, **own)

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    def clear_the_way(self) -> None:
        """It leaves nothing behind."""

    def news_of(self, line: str) -> Progress | None:
        if match := re.search(r"Loading:\s+(\d+)%\|.*?\| (\d+)/(\d+)", line):
            return Progress("load", message="loading the model: {1} of {2} parts ({0} %)".format(*match.groups()))
        if "Object cache budget" in line or "Warm-up lengths" in line:
            return Progress("warmup", message="trying prompts of all lengths")
        return Progress("warmup", message="generating a first token") if "Uvicorn running on" in line else None

    def redacted(self, line: str) -> str:
        return line.replace(self.api_key, "***")

    def explain(self, tail: Sequence[str], returncode: int) -> str:
        return explain_lmdeploy(tail, returncode, self.plan)

    async def generate_one_token(self, timeout_s: float) -> None:
        await generate_one_token(self.endpoint, self.api_key, self.plan.model.name, timeout_s=timeout_s)

    async def check_alive(self, timeout_s: float) -> None:
        """It watches its own scheduler and says 503 when that has stood still for 90 s."""
        status, answer = await get(self.endpoint, "/health", timeout_s=timeout_s)
        if status != 200:
            state = answer.get("status") if isinstance(answer, dict) else None
            raise ProbeFailed(f"/health answers {status} ({state or 'no reason given'})")
