"""Text Generation Inference by its launcher on the PATH (as inside its image), for NVIDIA cards.

Its command line and its log are the same in a container, so `tgi_container.py` takes them from here. The launcher
takes every variable of its environment that has a flag's name, so those are kept from it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference.engines.tgi_causes import explain_tgi
from inference.plan import LaunchPlan
from inference.probe import ProbeFailed, generate_one_token, get
from inference.settings import child_environment
from inference.sockets import free_ports
from inference.status import Progress

LEAST_PAYLOAD_BYTES = 2_000_000  # its default
PAYLOAD_BYTES_PER_TOKEN = 64  # JSON escapes a Chinese character with 6 bytes; generous for long words
STOP_MARGIN_S = 4  # its shard takes about 3 s to end, after the router
# Each flag of text-generation-launcher is also a variable; then what its server reads besides, and tokens of hubs.
FLAG_VARIABLES = frozenset(
    """MODEL_ID REVISION VALIDATION_WORKERS SHARDED NUM_SHARD QUANTIZE SPECULATE DTYPE KV_CACHE_DTYPE TRUST_REMOTE_CODE
    MAX_CONCURRENT_REQUESTS MAX_BEST_OF MAX_STOP_SEQUENCES MAX_TOP_N_TOKENS MAX_INPUT_TOKENS MAX_INPUT_LENGTH
    MAX_TOTAL_TOKENS WAITING_SERVED_RATIO MAX_BATCH_PREFILL_TOKENS MAX_BATCH_TOTAL_TOKENS MAX_WAITING_TOKENS
    MAX_BATCH_SIZE CUDA_GRAPHS HOSTNAME PORT PROMETHEUS_PORT SHARD_UDS_PATH MASTER_ADDR MASTER_PORT
    HUGGINGFACE_HUB_CACHE WEIGHTS_CACHE_OVERRIDE DISABLE_CUSTOM_KERNELS CUDA_MEMORY_FRACTION ROPE_SCALING ROPE_FACTOR
    JSON_OUTPUT OTLP_ENDPOINT OTLP_SERVICE_NAME CORS_ALLOW_ORIGIN API_KEY WATERMARK_GAMMA WATERMARK_DELTA NGROK
    NGROK_AUTHTOKEN NGROK_EDGE TOKENIZER_CONFIG_PATH DISABLE_GRAMMAR_SUPPORT ENV MAX_CLIENT_BATCH_SIZE LORA_ADAPTERS
    USAGE_STATS PAYLOAD_LIMIT ENABLE_PREFILL_LOGPROBS GRACEFUL_TERMINATION_TIMEOUT
    ATTENTION PREFIX_CACHING TGI_WIGGLE_ROOM LOG_LEVEL HF_TOKEN HUGGING_FACE_HUB_TOKEN MODELSCOPE_API_TOKEN
    OPENXLAB_AK OPENXLAB_SK""".split()
)
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "USAGE_STATS": "off"}  # exactly "1": its router takes nothing else


@dataclass(frozen=True)
class Tgi:
    """`folder` is private: working directory (its router writes `out/` there) and place of its socket."""

    plan: LaunchPlan
    folder: Path
    launcher: str
    stop_timeout_s: float = 10.0
    model_folder: Path | None = None
    ports: tuple[int, ...] = field(default_factory=lambda: free_ports(3))
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    dialect: str = "tgi"
    parent_death_signal: int = signal.SIGTERM  # a launcher that is killed leaves router and shard behind
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)

    def serving(self, model_folder: Path) -> Tgi:
        """The same engine (same endpoint, same key) with its model."""
        return replace(self, model_folder=model_folder)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def description(self) -> str:
        return f"Text Generation Inference: {self.plan.model.name}, {self.plan.on_card}"

    def argv(self) -> list[str]:
        assert self.model_folder is not None, "serving(path) comes first"
        port, prometheus_port, master_port = self.ports
        own = {
            "--hostname": "127.0.0.1",
            "--port": port,
            "--prometheus-port": prometheus_port,
            "--master-port": master_port,
            "--shard-uds-path": self.folder / "tgi",
        }
        grace_s = max(1, int(self.stop_timeout_s) - STOP_MARGIN_S)
        return [self.launcher, *flags(self.plan, str(self.model_folder), grace_s), *_words(own)]

    def environment(self) -> dict[str, str]:
        own = child_environment(without=FLAG_VARIABLES, **ENVIRONMENT, API_KEY=self.api_key)
        return {**own, "PATH": with_its_python_first(own.get("PATH", os.defpath))}

    def clear_the_way(self) -> None:
        for leftover in self.folder.glob("tgi-*"):
            leftover.unlink(missing_ok=True)

    def news_of(self, line: str) -> Progress | None:
        return news_of(line)

    def redacted(self, line: str) -> str:
        return redacted(line, self.api_key)

    def explain(self, tail: Sequence[str], returncode: int) -> str:
        return explain_tgi(tail, returncode, self.plan)

    async def generate_one_token(self, timeout_s: float) -> None:
        await generate_one_token(self.endpoint, self.api_key, self.plan.model.name, timeout_s=timeout_s)

    async def check_alive(self, timeout_s: float) -> None:
        await check_alive(self.endpoint, timeout_s)


def with_its_python_first(path: str) -> str:
    """Its router embeds Python, whose packages are those of the first `python3` on the PATH: its server's, never ours.

    Its own entry point activates that environment for the same reason.
    """
    server = shutil.which("text-generation-server", path=path)
    return os.pathsep.join((os.path.dirname(server), path)) if server else path


def flags(plan: LaunchPlan, model: str, grace_s: int) -> list[str]:
    """What does not depend on where it runs. `--dtype` only where TGI takes it; its default would be float16."""
    gpu = plan.on_card
    precision = {"--quantize": gpu.quantize} if gpu.quantize != "none" else {}
    if gpu.quantize in ("none", "bitsandbytes-nf4"):
        precision["--dtype"] = gpu.dtype
    return _words(
        {
            "--model-id": model,
            "--num-shard": gpu.cards,
            **precision,
            "--max-input-tokens": gpu.input_tokens,
            "--max-total-tokens": gpu.context_tokens,
            "--max-batch-prefill-tokens": gpu.prefill_tokens,
            "--max-concurrent-requests": gpu.requests,
            "--payload-limit": max(LEAST_PAYLOAD_BYTES, gpu.context_tokens * PAYLOAD_BYTES_PER_TOKEN),
            "--usage-stats": "off",
            "--graceful-termination-timeout": grace_s,
        }
    )


def news_of(line: str) -> Progress | None:
    """The stages of the launcher's log; it counts nothing while it loads."""
    for mark, news in _STAGES:
        if mark in line:
            return news
    return None


def redacted(line: str, api_key: str) -> str:
    """It prints its arguments with the key, and each request's parameters with the stop texts that people sent."""
    return re.sub(r"GenerateParameters \{.*", "GenerateParameters [left out]", line.replace(api_key, "***"))


async def check_alive(endpoint: str, timeout_s: float) -> None:
    """`/health` asks the shard, and does not answer while that hangs; `/info` then tells who it is that hangs."""
    try:
        status, _ = await get(endpoint, "/health", timeout_s=timeout_s)
    except ProbeFailed as failure:
        await get(endpoint, "/info", timeout_s=min(timeout_s, 10.0))
        raise ProbeFailed(f"the router answers, but the shard does not ({failure.reason})") from None
    if status != 200:
        raise ProbeFailed(f"/health answers {status}")


def _words(values: dict[str, object]) -> list[str]:
    return [str(word) for pair in values.items() for word in pair]


_STAGES = (
    ("Starting check and download process for", Progress("load", message="looking at the model's files")),
    ("Starting shard", Progress("load", message="loading the model into the card's memory")),
    ("Warming up model", Progress("warmup", message="trying the largest batch")),
    ("Connected", Progress("warmup", message="generating a first token")),
)
