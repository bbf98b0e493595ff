"""How a model is run on a card: precision, context and how much at once, from the catalogue or by arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from inference.budget import LEAST_CONTEXT_TOKENS, QUANTIZATIONS, Budget, lmdeploy_budget, precision, tgi_budget
from inference.cards import Card
from inference.catalogue import GpuEngine, GpuSettings, Model, Shape
from inference.errors import DoesNotFit, SettingsError
from inference.settings import Settings
from inference.sizes import gibibytes

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_PREFILL_TOKENS = 8192
ANSWER_TOKENS = 1024  # what a prompt leaves to the answer, where a conversation has room for it
TOKENS_A_REQUEST = 512  # a chat's usual length, for how many run at once
MOST_REQUESTS = 128


@dataclass(frozen=True, kw_only=True)
class GpuLaunch:
    """`quantize` is "none" or the engine's word. `input_tokens` is the longest prompt. `is_listed`: as catalogued."""

    card: Card
    cards: int
    quantize: str
    dtype: str
    context_tokens: int
    input_tokens: int
    prefill_tokens: int
    requests: int
    kv_bits: int
    cache_ratio: float
    is_listed: bool
    budget: Budget

    def __str__(self) -> str:
        cards = f"{self.cards} x {self.card.name}" if self.cards > 1 else self.card.name
        return f"{self.context_tokens} tokens, {self.requests} requests at once, on {cards}"


def plan_on_card(
    engine: GpuEngine, model: Model, settings: Settings, cards: Sequence[Card], others: Iterable[Model] = ()
) -> GpuLaunch:
    """Raises SettingsError, or DoesNotFit with the nearest plan that fits."""
    shape = _shape(model)
    _check_wish(engine, shape, settings, cards)
    card = cards[0]
    tried = list(launches(engine, model, shape, settings, card))
    fitting = [launch for launch in tried if _fits(launch, settings)]
    if fitting:
        return fitting[0]
    raise DoesNotFit(_too_large(engine, model, settings, card, tried[0], others))


def _shape(model: Model) -> Shape:
    if model.shape is None:
        raise DoesNotFit(f"{model.name} does not say its sizes, so what it takes on a card is not known.")
    return model.shape


def _check_wish(engine: GpuEngine, shape: Shape, settings: Settings, cards: Sequence[Card]) -> None:
    known = [one for one in QUANTIZATIONS if one != "awq"] if engine == "tgi" else ["none"]
    if settings.quantize not in ("auto", *known):
        raise SettingsError(
            f"INFERENCE_QUANTIZE is {settings.quantize}, but {engine} has auto, {', '.join(known)}. "
            "Set it to one of them."
        )
    if settings.gpus > len(cards):
        raise DoesNotFit(f"INFERENCE_GPUS is {settings.gpus}, but this machine has {len(cards)}. Set it lower.")
    if shape.kv_heads % settings.gpus:
        raise SettingsError(
            f"INFERENCE_GPUS is {settings.gpus}, but the model's {shape.kv_heads} key and value heads cannot be shared "
            "among so many. Set it to a number that divides them."
        )


def launches(engine: GpuEngine, model: Model, shape: Shape, settings: Settings, card: Card) -> Iterator[GpuLaunch]:
    """What may be tried, the best first: as catalogued for this card, then by arithmetic with less precision."""
    wish = settings.quantize
    for listed in model.gpus:
        is_wished = wish in ("auto", listed.quantize)
        if listed.card == card.kind and listed.engine == engine and is_wished and settings.gpus == 1:
            yield _launch(listed, model, shape, settings, card, is_listed=True)
    for attempt in _attempts(engine, "" if wish == "auto" else wish):
        yield _launch(attempt, model, shape, settings, card, is_listed=False)


def _attempts(engine: GpuEngine, quantize: str) -> Iterator[GpuSettings]:
    """For any card: the most that is given, to be cut to what fits. LMDeploy's last is small and slow, but it runs."""

    def attempt(quantize: str, prefill_tokens: int, **tight: float) -> GpuSettings:
        return GpuSettings(
            card="",
            engine=engine,
            quantize=quantize,
            context_tokens=int(tight.get("context_tokens", DEFAULT_CONTEXT_TOKENS)),
            prefill_tokens=prefill_tokens,
            requests=int(tight.get("requests", MOST_REQUESTS)),
            kv_bits=int(tight.get("kv_bits", 16)),
            cache_ratio=tight.get("cache_ratio", 0.8),
        )

    if engine == "tgi":
        for one in (quantize,) if quantize else ("none", "eetq", "bitsandbytes-nf4"):
            yield attempt(one, DEFAULT_PREFILL_TOKENS)
        return
    for prefill_tokens in (DEFAULT_PREFILL_TOKENS, DEFAULT_PREFILL_TOKENS // 2):
        yield attempt(quantize or "none", prefill_tokens)
    yield attempt(quantize or "none", 1024, context_tokens=4096, requests=4, kv_bits=8, cache_ratio=0.6)


def _launch(
    wanted: GpuSettings, model: Model, shape: Shape, settings: Settings, card: Card, *, is_listed: bool
) -> GpuLaunch:
    prefill = wanted.prefill_tokens
    if wanted.engine == "tgi":  # it reads a prompt at once, so it must have room for the longest one
        prefill = max(prefill, _input_tokens(settings.context_tokens or wanted.context_tokens))
    budget = _budget(wanted, prefill, model, shape, settings, card)
    context, requests = wanted.context_tokens, wanted.requests
    if not is_listed:
        room = max(LEAST_CONTEXT_TOKENS, budget.cache_tokens // 256 * 256)
        context = min(context, room, model.context_tokens or context)
        requests = max(1, min(requests, budget.cache_tokens // TOKENS_A_REQUEST))
    context = settings.context_tokens or context
    return GpuLaunch(
        card=card,
        cards=settings.gpus,
        quantize=wanted.quantize,
        dtype=_dtype(wanted.quantize, card),
        context_tokens=context,
        input_tokens=_input_tokens(context),
        prefill_tokens=prefill,
        requests=settings.slots or requests,
        kv_bits=wanted.kv_bits,
        cache_ratio=wanted.cache_ratio,
        is_listed=is_listed,
        budget=budget,
    )


def _budget(
    wanted: GpuSettings, prefill_tokens: int, model: Model, shape: Shape, settings: Settings, card: Card
) -> Budget:
    if wanted.engine == "tgi":
        return tgi_budget(
            model, shape, card, cards=settings.gpus, quantize=wanted.quantize, prefill_tokens=prefill_tokens
        )
    return lmdeploy_budget(
        model,
        shape,
        card,
        cards=settings.gpus,
        quantize=wanted.quantize,
        kv_bits=wanted.kv_bits,
        cache_ratio=wanted.cache_ratio,
        prefill_tokens=prefill_tokens,
    )


def _input_tokens(context_tokens: int) -> int:
    return context_tokens - min(ANSWER_TOKENS, context_tokens // 4)


def _dtype(quantize: str, card: Card) -> str:
    """eetq and fp8 decide it themselves: TGI refuses --dtype beside them, and runs in float16."""
    if quantize in ("eetq", "fp8"):
        return "float16"
    return "bfloat16" if card.has_bfloat16 else "float16"


def _fits(launch: GpuLaunch, settings: Settings) -> bool:
    wanted = settings.context_tokens or LEAST_CONTEXT_TOKENS
    return launch.budget.fits and launch.budget.cache_tokens >= wanted


def _too_large(
    engine: GpuEngine, model: Model, settings: Settings, card: Card, tried: GpuLaunch, others: Iterable[Model]
) -> str:
    budget = tried.budget
    wanted = settings.context_tokens or LEAST_CONTEXT_TOKENS
    has = (
        f"{model.name} in {precision(budget.quantize)} does not fit {card.name} with {engine}: the weights take "
        f"{gibibytes(budget.weight_bytes)} of {gibibytes(budget.card_bytes)}, {gibibytes(budget.reserve_bytes)} are "
        f"not for the cache, and so {budget.cache_tokens} tokens of context fit instead of {wanted} or more."
    )
    if budget.working_bytes > budget.room_bytes > 0:
        has += f" A prefill needs {gibibytes(budget.working_bytes)} and has {gibibytes(budget.room_bytes)}."
    return f"{has} {_nearest(engine, model, settings, card, others)}"


def _nearest(engine: GpuEngine, model: Model, settings: Settings, card: Card, others: Iterable[Model]) -> str:
    """What fits and is nearest to what was asked for: another precision, the other engine, another model."""
    free = replace(settings, quantize="auto", gpus=1, context_tokens=None, slots=None)
    shape = _shape(model)
    for candidate in (engine, "lmdeploy" if engine == "tgi" else "tgi"):
        offers = launches("tgi" if candidate == "tgi" else "lmdeploy", model, shape, free, card)
        for launch in offers:
            if launch.budget.fits:
                return f"The nearest that fits: {_words(candidate, launch)}."
    smaller = sorted(
        (one for one in others if one.shape is not None and one.layout != "gguf"), key=_by_size, reverse=True
    )
    for other in smaller:
        if other.size_bytes < model.size_bytes and tgi_budget(other, _shape(other), card).fits:
            return f"The nearest that fits: another model, MODEL={other.name}."
    return "Nothing near it fits this card; take a larger card, or llamacpp on the CPU (INFERENCE_ENGINE=llamacpp)."


def _by_size(model: Model) -> int:
    return model.size_bytes


def _words(engine: str, launch: GpuLaunch) -> str:
    budget = launch.budget
    how = f"{engine} with INFERENCE_QUANTIZE={launch.quantize}"
    tight = (
        f", {launch.kv_bits}-bit keys and values, {launch.prefill_tokens} prefill tokens" if launch.kv_bits < 16 else ""
    )
    return (
        f"{how}{tight} ({gibibytes(budget.weight_bytes)} of weights, "
        f"{budget.cache_tokens} tokens of context, {launch.context_tokens} for one conversation)"
    )
