"""What `list` and `plan` print: tables of what fits where, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from inference.budget import precision
from inference.cards import Card
from inference.catalogue import GpuEngine, Model
from inference.errors import DoesNotFit, InferenceError
from inference.gpu_plan import GpuLaunch, launches
from inference.machine import Machine
from inference.plan import LaunchPlan, make_plan
from inference.settings import Settings
from inference.sizes import gibibytes, megabytes


def machine_text(machine: Machine) -> str:
    cards = ", ".join(f"{card.name} with {gibibytes(card.memory_bytes)} usable" for card in machine.cards)
    return f"cores: {machine.cores}, memory: {gibibytes(machine.memory_bytes)}, cards: {cards or 'none'}"


def list_table(models: Iterable[Model], settings: Settings, machine: Machine) -> str:
    """Every model: what it takes and whether it fits this machine; the one that is set is marked."""
    rows = [("", "model", "languages", "disk", "memory", "runs on", "licence")]
    for model in models:
        mark = "*" if model.name == settings.model else " "
        disk, memory, where = _cost(model, settings, machine)
        rows.append((mark, model.name, ", ".join(model.languages), disk, memory, where, model.licence))
    return _table(rows)


def _cost(model: Model, settings: Settings, machine: Machine) -> tuple[str, str, str]:
    try:
        plan = make_plan(model, settings, machine)
    except DoesNotFit:
        return megabytes(model.size_bytes), "", "does not fit"
    except InferenceError:  # `plan` says why
        return megabytes(model.size_bytes), "", "no engine here"
    return megabytes(plan.disk_bytes), gibibytes(plan.memory_bytes), plan.engine


def plan_table(model: Model, settings: Settings, machine: Machine) -> str:
    """The model in each precision with each GPU engine on this machine's first card; empty where there is none."""
    if not machine.cards or model.shape is None or model.layout == "gguf":
        return ""
    rows: list[tuple[str, ...]] = [
        ("engine", "weights", "", "context memory", "tokens in all", "a conversation", "at once", "fits")
    ]
    for engine in ("tgi", "lmdeploy"):
        offers = sorted(_offers(engine, model, settings, machine.cards[0]), key=_precision, reverse=True)
        rows.extend(_row(launch, engine) for launch in offers)
    return _table(rows)


def _offers(engine: GpuEngine, model: Model, settings: Settings, card: Card) -> Iterator[GpuLaunch]:
    assert model.shape is not None
    seen: set[tuple[str, int]] = set()
    offers = list(launches(engine, model, model.shape, settings, card))
    if engine == "lmdeploy" and settings.quantize == "auto":  # nothing makes it while loading, so auto never takes it
        offers += launches(engine, model, model.shape, replace(settings, quantize="awq"), card)
    for launch in offers:
        key = (launch.quantize, launch.kv_bits)
        if key not in seen and key != ("awq", 8):
            seen.add(key)
            yield launch


def _precision(launch: GpuLaunch) -> tuple[int, int]:
    return launch.budget.weight_bytes, launch.kv_bits


def _row(launch: GpuLaunch, engine: GpuEngine) -> tuple[str, ...]:
    budget = launch.budget
    missing = f"no, {gibibytes(budget.missing_bytes)} short"
    return (
        "tgi, tgi-container" if engine == "tgi" else engine,
        gibibytes(budget.weight_bytes),
        precision(launch.quantize),
        gibibytes(max(0, budget.cache_bytes)) + (f" ({launch.kv_bits} bits)" if launch.kv_bits < 16 else ""),
        str(budget.cache_tokens),
        str(launch.context_tokens) if budget.fits else "",
        str(launch.requests) if budget.fits else "",
        "yes" if budget.fits else missing,
    )


def plan_text(plan: LaunchPlan) -> str:
    """The plan that was made, its arithmetic and its cost."""
    lines = [f"Plan: {plan.reason}."]
    lines += [f"  {line}" for line in plan.arithmetic]
    lines += [f"  {name:<24} {value}" for name, value in _settings(plan)]
    return "\n".join(lines)


def load_text(model: Model) -> str:
    """For people who wait for an engine whose log nobody reads; the time is arithmetic, for a disk of 500 MB/s."""
    seconds = max(1, round(model.size_bytes / 500e6))
    return f"loading {megabytes(model.size_bytes)} into memory: about {seconds} s at 500 MB/s, then it is tried"


def _settings(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    yield "one conversation", f"{plan.context_tokens} tokens, prompt and answer together"
    yield "answers at once", str(plan.slots)
    if plan.gpu is not None:
        yield "longest prompt", f"{plan.gpu.input_tokens} tokens; read together at most {plan.gpu.prefill_tokens}"
        yield "numbers", f"{plan.gpu.dtype}, {precision(plan.gpu.quantize)}"
        yield "these settings are", "from the catalogue" if plan.gpu.is_listed else "computed"
    else:
        yield "threads", str(plan.threads)
    yield "on the disk", f"{megabytes(plan.disk_bytes)}, while it is made ready {megabytes(plan.disk_peak_bytes)}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
