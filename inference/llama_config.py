"""The small files of a converted model, as TGI and LMDeploy read them.

TGI's transformers (4.51) reads `rope_theta` from the top of `config.json` and knows no `rope_parameters`; TGI ignores
`linear` scaling, but knows `llama3`, which is the same table when all wave lengths count as long; it stops at a list of
ids in `generation_config.json` and at nothing else there. Source: `layers/rotary.py` and `utils/tokens.py` of TGI.
"""

from __future__ import annotations

from typing import Any

from inference.errors import ConvertError
from inference.model_config import ModelConfig, Rope
from inference.vocabulary import Vocabulary

_TORCH_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# With these, llama3's rule takes every wave length for a long one, and divides all frequencies by the factor.
LINEAR_AS_LLAMA3 = {"low_freq_factor": 1e9, "high_freq_factor": 2e9, "original_max_position_embeddings": 8192}
_PLAIN = ("single_word", "lstrip", "rstrip", "normalized")
_KEPT = ("hidden_act", "initializer_range", "rms_norm_eps", "use_cache")


def llama_config(config: ModelConfig, *, has_bias: bool, dtype: str, eos: list[int]) -> dict[str, Any]:
    """The `config.json` of Llama's layout. `dtype` is that of most weights. Raises ConvertError for an odd scaling."""
    raw = config.raw
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": has_bias,
        "attention_dropout": 0.0,
        "bos_token_id": token_id(raw.get("bos_token_id"), 1),
        "eos_token_id": eos,
        "pad_token_id": token_id(raw.get("pad_token_id"), 2),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "max_position_embeddings": config.context_tokens,
        "mlp_bias": config.has_mlp_bias,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": rope_scaling(config.rope),
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.is_tied,
        "torch_dtype": _TORCH_DTYPES[dtype],
        "vocab_size": config.vocab,
        **{key: raw[key] for key in _KEPT if raw.get(key) is not None},
    }


def rope_scaling(rope: Rope) -> dict[str, Any] | None:
    """In the form that both engines compute rightly. Raises ConvertError for a kind that InternLM2 does not have."""
    match rope.kind:
        case "default":
            return None
        case "dynamic":
            return {"rope_type": "dynamic", "type": "dynamic", "factor": rope.factor}
        case "linear":
            return {"rope_type": "llama3", "factor": rope.factor, **LINEAR_AS_LLAMA3}
    raise ConvertError(
        f"config.json: rope_scaling has the type {rope.kind!r}; InternLM2 knows linear and dynamic only."
    )


def stop_ids(config: ModelConfig, generation: dict[str, Any], end: int | None) -> list[int]:
    """All ids that end an answer: the files' own, and `end`, the id of `<|im_end|>` in this tokenizer."""
    told = _ids(generation.get("eos_token_id")) or _ids(config.raw.get("eos_token_id")) or [2]
    found = dict.fromkeys([*told, *([] if end is None else [end])])
    return [token for token in found if token < config.vocab]


def generation_config(source: dict[str, Any], config: ModelConfig, eos: list[int]) -> dict[str, Any]:
    """The source's own settings with ids that TGI reads: a list, even of one."""
    ids = {
        "bos_token_id": token_id(config.raw.get("bos_token_id"), 1),
        "eos_token_id": eos,
        "pad_token_id": token_id(config.raw.get("pad_token_id"), 2),
    }
    return {**{key: value for key, value in source.items() if key != "transformers_version"}, **ids}


def tokenizer_config(vocabulary: Vocabulary, config: ModelConfig, template: str | None) -> dict[str, Any]:
    """What makes transformers load `tokenizer.json` as it is, with the template where TGI looks for it."""
    named = named_tokens(vocabulary, config)
    special = [added.text for added in vocabulary.added.values() if added.is_special]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "additional_special_tokens": [text for text in special if text not in named.values()],
        "added_tokens_decoder": {
            str(token): {"content": added.text, **dict.fromkeys(_PLAIN, False), "special": added.is_special}
            for token, added in vocabulary.added.items()
            if token >= len(vocabulary.pieces) or added.is_special or added.text != vocabulary.pieces[token].text
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_tokens,
        **({} if template is None else {"chat_template": template}),
    }


def named_tokens(vocabulary: Vocabulary, config: ModelConfig) -> dict[str, str]:
    """The tokens with a role, by transformers' words. Raises ConvertError when config.json names none of them."""
    ids = {"bos_token": ("bos_token_id", 1), "eos_token": ("eos_token_id", 2), "pad_token": ("pad_token_id", 2)}
    found = {"unk_token": next((piece.text for piece in vocabulary.pieces if piece.kind == 2), "<unk>")}
    for name, (key, default) in ids.items():
        told = _ids(config.raw.get(key)) or [default]
        if told[0] not in vocabulary.added:
            raise ConvertError(f"config.json: {key} is {told[0]}, which is no special token in tokenizer.model.")
        found[name] = vocabulary.text(told[0])
    return found


def token_id(value: Any, default: int) -> int:
    return (_ids(value) or [default])[0]


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if type(one) is int and one >= 0]
