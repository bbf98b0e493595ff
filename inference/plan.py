"""From a model, the settings and the machine to how the engine is run; pure arithmetic, nothing is started here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from inference.catalogue import Model, WheelSource
from inference.errors import DoesNotFit, SettingsError
from inference.gpu_plan import GpuLaunch, plan_on_card
from inference.machine import Machine
from inference.settings import Settings
from inference.sizes import gibibytes

EngineName = Literal["tgi", "tgi-container", "lmdeploy", "llamacpp"]
Form = Literal["gguf", "llama"]
PREFERENCE: tuple[EngineName, ...] = ("tgi", "tgi-container", "lmdeploy", "llamacpp")
ENGINES = ("auto", *PREFERENCE)
DEFAULT_CONTEXT_TOKENS = 4096
DEFAULT_SLOTS = 4
LEAST_CONTEXT_TOKENS = 2048
ENGINE_BYTES = 150 << 20  # code, compute buffers and Python of the child: 120 MB measured with the smallest model
MOST_PROMPT_CACHE_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """`form` is what the engine reads: a GGUF file or a folder in Llama layout. `reason` says why this engine.

    `context_tokens` is per slot. `prompt_cache_bytes` is where llama.cpp keeps the contexts of idle conversations.
    `memory_bytes` is about what the engine will take when all slots are full: of the machine, or of each card.
    `disk_bytes` is what the model takes on the disk, `disk_peak_bytes` that while its original lies beside it.
    """

    model: Model
    engine: EngineName
    form: Form
    reason: str
    context_tokens: int
    slots: int
    memory_bytes: int
    disk_bytes: int
    disk_peak_bytes: int
    arithmetic: tuple[str, ...]
    threads: int = 1
    prompt_cache_bytes: int = 0
    gpu: GpuLaunch | None = None

    @property
    def on_card(self) -> GpuLaunch:
        """For the engines that have one."""
        assert self.gpu is not None, f"a plan for {self.engine} has no card"
        return self.gpu


def make_plan(model: Model, settings: Settings, machine: Machine, others: Iterable[Model] = ()) -> LaunchPlan:
    """Raises SettingsError or DoesNotFit with what to change; of `others` one is named when this model is too large."""
    if settings.engine not in ENGINES:
        raise SettingsError(
            f"The engine {settings.engine!r} is not there. Leave out --engine (INFERENCE_ENGINE), or set it to one of "
            f"{', '.join(ENGINES)}."
        )
    if settings.engine != "auto":
        engine = next(one for one in PREFERENCE if one == settings.engine)
        if lack := what_lacks(engine, model, machine):
            raise DoesNotFit(f"The engine {engine} cannot run {model.name} here: {lack}.")
        return _plan_for(engine, model, settings, machine, f"{engine}, as asked for", others)
    return _choose(model, settings, machine, others)


def _choose(model: Model, settings: Settings, machine: Machine, others: Iterable[Model]) -> LaunchPlan:
    """The first engine that is there and whose plan fits; the reason names those before it."""
    passed_over: dict[str, str] = {}
    for engine in PREFERENCE:
        lack = what_lacks(engine, model, machine)
        if lack:
            passed_over[engine] = lack
            continue
        notes = "".join(f"; not {names}: {why}" for names, why in _by_reason(passed_over))
        reason = f"{engine}, the first that can run it here{notes}"
        try:
            return _plan_for(engine, model, settings, machine, reason, others)
        except DoesNotFit as error:
            passed_over[engine] = error.message.rstrip(".")
    causes = " ".join(f"{names}: {why}." for names, why in _by_reason(passed_over))
    raise DoesNotFit(f"No engine can run {model.name} here. {causes}")


def _by_reason(passed_over: dict[str, str]) -> list[tuple[str, str]]:
    """The engines that share a reason, and the reason."""
    reasons = dict.fromkeys(passed_over.values())
    return [(", ".join(name for name, why in passed_over.items() if why == reason), reason) for reason in reasons]


def what_lacks(engine: str, model: Model, machine: Machine) -> str:
    """Why this engine cannot run the model on this machine, as part of a sentence; empty when nothing is known."""
    if engine == "llamacpp":
        return "" if machine.has_llamacpp else "xllamacpp is not installed (make setup)"
    if model.layout == "gguf":
        return f"{model.name} is a GGUF file, which only llamacpp reads"
    if not machine.cards:
        return "there is no NVIDIA card (nvidia-smi lists none)"
    if engine == "tgi":
        return "" if machine.launcher else "text-generation-launcher is not on the PATH"
    if engine == "lmdeploy":
        return "" if machine.lmdeploy else "lmdeploy is not installed (pip install lmdeploy==0.18.0 torch==2.10.0)"
    if not machine.docker.answers:
        return "no Docker engine answers (is it started, and may this user use it?)"
    return "" if machine.docker.has_nvidia else "Docker cannot give containers a GPU (nvidia-container-toolkit)"


def _plan_for(
    engine: EngineName, model: Model, settings: Settings, machine: Machine, reason: str, others: Iterable[Model]
) -> LaunchPlan:
    if engine == "llamacpp":
        return _plan_on_cpu(model, settings, machine, reason)
    _check_context(model, settings)
    gpu = plan_on_card("lmdeploy" if engine == "lmdeploy" else "tgi", model, settings, machine.cards, others)
    return LaunchPlan(
        model=model,
        engine=engine,
        form="llama",
        reason=reason,
        context_tokens=gpu.context_tokens,
        slots=gpu.requests,
        memory_bytes=gpu.budget.card_bytes - max(0, gpu.budget.room_bytes),
        disk_bytes=model.size_bytes,
        disk_peak_bytes=model.size_bytes * (1 if model.layout == "llama" else 2),
        arithmetic=tuple(gpu.budget.lines()),
        gpu=gpu,
    )


def _plan_on_cpu(model: Model, settings: Settings, machine: Machine, reason: str) -> LaunchPlan:
    _check_context(model, settings)
    context, slots = _context_and_slots(model, settings, machine)
    weights, kv = _gguf_bytes(model, settings), model.kv_bytes_per_token or 0
    needed = weights + kv * context * slots + ENGINE_BYTES
    if needed > machine.memory_bytes:
        raise DoesNotFit(
            f"{model.name} with {slots} slots of {context} tokens needs about {gibibytes(needed)} of memory, "
            f"but this machine has {gibibytes(machine.memory_bytes)}. Set INFERENCE_SLOTS or INFERENCE_CONTEXT lower, "
            "or choose a smaller model."
        )
    cache = min(MOST_PROMPT_CACHE_BYTES, (machine.memory_bytes - needed) // 4)
    return LaunchPlan(
        model=model,
        engine="llamacpp",
        form="gguf",
        reason=reason,
        context_tokens=context,
        slots=slots,
        memory_bytes=needed + cache,
        disk_bytes=weights,
        disk_peak_bytes=_peak_bytes(model, weights),
        arithmetic=(
            f"weights                  {gibibytes(weights):>10}",
            f"context                + {gibibytes(kv * context * slots):>10}  "
            f"({slots} slots x {context} tokens x {kv} bytes)",
            f"prompt cache           + {gibibytes(cache):>10}  (contexts of idle conversations)",
            f"the engine itself      + {gibibytes(ENGINE_BYTES):>10}",
            f"together               = {gibibytes(needed + cache):>10}  of {gibibytes(machine.memory_bytes)}",
        ),
        threads=settings.threads or max(1, machine.cores - 1),
        prompt_cache_bytes=cache,
    )


def _gguf_bytes(model: Model, settings: Settings) -> int:
    """Of the file that is there ready-made, or of the one that will be made: two bytes a weight, or Q8_0's."""
    is_made = model.layout != "gguf" and not model.gguf_sources
    if is_made and model.shape is not None and settings.gguf_type in ("F16", "BF16"):
        return 2 * model.shape.parameters
    return model.gguf_bytes


def _peak_bytes(model: Model, gguf_bytes: int) -> int:
    """A wheel lies beside what is taken out of it, an original beside the GGUF file that is made from it."""
    if model.layout == "gguf" or model.gguf_sources:
        wheels = [source.wheel_bytes for source in model.sources if isinstance(source, WheelSource)]
        return gguf_bytes + 2 * sum(wheels)
    return model.size_bytes + gguf_bytes


def _context_and_slots(model: Model, settings: Settings, machine: Machine) -> tuple[int, int]:
    """As asked for; what is left open becomes smaller where the memory is small, first the slots, then the context."""
    trained = model.context_tokens or DEFAULT_CONTEXT_TOKENS
    contexts = [settings.context_tokens] if settings.context_tokens else [DEFAULT_CONTEXT_TOKENS, LEAST_CONTEXT_TOKENS]
    slots = [settings.slots] if settings.slots else [DEFAULT_SLOTS, 2, 1]
    room = machine.memory_bytes - _gguf_bytes(model, settings) - ENGINE_BYTES
    choices = [(min(context, trained), count) for context in contexts for count in slots]
    fitting = (choice for choice in choices if (model.kv_bytes_per_token or 0) * choice[0] * choice[1] <= room)
    return next(fitting, choices[-1])


def _check_context(model: Model, settings: Settings) -> None:
    trained, wanted = model.context_tokens, settings.context_tokens
    if trained is not None and wanted is not None and wanted > trained:
        raise SettingsError(
            f"INFERENCE_CONTEXT is {wanted}, but {model.name} was trained for {trained} tokens and would talk nonsense "
            f"beyond. Set it to {trained} or less."
        )
