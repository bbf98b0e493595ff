"""llama.cpp's own server (package `xllamacpp`) in a child process; for the CPU and GGUF files.

It listens on a private Unix socket, or on an address of INFERENCE_LISTEN where the gateway is in another container.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference.engines.openmp import openmp_environment
from inference.plan import LaunchPlan
from inference.probe import ProbeFailed, generate_one_token, get
from inference.settings import child_environment
from inference.sizes import gibibytes
from inference.status import Progress

SERVER = Path(__file__).with_name("llamacpp_server.py")


@dataclass(frozen=True)
class LlamaCpp:
    """`folder` is private and takes the socket; `listen` (host, port) replaces that.

    `model_file` may be set later, by `serving`, when it is prepared.
    """

    plan: LaunchPlan
    folder: Path
    model_file: Path | None = None
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    dialect: str = "llamacpp"
    parent_death_signal: int = signal.SIGKILL
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)
    listen: tuple[str, int] | None = None

    def serving(self, model_file: Path) -> LlamaCpp:
        """The same engine (same endpoint, same key) with its model."""
        return replace(self, model_file=model_file)

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.listen[1],) if self.listen else ()

    @property
    def socket(self) -> Path:
        return self.folder / "llama.sock"

    @property
    def endpoint(self) -> str:
        """As this machine reaches it; an address that means all of them answers on 127.0.0.1 too."""
        if self.listen is None:
            return f"unix:{self.socket}"
        host, port = self.listen
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"

    @property
    def description(self) -> str:
        plan = self.plan
        return (
            f"llama.cpp: {plan.model.name}, {plan.slots} slots of {plan.context_tokens} tokens, "
            f"threads: {plan.threads}, prompt cache: {plan.prompt_cache_bytes >> 20} MiB"
        )

    def argv(self) -> list[str]:
        assert self.model_file is not None, "serving(path) comes first"
        address = {"host": self.listen[0], "port": self.listen[1]} if self.listen else {"socket": str(self.socket)}
        config = {
            "model_file": str(self.model_file),
            "alias": self.plan.model.name,
            **address,
            "threads": self.plan.threads,
            "slots": self.plan.slots,
            "context_tokens": self.plan.context_tokens * self.plan.slots,  # llama.cpp divides it by the slots
            "prompt_cache_mib": self.plan.prompt_cache_bytes >> 20,
        }
        return [sys.executable, "-P", str(SERVER), json.dumps(config)]

    def environment(self) -> dict[str, str]:
        """GGML_NO_BACKTRACE: on a crash ggml would start gdb on itself, which delays the end by seconds."""
        base = child_environment(INFERENCE_ENGINE_KEY=self.api_key, GGML_NO_BACKTRACE="1", PYTHONUNBUFFERED="1")
        return base | openmp_environment(self.folder, base)

    def clear_the_way(self) -> None:
        self.socket.unlink(missing_ok=True)

    def news_of(self, line: str) -> Progress | None:
        if "loading model '" in line or "srv          init: loading model" in line:
            return Progress("load", message="loading the model into memory")
        return Progress("warmup", message="generating a first token") if "init: model loaded" in line else None

    def redacted(self, line: str) -> str:
        """llama.cpp logs no prompts, but it quotes the end of a body that is not JSON."""
        start, mark, _ = line.partition("got exception: ")
        return f"{start}{mark}[left out]" if mark else line

    def explain(self, tail: Sequence[str], returncode: int) -> str:
        text = "\n".join(tail)
        for pattern, sentence in _CAUSES:
            if match := re.search(pattern, text):
                return sentence.format(*match.groups(), file=self.model_file, needs=self._needs)
        if returncode < 0:
            return self._explain_signal(-returncode)
        last = " / ".join(line.strip() for line in tail[-3:]) or "it said nothing"
        return f"llama.cpp ended with code {returncode}. Its last lines: {last}"

    def _explain_signal(self, number: int) -> str:
        match number:
            case signal.SIGKILL:
                return f"llama.cpp was killed from outside, most likely because the memory ran out. {self._needs}"
            case signal.SIGILL:
                return "This CPU lacks an instruction that xllamacpp was built with; it is too old for this build."
            case signal.SIGBUS:
                return (
                    f"llama.cpp could not read {self.model_file} any more: it was changed or cut while it was in use."
                )
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"llama.cpp crashed ({name})."

    @property
    def _needs(self) -> str:
        plan = self.plan
        return (
            f"It needs about {gibibytes(plan.memory_bytes)} with {plan.slots} slots of {plan.context_tokens} tokens. "
            "Set INFERENCE_SLOTS or INFERENCE_CONTEXT lower, or choose a smaller model."
        )

    async def generate_one_token(self, timeout_s: float) -> None:
        await generate_one_token(self.endpoint, self.api_key, self.plan.model.name, timeout_s=timeout_s)

    async def check_alive(self, timeout_s: float) -> None:
        """Its threads for HTTP answer this also while all slots are busy."""
        status, _ = await get(self.endpoint, "/health", timeout_s=timeout_s)
        if status != 200:
            raise ProbeFailed(f"/health answers {status}")


_DAMAGED = "The model file {file} is cut short or damaged. Fetch or copy it again."
_CAUSES: tuple[tuple[str, str], ...] = (
    (r"No module named 'xllamacpp'", "xllamacpp, which runs the model, is not installed. Install it: make setup"),
    (
        r"cannot import xllamacpp: (.*)",
        "xllamacpp cannot be loaded on this system: {0}. It needs a Linux with glibc (not Alpine), "
        "and the system library that is named here.",
    ),
    (r"failed to open GGUF file '.*' \((.*)\)", "The model file {file} cannot be opened: {0}."),
    (r"invalid magic characters", "The model file {file} is not a GGUF file; llama.cpp reads only those."),
    (
        r"unknown model architecture: '(.*)'",
        "This llama.cpp does not know the architecture {0!r} of {file}. Take another model, or a newer xllamacpp.",
    ),
    (r"GGUF file is version (\d+)", "{file} has the GGUF version {0}, newer than this llama.cpp. Renew xllamacpp."),
    (r"not within the file bounds|exceeds remaining file size|gguf_init_from_reader: failed to read", _DAMAGED),
    (r"missing tensor|wrong number of tensors|has wrong shape|number of tensors is", _DAMAGED),
    (
        r"insufficient memory|failed to allocate|std::bad_alloc|MemoryError|Cannot allocate memory",
        "There is not enough memory for the model. {needs}",
    ),
    (r"couldn't bind HTTP server socket, hostname: (.*), port", "The socket {0} cannot be made. Is its folder there?"),
)
