"""InternLM2's tensors by Llama's names; a pure description, nothing is read or written here.

Names and rows: `modeling_internlm2.py` of InternLM2's repositories and transformers' `modeling_llama.py`. `wqkv` is
made of one group of rows for each key-value head: its query heads, then the key head, then the value head. So each of
q_proj, k_proj and v_proj is one contiguous range of bytes in every group. The rotary halves are in Llama's order
already. Nothing else changes but names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from inference.errors import ConvertError
from inference.model_config import ModelConfig
from inference.weights.tensors import FLOATS, Piece, Shard, Tensor

_TOP = {
    "model.tok_embeddings.weight": "model.embed_tokens.weight",
    "model.norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_PARTS = {
    "attention_norm": "input_layernorm",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}
WQKV = "attention.wqkv"
QKV_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYER = re.compile(r"^(model\.layers\.\d+\.)([\w.]+)\.(weight|bias)$")
_DROPPED = re.compile(r"rotary_emb\.inv_freq$")
_REASONS = (
    (r"^v_head", "it belongs to a reward model, which scores texts and writes none"),
    (r"Plora", "it belongs to InternLM-XComposer, whose image adapters have no place in Llama's layout"),
    (r"^(language_model|vision_model|mlp1|vision_tower|vit)\.", "it belongs to a model of images and text (InternVL)"),
    (r"^score\.", "it belongs to a classifier, which writes no text"),
    (r"\.(qweight|qzeros|scales|g_idx)$", "it is quantized (AWQ or GPTQ); convert the 16-bit model instead"),
    (r"\.(absmax|quant_map|quant_state\S*|SCB|weight_format)$", "it is quantized by bitsandbytes"),
    (r"\blora_[AB]\b", "it is a LoRA adapter's; convert the adapter's folder by itself, or merge it first"),
    (r"^(embedding|blocks|head)\.|\.(wq|wk|wv)\.", "it is in InternEvo's own form"),
)


def llama_shards(shards: Sequence[Shard], config: ModelConfig) -> list[list[Piece]]:
    """For every shard the pieces of its successor, in the order of their bytes.

    Raises ConvertError naming the tensor that has no place in Llama's layout, is missing, doubled or misshapen.
    """
    check_tensors(shards, internlm2_tensors(config), config)
    return [
        [piece for tensor in shard.tensors if not is_dropped(tensor.name) for piece in _pieces(tensor, config)]
        for shard in shards
    ]


def check_tensors(shards: Sequence[Shard], expected: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Raises ConvertError unless the shards hold the expected tensors, once each and of these shapes.

    Biases of the attention may be there, all or none.
    """
    names: dict[str, Tensor] = {}
    for tensor in (tensor for shard in shards for tensor in shard.tensors):
        if tensor.name in names:
            raise ConvertError(
                f"{tensor.name!r} is in both {names[tensor.name].file} and {tensor.file}. Remove the file that does "
                "not belong to the model."
            )
        names[tensor.name] = tensor
    for tensor in names.values():
        if not is_dropped(tensor.name):
            _check_tensor(tensor, expected)
    if missing := missing_tensors(names, expected, config):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConvertError(f"{missing[0]!r}{more} is missing from the weights. Fetch or copy the whole model.")


def missing_tensors(names: Iterable[str], expected: Mapping[str, tuple[int, ...]], config: ModelConfig) -> list[str]:
    """Expected tensors that are not there. Biases are wanted as soon as there is one; a tied head is not."""
    there = set(names)
    has_bias = any(name.endswith(".bias") for name in there & expected.keys())
    heads = {"output.weight", "lm_head.weight"} if config.is_tied else set()
    return [
        name
        for name in expected
        if name not in there and name not in heads and (has_bias or not name.endswith(".bias"))
    ]


def internlm2_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes in InternLM2's layout, biases included."""
    hidden, attention, inner = config.hidden, config.heads * config.head_dim, config.intermediate
    found: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (config.vocab, hidden)}
    for layer in range(config.layers):
        start = f"model.layers.{layer}."
        found |= {
            f"{start}attention_norm.weight": (hidden,),
            f"{start}attention.wqkv.weight": (config.wqkv_rows, hidden),
            f"{start}attention.wqkv.bias": (config.wqkv_rows,),
            f"{start}attention.wo.weight": (hidden, attention),
            f"{start}attention.wo.bias": (hidden,),
            f"{start}ffn_norm.weight": (hidden,),
            f"{start}feed_forward.w1.weight": (inner, hidden),
            f"{start}feed_forward.w3.weight": (inner, hidden),
            f"{start}feed_forward.w2.weight": (hidden, inner),
        }
    return found | {"model.norm.weight": (hidden,), "output.weight": (config.vocab, hidden)}


def llama_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes in Llama's layout; with the attention's biases, and the MLP's when the config has them."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in internlm2_tensors(config).items():
        for new_name, heads in renamed(name, config):
            rows = shape[0] if heads is None else heads * config.head_dim
            found[new_name] = (rows, *shape[1:])
            if config.has_mlp_bias and ".mlp." in new_name:
                found[new_name.replace(".weight", ".bias")] = (rows,)
    return found


def renamed(name: str, config: ModelConfig) -> Iterator[tuple[str, int | None]]:
    """Llama's names for a tensor of InternLM2; for the three parts of `wqkv` with their number of heads."""
    if name in _TOP:
        yield _TOP[name], None
    elif match := _LAYER.match(name):
        start, part, ending = match.groups()
        if part in LAYER_PARTS:
            yield f"{start}{LAYER_PARTS[part]}.{ending}", None
        elif part == WQKV:
            for new_part, heads in zip(QKV_PARTS, (config.heads, config.kv_heads, config.kv_heads), strict=True):
                yield f"{start}{new_part}.{ending}", heads


def qkv_rows(part: int, config: ModelConfig) -> Iterator[tuple[int, int]]:
    """Rows of `wqkv` (first, number) that make q_proj (part 0), k_proj (1) or v_proj (2), in their order."""
    queries = config.query_heads_per_group
    first, heads = ((0, queries), (queries, 1), (queries + 1, 1))[part]
    for group in range(config.kv_heads):
        yield (group * (queries + 2) + first) * config.head_dim, heads * config.head_dim


def is_dropped(name: str) -> bool:
    """A table that engines compute themselves."""
    return _DROPPED.search(name) is not None


def reason_against(name: str) -> str:
    """Why a tensor cannot be part of a Llama model, as the end of a sentence."""
    for pattern, reason in _REASONS:
        if re.search(pattern, name):
            return reason
    return "it has no place in this kind of model"


def _check_tensor(tensor: Tensor, expected: Mapping[str, tuple[int, ...]]) -> None:
    if tensor.name not in expected:
        raise ConvertError(f"{tensor.name!r} in {tensor.file} cannot be converted: {reason_against(tensor.name)}.")
    if tensor.dtype not in FLOATS:
        raise ConvertError(
            f"{tensor.name!r} in {tensor.file} has the type {tensor.dtype}; only {', '.join(FLOATS)} can be converted."
        )
    if tensor.shape != expected[tensor.name]:
        raise ConvertError(
            f"{tensor.name!r} in {tensor.file} has the shape {list(tensor.shape)}, but by config.json it should have "
            f"{list(expected[tensor.name])}. Weights and config are not of one model."
        )


def _pieces(tensor: Tensor, config: ModelConfig) -> Iterator[Piece]:
    row_bytes = tensor.size_bytes // tensor.shape[0]
    for part, (name, heads) in enumerate(renamed(tensor.name, config)):
        if heads is None:
            yield Piece(name, tensor.dtype, tensor.shape, tensor.file, ((tensor.offset, tensor.size_bytes),))
        else:
            ranges = ((tensor.offset + row * row_bytes, rows * row_bytes) for row, rows in qkv_rows(part, config))
            shape = (heads * config.head_dim, *tensor.shape[1:])
            yield Piece(name, tensor.dtype, shape, tensor.file, tuple(ranges))
