"""What a model's `config.json` says: InternLM2's, InternLM3's and Llama's.

Sources: `configuration_internlm2.py` of InternLM2's repositories, whose defaults are another model's (a missing `bias`
means true, a missing `num_key_value_heads` means as many as heads); transformers' `LlamaConfig`. Transformers 5 writes
`rope_parameters` with `rope_theta` inside, older ones `rope_scaling` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inference.errors import VerifyError
from inference.weights.tensors import refuse_pointer

Layout = Literal["internlm2", "internlm3", "llama"]
LAYOUTS: tuple[Layout, ...] = ("internlm2", "internlm3", "llama")
MOST_LAYERS = 10_000  # each is a dozen tensors to look for, so a damaged number must not make it millions
_MOST_CONFIG_BYTES = 16 << 20
_DEFAULTS: dict[Layout, dict[str, Any]] = {
    "internlm2": {"vocab_size": 103168, "intermediate_size": 11008, "rms_norm_eps": 1e-6, "bias": True},
    "internlm3": {"vocab_size": 128512, "intermediate_size": 11008, "rms_norm_eps": 1e-6, "bias": False},
    "llama": {"vocab_size": 32000, "intermediate_size": 11008, "rms_norm_eps": 1e-6, "attention_bias": False},
}
_COMMON = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048}


@dataclass(frozen=True)
class Rope:
    """Rotary positions. `kind` is the config's word (`default`: no scaling); `raw` is the scaling's whole entry."""

    theta: float
    kind: str
    factor: float
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """`has_bias` is what the config claims of the attention; the tensors decide. `raw` is the whole file."""

    layout: Layout
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    context_tokens: int
    rope: Rope
    has_bias: bool
    has_mlp_bias: bool
    is_tied: bool
    raw: Mapping[str, Any]

    @property
    def query_heads_per_group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def wqkv_rows(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


def read_config(folder: Path) -> ModelConfig:
    """Raises VerifyError naming the key when the file is missing, damaged or contradicts itself."""
    path = folder / "config.json"
    return parse_config(read_json(path), path)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object. Raises VerifyError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_CONFIG_BYTES)
        refuse_pointer(path, content)
        found = json.loads(content)
        if b"\\u" in content:  # half a character, which no file can hold
            json.dumps(found, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise VerifyError(f"{path} is missing. Fetch or copy it.") from None
    except OSError as error:
        raise VerifyError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise VerifyError(f"{path} is no JSON ({error}). Fetch or copy it again.") from None
    if not isinstance(found, dict):
        raise VerifyError(f"{path} holds no JSON object. Fetch or copy it again.")
    return found


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """Raises VerifyError naming the key."""
    layout = _layout(raw, path)
    read = _Reader({**_COMMON, **_DEFAULTS[layout], **{k: v for k, v in raw.items() if v is not None}}, path)
    hidden, heads = read.whole("hidden_size"), read.whole("num_attention_heads")
    kv_heads = read.whole("num_key_value_heads", heads)
    if hidden % heads and "head_dim" not in raw:
        raise VerifyError(f"{path}: hidden_size {hidden} cannot be divided by num_attention_heads {heads}.")
    if heads % kv_heads:
        raise VerifyError(f"{path}: num_attention_heads {heads} cannot be divided by num_key_value_heads {kv_heads}.")
    head_dim = read.whole("head_dim", hidden // heads)
    if head_dim % 2 or (layout == "internlm2" and head_dim * heads != hidden):
        raise VerifyError(f"{path}: head_dim {head_dim} does not fit hidden_size {hidden} and {heads} heads.")
    return ModelConfig(
        layout=layout,
        vocab=read.whole("vocab_size"),
        hidden=hidden,
        intermediate=read.whole("intermediate_size"),
        layers=read.whole("num_hidden_layers", most=MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=read.number("rms_norm_eps"),
        context_tokens=read.whole("max_position_embeddings"),
        rope=_rope(raw, read, path),
        has_bias=read.flag({"internlm2": "bias", "internlm3": "qkv_bias", "llama": "attention_bias"}[layout]),
        has_mlp_bias=layout != "internlm2" and read.flag({"internlm3": "bias", "llama": "mlp_bias"}[layout]),
        is_tied=read.flag("tie_word_embeddings"),
        raw=raw,
    )


def _layout(raw: Mapping[str, Any], path: Path) -> Layout:
    found = raw.get("model_type")
    for layout in LAYOUTS:
        if found == layout:
            return layout
    known = ", ".join(LAYOUTS)
    raise VerifyError(f"{path}: model_type is {str(found)[:60]!r}; only {known} are known here.")


def _rope(raw: Mapping[str, Any], read: _Reader, path: Path) -> Rope:
    """The old form (`rope_theta` at the top, `rope_scaling`) or the new one (`rope_parameters` with both)."""
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise VerifyError(f"{path}: {name} must be an object or null, but is {str(value)[:60]!r}.")
    scaling = {**(new or {}), **(old or {})}
    inner = _Reader({key: value for key, value in scaling.items() if value is not None}, path)
    theta = read.number("rope_theta", inner.number("rope_theta", 10000.0))
    if new and "rope_theta" in new and raw.get("rope_theta") not in (None, new["rope_theta"]):
        raise VerifyError(f"{path}: rope_theta is {raw['rope_theta']}, but {new['rope_theta']} in rope_parameters.")
    kinds = {str(scaling[key]) for key in ("rope_type", "type") if scaling.get(key) is not None}
    if len(kinds) > 1:
        raise VerifyError(f"{path}: rope_scaling has the types {' and '.join(sorted(kinds))}; it can have one.")
    kind = kinds.pop() if kinds else "default"
    if kind == "default" and scaling.get("factor") not in (None, 1):
        raise VerifyError(f"{path}: rope_scaling has a factor but no type.")
    rest = {key: value for key, value in scaling.items() if key != "rope_theta"}
    return Rope(theta, kind, inner.number("factor", 1.0), rest)


class _Reader:
    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        self._content = content
        self._path = path

    def whole(self, key: str, default: int | None = None, *, most: int = (1 << 31) - 1) -> int:
        value = self._content.get(key, default)
        if type(value) is not int or not 0 < value <= most:
            raise VerifyError(
                f"{self._path}: {key} must be a whole number from 1 to {most}, but is {str(value)[:60]!r}."
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e38:
            raise VerifyError(f"{self._path}: {key} must be a number above 0, but is {str(value)[:60]!r}.")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._content.get(key, False)
        if not isinstance(value, bool):
            raise VerifyError(f"{self._path}: {key} must be true or false, but is {str(value)[:60]!r}.")
        return value
