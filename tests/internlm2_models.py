"""Small random models in InternLM2's layout, written without our code, and their logits in NumPy with 64-bit floats.

The two forward passes follow `modeling_internlm2.py` and transformers' `modeling_llama.py`, each from its own layout
and its own config, so that a converted folder is compared with its source and not with itself.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

Array = npt.NDArray[Any]
BYTE_PIECES = 256


@dataclass(frozen=True, kw_only=True)
class Form:
    """One kind of model and of files."""

    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 16
    layers: int = 2
    intermediate: int = 96
    dtype: str = "BF16"
    has_bias: bool = False
    shards: int = 1
    kind: str = "safetensors"
    rope_scaling: dict[str, Any] | None = None
    context: int = 64
    theta: float = 10000.0

    @property
    def hidden(self) -> int:
        return self.heads * self.head_dim


# --- numbers


def stored(values: Array, dtype: str) -> Array:
    """As they are in a file: bfloat16 as its upper 16 bits."""
    values = values.astype(np.float32)
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def numbers(content: Array, dtype: str) -> Array:
    """64-bit floats from what is in a file."""
    if dtype == "BF16":
        return (content.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return content.astype(np.float64)


NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def random_weights(form: Form, vocab: int, seed: int = 0) -> dict[str, Array]:
    """Stored values by InternLM2's names."""
    rng = np.random.default_rng(seed)
    rows = (form.heads + 2 * form.kv_heads) * form.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (vocab, form.hidden)}
    for layer in range(form.layers):
        start = f"model.layers.{layer}."
        shapes[f"{start}attention.wqkv.weight"] = (rows, form.hidden)
        shapes[f"{start}attention.wo.weight"] = (form.hidden, form.hidden)
        if form.has_bias:
            shapes[f"{start}attention.wqkv.bias"] = (rows,)
            shapes[f"{start}attention.wo.bias"] = (form.hidden,)
        shapes[f"{start}feed_forward.w1.weight"] = (form.intermediate, form.hidden)
        shapes[f"{start}feed_forward.w3.weight"] = (form.intermediate, form.hidden)
        shapes[f"{start}feed_forward.w2.weight"] = (form.hidden, form.intermediate)
        shapes[f"{start}attention_norm.weight"] = (form.hidden,)
        shapes[f"{start}ffn_norm.weight"] = (form.hidden,)
    shapes |= {"model.norm.weight": (form.hidden,), "output.weight": (vocab, form.hidden)}
    found = {}
    for name, shape in shapes.items():
        scale = 0.3 if name.endswith("bias") else 1.0 if "embed" in name else 2.5 / np.sqrt(shape[-1])
        values = rng.standard_normal(shape) * scale
        found[name] = stored(1 + 0.2 * values if "norm" in name else values, form.dtype)
    return found


# --- files


def write_safetensors(path: Path, tensors: dict[str, Array], dtype: str) -> None:
    """In another order than that of the names in the head, as real files may be."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, values in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(dict(reversed(head.items()))).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in tensors.values()))


def read_safetensors(folder: Path) -> dict[str, tuple[str, Array]]:
    """Type and stored values by name, by the library itself, which refuses what is not right."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors.deserialize(path.read_bytes()):
            assert name not in found, f"{name} is there twice"
            values = np.frombuffer(bytes(entry["data"]), NUMPY[entry["dtype"]]).reshape(entry["shape"])
            found[name] = (entry["dtype"], values)
    return found


_TORCH = {"BF16": "BFloat16Storage", "F16": "HalfStorage", "F32": "FloatStorage"}


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _whole(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: Any) -> bytes:
    return b"(" + b"".join(map(_whole, values)) + b"t"


def pickled_tensor(key: str, dtype: str, shape: tuple[int, ...], first: int = 0, stride: Any = None) -> bytes:
    """The steps of a pickle that make one tensor, as torch.save writes them."""
    steps = np.cumprod([1, *reversed(shape)])[:-1][::-1] if stride is None else stride
    count = int(np.prod(shape))
    storage = (
        b"(" + _text("storage") + f"ctorch\n{_TORCH[dtype]}\n".encode() + _text(key) + _text("cpu") + _whole(count)
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + _whole(first) + _tuple(shape)
        + _tuple(int(step) for step in steps) + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def write_torch_file(
    path: Path, pickled: dict[str, bytes], storages: dict[str, bytes], *, byteorder: bytes = b"little"
) -> None:
    """A zip as torch.save makes it: members stored, data at multiples of 64."""
    listed = b"\x80\x02}(" + b"".join(_text(name) + steps for name, steps in pickled.items()) + b"u."
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", listed)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in storages.items():
            member = zipfile.ZipInfo(f"archive/data/{key}")
            start = out.tell() + 30 + len(member.filename) + 4
            padding = -start % 64
            member.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
            archive.writestr(member, content)
        archive.writestr("archive/version", b"3\n")
    path.write_bytes(out.getvalue())


def write_bin(path: Path, tensors: dict[str, Array], dtype: str) -> None:
    """Two tensors share each storage, as tied or sliced weights do."""
    pickled: dict[str, bytes] = {}
    storages: dict[str, bytes] = {}
    names = list(tensors)
    for start in range(0, len(names), 2):
        first = 0
        content = b""
        for name in names[start : start + 2]:
            values = tensors[name]
            pickled[name] = pickled_tensor(str(start), dtype, values.shape, first)
            first += values.size
            content += values.tobytes()
        storages[str(start)] = content
    write_torch_file(path, pickled, storages)


def write_shards(folder: Path, weights: dict[str, Array], form: Form) -> None:
    """All weights, in `form.shards` files with an index when there are several."""
    names = list(weights)
    per = -(-len(names) // form.shards)
    start, ending, write = (
        ("model", "safetensors", write_safetensors)
        if form.kind == "safetensors"
        else ("pytorch_model", "bin", write_bin)
    )
    listed: dict[str, str] = {}
    for number in range(form.shards):
        part = {name: weights[name] for name in names[number * per : (number + 1) * per]}
        file = f"{start}-{number + 1:05d}-of-{form.shards:05d}.{ending}" if form.shards > 1 else f"{start}.{ending}"
        write(folder / file, part, form.dtype)
        listed |= dict.fromkeys(part, file)
    if form.shards > 1:
        index = {"metadata": {"total_size": 1}, "weight_map": listed}
        (folder / f"{start}.{ending}.index.json").write_text(json.dumps(index))


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def tokenizer_model(words: list[str]) -> bytes:
    """A sentencepiece model: unknown, two control pieces, bytes, all parts of the words, two pieces for the chat."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(BYTE_PIECES)]
    parts = sorted(
        {word[:end] for word in words for end in range(2, len(word) + 1)}, key=lambda part: (len(part), part)
    )
    letters = sorted({letter for word in words for letter in word})
    pieces += [(part, -float(rank), 1) for rank, part in enumerate([*parts, *letters])]
    pieces += [(f"[UNUSED_TOKEN_{number}]", 0.0, 4) for number in range(2)]
    content = b""
    for text, score, kind in pieces:
        content += _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
    trainer = bytes([3 << 3, 2]) + bytes([0x98, 0x02, 1])  # model_type BPE, byte_fallback (field 35)
    normalizer = _field(1, b"identity") + bytes([3 << 3, 0, 4 << 3, 0, 5 << 3, 1])
    return content + _field(2, trainer) + _field(3, normalizer)


WORDS = ["\u2581hello", "hello", "world", "\u2581the", "你好", "世界"]


def write_model(folder: Path, form: Form, *, seed: int = 0, **changes: Any) -> dict[str, Array]:
    """A whole folder; returns its stored weights. `changes` go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tokenizer_model(WORDS)
    (folder / "tokenizer.model").write_bytes(model)
    vocab = tokenizer_pieces()
    weights = random_weights(form, vocab, seed)
    write_shards(folder, weights, form)
    (folder / "config.json").write_text(json.dumps(config_of(form, vocab) | changes))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    named = {vocab - 2: "<|im_end|>", vocab - 1: "<|im_start|>"}
    decoder = {str(token): {"content": text, "special": True} for token, text in named.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "InternLM2Tokenizer", "auto_map": {}, "added_tokens_decoder": decoder})
    )
    return weights


def tokenizer_pieces() -> int:
    """How many pieces `tokenizer_model(WORDS)` has."""
    parts = {word[:end] for word in WORDS for end in range(2, len(word) + 1)}
    return 3 + BYTE_PIECES + len(parts) + len({letter for word in WORDS for letter in word}) + 2


def config_of(form: Form, vocab: int) -> dict[str, Any]:
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "attn_implementation": "eager",
        "model_type": "internlm2",
        "bias": form.has_bias,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": form.hidden,
        "intermediate_size": form.intermediate,
        "max_position_embeddings": form.context,
        "num_attention_heads": form.heads,
        "num_hidden_layers": form.layers,
        "num_key_value_heads": form.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_scaling": form.rope_scaling,
        "rope_theta": form.theta,
        "tie_word_embeddings": False,
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[form.dtype],
        "vocab_size": vocab,
    }


# --- forward passes


def internlm2_logits(weights: dict[str, Array], config: dict[str, Any], ids: Array) -> Array:
    """Of every position, from InternLM2's layout: `wqkv` as (group, query heads and key and value, head_dim)."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim, eps = config["hidden_size"] // heads, config["rms_norm_eps"]
    base, position = float(config["rope_theta"]), np.arange(len(ids), dtype=np.float64)
    scaling = config["rope_scaling"]
    if scaling and scaling["type"] == "linear":
        position = position / scaling["factor"]
    if scaling and scaling["type"] == "dynamic" and len(ids) > config["max_position_embeddings"]:
        factor = scaling["factor"]
        base *= (factor * len(ids) / config["max_position_embeddings"] - (factor - 1)) ** (dim / (dim - 2))
    angles = np.outer(position, 1.0 / base ** (np.arange(0, dim, 2) / dim))
    x = weights["model.tok_embeddings.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        normed = _rms(x, weights[f"{start}attention_norm.weight"], eps)
        qkv = _linear(normed, weights, f"{start}attention.wqkv")
        qkv = qkv.reshape(len(ids), kv_heads, heads // kv_heads + 2, dim)
        queries = qkv[:, :, :-2].reshape(len(ids), heads, dim)
        mixed = _attention(_turned(queries, angles), _turned(qkv[:, :, -2], angles), qkv[:, :, -1])
        x = x + _linear(mixed, weights, f"{start}attention.wo")
        normed = _rms(x, weights[f"{start}ffn_norm.weight"], eps)
        gate = _silu(_linear(normed, weights, f"{start}feed_forward.w1"))
        x = x + _linear(gate * _linear(normed, weights, f"{start}feed_forward.w3"), weights, f"{start}feed_forward.w2")
    return _rms(x, weights["model.norm.weight"], eps) @ weights["output.weight"].T


def llama_logits(weights: dict[str, Array], config: dict[str, Any], ids: Array) -> Array:
    """Of every position, from Llama's layout and config."""
    heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    angles = np.outer(np.arange(len(ids)), llama_frequencies(config, len(ids)))
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        normed = _rms(x, weights[f"{start}input_layernorm.weight"], config["rms_norm_eps"])
        q, k, v = (
            _linear(normed, weights, f"{start}self_attn.{part}_proj").reshape(len(ids), count, dim)
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        mixed = _attention(_turned(q, angles), _turned(k, angles), v)
        x = x + _linear(mixed, weights, f"{start}self_attn.o_proj")
        normed = _rms(x, weights[f"{start}post_attention_layernorm.weight"], config["rms_norm_eps"])
        inner = _silu(_linear(normed, weights, f"{start}mlp.gate_proj")) * _linear(
            normed, weights, f"{start}mlp.up_proj"
        )
        x = x + _linear(inner, weights, f"{start}mlp.down_proj")
    return _rms(x, weights["model.norm.weight"], config["rms_norm_eps"]) @ weights["lm_head.weight"].T


def llama_frequencies(config: dict[str, Any], length: int) -> Array:
    """As transformers' `modeling_rope_utils.py`, from the old form of the config, as TGI reads it."""
    assert "rope_parameters" not in config
    dim, base, scaling = config["head_dim"], config["rope_theta"], config["rope_scaling"] or {"rope_type": "default"}
    if scaling["rope_type"] == "dynamic":
        limit, factor = config["max_position_embeddings"], scaling["factor"]
        length = max(length, limit)
        base = base * ((factor * length / limit) - (factor - 1)) ** (dim / (dim - 2))
    plain = 1.0 / base ** (np.arange(0, dim, 2) / dim)
    if scaling["rope_type"] != "llama3":
        return plain
    wave, old = 2 * np.pi / plain, scaling["original_max_position_embeddings"]
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = (old / wave - low) / (high - low)
    between = (1 - smooth) * plain / factor + smooth * plain
    return np.where(wave > old / low, plain / factor, np.where(wave < old / high, plain, between))


def _linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    bias = weights.get(f"{name}.bias")
    return x @ weights[f"{name}.weight"].T + (0.0 if bias is None else bias)


def _rms(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _turned(x: Array, angles: Array) -> Array:
    half = x.shape[-1] // 2
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    left, right = x[..., :half], x[..., half:]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], -1)


def _attention(q: Array, k: Array, v: Array) -> Array:
    repeats = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", shares, v).reshape(len(q), -1)
