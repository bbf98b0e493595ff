"""LoRA adapters (PEFT) of InternLM2 for a base model in Llama's layout; the base is not needed.

Format: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`) as package `peft` writes them; names are those
of the base, after `base_model.model.`. The adapter of `wqkv` becomes three: `lora_A` is shared by them, and `lora_B` is
cut by the same rows as the weight. Rank and alpha stay, so the sum is the same.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from inference.errors import ConvertError, VerifyError
from inference.llama_layout import QKV_PARTS, WQKV, qkv_rows, reason_against, renamed
from inference.model_config import ModelConfig, parse_config, read_config, read_json
from inference.new_folder import Output, SmallFile, write_folder, write_json
from inference.status import Report
from inference.weights.checkpoint import read_weights
from inference.weights.tensors import FLOATS, Piece, Tensor

CONFIG_NAME = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
HEAD_DIM = 128  # of every InternLM2
_NAME = re.compile(
    r"^(?P<start>base_model\.model\.)(?P<module>[\w.]+?)"
    r"(?P<end>\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight|\.bias)?|\.weight|\.bias)$"
)
_CUT = (".lora_B.weight", ".lora_B.bias", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_MODULES = {
    "wqkv": ("q_proj", "k_proj", "v_proj"),
    "wo": ("o_proj",),
    "w1": ("gate_proj",),
    "w3": ("up_proj",),
    "w2": ("down_proj",),
    "output": ("lm_head",),
    "tok_embeddings": ("embed_tokens",),
    "attention_norm": ("input_layernorm",),
    "ffn_norm": ("post_attention_layernorm",),
    "norm": ("norm",),
}


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_NAME).exists() and not (folder / "config.json").exists()


def convert_adapter(source: Path, target: Path, report: Report, cancelled: threading.Event) -> Path:
    """Returns `target`. Raises ConvertError naming the tensor or setting that has no counterpart, or VerifyError."""
    settings = read_json(source / CONFIG_NAME)
    if str(settings.get("peft_type", "LORA")).upper() != "LORA":
        raise ConvertError(
            f"{source / CONFIG_NAME}: peft_type is {settings['peft_type']!r}; only LORA can be converted."
        )
    weights = next((path for name in WEIGHT_NAMES if (path := source / name).exists()), None)
    if weights is None:
        raise ConvertError(f"{source} has no {' or '.join(WEIGHT_NAMES)}. Fetch or copy it.")
    tensors = read_weights(weights)
    config = _geometry(source, settings, tensors)
    pieces = tuple(piece for tensor in tensors for piece in _pieces(tensor, config))
    new_settings = _settings(settings, pieces, source / CONFIG_NAME)
    output = Output("adapter_model.safetensors", tuple(sorted(pieces, key=lambda piece: piece.dtype != "F32")))
    small = [SmallFile(CONFIG_NAME, lambda path: write_json(path, new_settings))]
    write_folder(target, [output], small, [source / CONFIG_NAME], report, cancelled)
    return target


def _geometry(source: Path, settings: dict[str, Any], tensors: Sequence[Tensor]) -> ModelConfig | None:
    """How `wqkv` is made: from the base's config.json when it is on this machine, else from the adapter's shapes.

    None when `wqkv` has no adapter.
    """
    qkv = {tensor.name.rpartition(".lora_")[2]: tensor for tensor in tensors if f".{WQKV}." in tensor.name}
    if not qkv:
        return None
    base = Path(str(settings.get("base_model_name_or_path") or ""))
    if base.is_absolute() and (base / "config.json").is_file():
        return read_config(base)
    down, up = qkv.get("A.weight"), qkv.get("B.weight")
    if down is None or up is None or len(down.shape) != 2 or len(up.shape) != 2:
        raise ConvertError("The adapter of attention.wqkv lacks lora_A or lora_B. Fetch or copy it again.")
    hidden, rows = down.shape[1], up.shape[0]
    kv_heads, rest = divmod(rows - hidden, 2 * HEAD_DIM)
    if rest or hidden % HEAD_DIM or kv_heads < 1 or (hidden // HEAD_DIM) % kv_heads:
        raise ConvertError(
            f"{up.name!r} has {rows} rows for a model of width {hidden}: these are not heads of {HEAD_DIM}. Put the "
            f"base model on this machine, and its folder into base_model_name_or_path of {CONFIG_NAME}."
        )
    sizes = {"hidden_size": hidden, "num_attention_heads": hidden // HEAD_DIM, "num_key_value_heads": kv_heads}
    return parse_config({"model_type": "internlm2", **sizes}, source / CONFIG_NAME)


def _pieces(tensor: Tensor, config: ModelConfig | None) -> Iterator[Piece]:
    match = _NAME.match(tensor.name)
    if not match or tensor.dtype not in FLOATS or not tensor.shape:
        raise ConvertError(f"{tensor.name!r} in {tensor.file} cannot be converted: it is no tensor of a LoRA adapter.")
    start, module, end = match["start"], match["module"], match["end"]
    whole = ((tensor.offset, tensor.size_bytes),)
    if config and module.endswith(f".{WQKV}"):
        prefix = module.removesuffix(WQKV)
        for part, new_part in enumerate(QKV_PARTS):
            name = f"{start}{prefix}{new_part}{end}"
            if end in (*_CUT, ".weight", ".bias"):
                yield _cut(tensor, name, part, config)
            else:
                yield Piece(name, tensor.dtype, tensor.shape, tensor.file, whole)
        return
    names = [name for name, _ in renamed(f"{module}.weight", _ANY)]
    if len(names) != 1:
        raise ConvertError(f"{tensor.name!r} in {tensor.file} cannot be converted: {reason_against(module)}.")
    yield Piece(f"{start}{names[0].removesuffix('.weight')}{end}", tensor.dtype, tensor.shape, tensor.file, whole)


def _cut(tensor: Tensor, name: str, part: int, config: ModelConfig) -> Piece:
    if tensor.shape[0] != config.wqkv_rows:
        raise ConvertError(
            f"{tensor.name!r} has {tensor.shape[0]} rows, but by the base model's config it should have "
            f"{config.wqkv_rows}."
        )
    row_bytes = tensor.size_bytes // tensor.shape[0]
    ranges = [(tensor.offset + row * row_bytes, rows * row_bytes) for row, rows in qkv_rows(part, config)]
    rows = sum(size for _, size in ranges) // row_bytes
    return Piece(name, tensor.dtype, (rows, *tensor.shape[1:]), tensor.file, tuple(ranges))


_ANY = parse_config({"model_type": "internlm2"}, Path("config.json"))  # names do not depend on sizes


def _settings(settings: dict[str, Any], pieces: Iterable[Piece], path: Path) -> dict[str, Any]:
    """The adapter's settings by Llama's names. The modules are told by the tensors that are there."""
    modules: dict[str, None] = {}
    saved: dict[str, None] = {}
    for piece in pieces:
        if match := _NAME.match(piece.name):
            found = modules if ".lora_" in match["end"] else saved
            found[match["module"].rpartition(".")[2]] = None
    patterns = {
        key: _renamed_keys(settings[key], key, path) for key in ("rank_pattern", "alpha_pattern") if settings.get(key)
    }
    kept = {key: value for key, value in settings.items() if key != "auto_mapping"}
    return kept | patterns | {"target_modules": list(modules), "modules_to_save": list(saved) or None}


def _renamed_keys(pattern: Any, key: str, path: Path) -> dict[str, Any]:
    """Ranks by module; PEFT takes a key for the end of a module's name."""
    if not isinstance(pattern, dict):
        raise VerifyError(f"{path}: {key} must be an object.")
    found: dict[str, Any] = {}
    for name, value in pattern.items():
        start, dot, last = str(name).rpartition(".")
        if last not in _MODULES or not re.fullmatch(r"[\w.]*", start):
            raise ConvertError(f"{path}: {key} names {name!r}, whose counterpart in Llama's layout is not known.")
        parent = {"attention": "self_attn", "feed_forward": "mlp"}.get(start.rpartition(".")[2])
        before = start if parent is None else start.rpartition(".")[0] + start.rpartition(".")[1] + parent
        found |= {f"{before}{dot}{new}": value for new in _MODULES[last]}
    return found
