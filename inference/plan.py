"""From a model, the settings and the machine to how the engine is run; pure arithmetic, nothing is started here."""

from __future__ import annotations

from dataclasses import dataclass

from inference.catalogue import Model
from inference.errors import DoesNotFit, SettingsError
from inference.machine import Machine
from inference.settings import Settings
from inference.sizes import gibibytes

ENGINES = ("auto", "llamacpp")
DEFAULT_CONTEXT_TOKENS = 4096
ENGINE_BYTES = 150 << 20  # code, compute buffers and Python of the child: 120 MB measured with the smallest model
MOST_PROMPT_CACHE_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """`context_tokens` is per slot. `prompt_cache_bytes` is where llama.cpp keeps the contexts of idle conversations.

    `memory_bytes` is about what the child will take when all slots are full.
    """

    model: Model
    engine: str
    threads: int
    context_tokens: int
    slots: int
    prompt_cache_bytes: int
    memory_bytes: int


def make_plan(model: Model, settings: Settings, machine: Machine) -> LaunchPlan:
    """Raises SettingsError, SourceError or DoesNotFit with what to change."""
    _check_engine(settings.engine)
    context = _context(model, settings)
    weights_and_context = model.size_bytes + (model.kv_bytes_per_token or 0) * context * settings.slots
    needed = weights_and_context + ENGINE_BYTES
    if needed > machine.memory_bytes:
        raise DoesNotFit(
            f"{model.name} with {settings.slots} slots of {context} tokens needs about {gibibytes(needed)} of memory, "
            f"but this machine has {gibibytes(machine.memory_bytes)}. Set INFERENCE_SLOTS or INFERENCE_CONTEXT lower, "
            "or choose a smaller model."
        )
    cache = min(MOST_PROMPT_CACHE_BYTES, (machine.memory_bytes - needed) // 4)
    return LaunchPlan(
        model=model,
        engine="llamacpp",
        threads=settings.threads or max(1, machine.cores - 1),
        context_tokens=context,
        slots=settings.slots,
        prompt_cache_bytes=cache,
        memory_bytes=needed + cache,
    )


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise SettingsError(
            f"The engine {engine!r} is not there in this version; there is llamacpp, which runs GGUF files on the CPU. "
            "Leave out --engine (INFERENCE_ENGINE), or set it to auto or llamacpp."
        )


def _context(model: Model, settings: Settings) -> int:
    trained = model.context_tokens
    wanted = settings.context_tokens
    if wanted is None:
        return min(DEFAULT_CONTEXT_TOKENS, trained or DEFAULT_CONTEXT_TOKENS)
    if trained is not None and wanted > trained:
        raise SettingsError(
            f"INFERENCE_CONTEXT is {wanted}, but {model.name} was trained for {trained} tokens and would talk nonsense "
            f"beyond. Set it to {trained} or less."
        )
    return wanted
