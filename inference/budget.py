"""What a model takes of a card's memory and what is left for conversations; pure arithmetic.

Both engines fill what is left with keys and values of tokens (the cache). Text Generation Inference keeps a tenth of
the card free, and about 1.5 GiB go to CUDA and a prefill of 8192 tokens. LMDeploy gives a ratio (0.8 unless told
otherwise) of what is free after the weights and about 0.6 GiB of CUDA to the cache; a prefill must find room in the
rest. The figures were computed from the engines' sources, not measured on a card.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from inference.cards import Card
from inference.catalogue import GpuEngine, Model, Shape
from inference.sizes import gibibytes

GIB = 1 << 30
LEAST_CONTEXT_TOKENS = 2048  # with less room than that a chat is no use
USUAL_PREFILL_TOKENS = 8192
TGI_RESERVE = 0.1
TGI_WORKING_BYTES = 3 * GIB // 2
LMDEPLOY_CUDA_BYTES = 6 * GIB // 10
QUANTIZATIONS = ("none", "eetq", "fp8", "bitsandbytes-nf4", "awq")
_SEVEN_B = 7_737_708_544  # the model that the prefill figures below are for


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All in bytes and for one card. `working_bytes` is what a prefill needs, `room_bytes` what it has."""

    engine: GpuEngine
    quantize: str
    kv_bits: int
    card_bytes: int
    weight_bytes: int
    reserve_bytes: int
    cache_bytes: int
    working_bytes: int
    room_bytes: int
    kv_bytes_per_token: int
    cache_rule: str

    @property
    def cache_tokens(self) -> int:
        return max(0, self.cache_bytes) // self.kv_bytes_per_token

    @property
    def missing_bytes(self) -> int:
        """How much more the card would need to hold the least context; 0: it fits."""
        cache = LEAST_CONTEXT_TOKENS * self.kv_bytes_per_token - self.cache_bytes
        return max(0, cache, self.working_bytes - self.room_bytes)

    @property
    def fits(self) -> bool:
        return self.missing_bytes == 0

    def lines(self) -> Iterator[str]:
        """The arithmetic, a line for each step."""
        yield f"usable on the card       {gibibytes(self.card_bytes):>10}"
        yield f"weights                - {gibibytes(self.weight_bytes):>10}  ({precision(self.quantize)})"
        yield f"not for the cache      - {gibibytes(self.reserve_bytes):>10}  ({self.cache_rule})"
        yield f"left for the cache     = {gibibytes(self.cache_bytes):>10}"
        if self.engine == "lmdeploy":
            yield f"a prefill needs          {gibibytes(self.working_bytes):>10}, has {gibibytes(self.room_bytes)}"
        yield f"one token of context     {self.kv_bytes_per_token:>10} bytes ({self.kv_bits} bits)"
        yield f"tokens that fit          {self.cache_tokens:>10}"


def precision(quantize: str) -> str:
    return {"none": "16 bits", "fp8": "fp8", "eetq": "eetq, 8 bits"}.get(quantize, f"{quantize}, 4 bits")


def weight_bytes(model: Model, shape: Shape, quantize: str) -> int:
    """Of all cards together. Embedding and head stay in 16 bits; fp8 spares only the MLPs of the middle layers.

    Files that were quantized beforehand are taken as they are.
    """
    if model.size_bytes < 1.5 * shape.parameters:
        return model.size_bytes
    saved = {
        "eetq": shape.layers * shape.layer_parameters,
        "fp8": (shape.layers - 2) * shape.mlp_parameters,
        "bitsandbytes-nf4": shape.layers * shape.layer_parameters * 3 // 2,
        "awq": shape.layers * shape.layer_parameters * 3 // 2,
    }
    return model.size_bytes - saved.get(quantize, 0)


def tgi_budget(
    model: Model,
    shape: Shape,
    card: Card,
    *,
    cards: int = 1,
    quantize: str = "none",
    prefill_tokens: int = USUAL_PREFILL_TOKENS,
) -> Budget:
    longer = max(0, _prefill_bytes(shape, prefill_tokens) - _prefill_bytes(shape, USUAL_PREFILL_TOKENS))
    reserve = int(card.memory_bytes * TGI_RESERVE) + TGI_WORKING_BYTES + longer
    weights = weight_bytes(model, shape, quantize) // cards
    return Budget(
        engine="tgi",
        quantize=quantize,
        kv_bits=16,
        card_bytes=card.memory_bytes,
        weight_bytes=weights,
        reserve_bytes=reserve,
        cache_bytes=card.memory_bytes - weights - reserve,
        working_bytes=0,
        room_bytes=0,
        kv_bytes_per_token=shape.kv_bytes_per_token // cards,
        cache_rule=f"a tenth of the card, and {gibibytes(TGI_WORKING_BYTES + longer)} for CUDA and a prefill",
    )


def lmdeploy_budget(
    model: Model,
    shape: Shape,
    card: Card,
    *,
    cards: int = 1,
    quantize: str = "none",
    kv_bits: int = 16,
    cache_ratio: float = 0.8,
    prefill_tokens: int = USUAL_PREFILL_TOKENS,
) -> Budget:
    """Eight and four bit keys and values have two 16-bit scales for each head and token: 128 + 4 and 64 + 4 bytes."""
    weights = weight_bytes(model, shape, quantize) // cards
    free = card.memory_bytes - LMDEPLOY_CUDA_BYTES - weights
    room = int(max(0, free) * (1 - cache_ratio))
    head_bytes = {16: 2 * shape.head_dim, 8: shape.head_dim + 4, 4: shape.head_dim // 2 + 4}[kv_bits]
    return Budget(
        engine="lmdeploy",
        quantize=quantize,
        kv_bits=kv_bits,
        card_bytes=card.memory_bytes,
        weight_bytes=weights,
        reserve_bytes=LMDEPLOY_CUDA_BYTES + room,
        cache_bytes=free - room,
        working_bytes=_prefill_bytes(shape, prefill_tokens),
        room_bytes=room,
        kv_bytes_per_token=shape.layers * 2 * shape.kv_heads * head_bytes // cards,
        cache_rule=f"0.6 GiB for CUDA, and {1 - cache_ratio:.0%} of what is then free",
    )


def _prefill_bytes(shape: Shape, tokens: int) -> int:
    """About 0.1 GiB, and 0.1 GiB for each 1024 tokens of the 7B model; wider models take more, as their width."""
    width = (shape.parameters / _SEVEN_B) ** 0.5
    return int(GIB * (0.1 + 0.1 * tokens / 1024) * max(1.0, width))
