"""A GGUF file for llama.cpp from a folder in InternLM2's or Llama's layout, of architecture `llama`.

The package `gguf` knows the format and the types; which tensor becomes which is ours (`gguf_weights.py`), and so is the
tokenizer (`gguf_vocabulary.py`). Written under another name, and renamed when it is whole and on the disk.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType

from inference.chat_template import INTERNLM2, read_chat_template, with_chat_names
from inference.convert import planned_outputs
from inference.errors import Cancelled, ConvertError, DiskFull
from inference.gguf_vocabulary import gguf_tokens
from inference.gguf_weights import Array, Weights, weights_of
from inference.llama_config import LINEAR_AS_LLAMA3, named_tokens, stop_ids, token_id
from inference.model_config import ModelConfig, Rope, read_config, read_json
from inference.new_folder import DISK_MARGIN_BYTES, plain_disk_errors
from inference.sentencepiece_model import Kind
from inference.sizes import megabytes
from inference.status import Progress, Report
from inference.tokenizer import check_equal
from inference.vocabulary import IM_END, Vocabulary, read_vocabulary
from inference.weights.ranges import sync_folder

_FILE_TYPES = {
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "BF16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


def write_gguf(
    source: Path, target: Path, kind: str, report: Report, *, cancelled: threading.Event | None = None
) -> Path:
    """Returns the file: `target`, or one named after the source in it when it is a folder. `kind`: F16, BF16 or Q8_0.

    Raises ConvertError, VerifyError (a damaged source), DiskFull or Cancelled.
    """
    if target.is_dir() or target.suffix != ".gguf":
        target = target / f"{source.resolve().name}-{kind}.gguf"
    stop = cancelled or threading.Event()
    with plain_disk_errors(target):
        if (source / "adapter_config.json").exists() and not (source / "config.json").exists():
            raise ConvertError(f"{source} is a LoRA adapter. Merge it into its base model, and convert that.")
        config, outputs = planned_outputs(source, read_config(source), report)
        pieces = [piece for output in outputs for piece in output.pieces]
        counter = _Counter(sum(piece.size_bytes for piece in pieces), f"writing {target.name} ({kind})", report, stop)
        tensors = [weights_of(piece, _FILE_TYPES[kind][0], config, counter.count) for piece in pieces]
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target.parent, sum(tensor.nbytes for tensor in tensors))
        partial = target.with_name(f".{target.name}.partial")
        try:
            _write(partial, source, config, kind, tensors)
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
    return target


class _Counter:
    def __init__(self, total: int, message: str, report: Report, cancelled: threading.Event) -> None:
        self._done, self._total, self._message = 0, total, message
        self._report, self._cancelled = report, cancelled

    def count(self, size: int) -> None:
        if self._cancelled.is_set():
            raise Cancelled("Stopped while the GGUF file was being written.")
        self._done += size
        self._report(Progress("convert", self._done, self._total, self._message))


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + DISK_MARGIN_BYTES:
        raise DiskFull(f"The file needs {megabytes(size)}, but {folder} has {megabytes(free)} free. Free some space.")


def _write(path: Path, source: Path, config: ModelConfig, kind: str, tensors: Sequence[Weights]) -> None:
    writer = GGUFWriter(path, "llama")
    try:
        writer.add_name(source.resolve().name)
        writer.add_file_type(_FILE_TYPES[kind][1])
        writer.add_quantization_version(_QUANTIZATION_VERSION)
        _add_sizes(writer, config)
        _add_tokenizer(writer, source, config)
        frequencies = _add_rope(writer, config)
        for tensor in tensors:
            shape = tensor.piece.shape
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind)
        if frequencies is not None:
            writer.add_tensor_info("rope_freqs.weight", frequencies.shape, frequencies.dtype, frequencies.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for content in (*tensors, *([] if frequencies is None else [frequencies])):
            writer.write_tensor_data(cast(Any, content))
        writer.flush()
        for out in writer.fout or ():
            os.fsync(out.fileno())
    finally:
        writer.close()


def _add_sizes(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.context_tokens)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    for add in (writer.add_rope_dimension_count, writer.add_key_length, writer.add_value_length):
        add(config.head_dim)


def _add_rope(writer: GGUFWriter, config: ModelConfig) -> Array | None:
    """Returns the factors of the frequencies where the scaling is llama3's, which is no setting in a GGUF file.

    Dynamic scaling acts beyond the context that the file allows only, so it is left out.
    """
    rope = config.rope
    writer.add_rope_freq_base(rope.theta)
    is_linear = rope.kind == "llama3" and rope.raw.get("low_freq_factor") == LINEAR_AS_LLAMA3["low_freq_factor"]
    if rope.kind == "linear" or is_linear:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor)
    elif rope.kind == "llama3":
        return _llama3_factors(rope, config.head_dim)
    elif rope.kind not in ("default", "dynamic"):
        raise ConvertError(f"config.json: rope_scaling has the type {rope.kind!r}, which is not written to GGUF here.")
    return None


def _llama3_factors(rope: Rope, head_dim: int) -> Array:
    """What llama.cpp divides each frequency by; the rule is that of transformers' `modeling_rope_utils.py`."""
    try:
        low, high = float(rope.raw["low_freq_factor"]), float(rope.raw["high_freq_factor"])
        old = float(rope.raw["original_max_position_embeddings"])
    except (KeyError, TypeError, ValueError):
        raise ConvertError("config.json: rope_scaling lacks a number that the type llama3 needs.") from None
    factors = []
    for index in range(0, head_dim, 2):
        wave = 2 * math.pi * rope.theta ** (index / head_dim)
        smooth = (old / wave - low) / (high - low)
        between = 1 / ((1 - smooth) / rope.factor + smooth) if 0 < smooth < 1 else 1.0
        factors.append(1.0 if wave < old / high else rope.factor if wave > old / low else between)
    return np.array(factors, dtype=np.float32)


def _add_tokenizer(writer: GGUFWriter, source: Path, config: ModelConfig) -> None:
    vocabulary = read_vocabulary(source, config.vocab)
    check_equal(vocabulary)
    named_tokens(vocabulary, config)
    tokens = list(gguf_tokens(vocabulary, config.vocab))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_scores([token.score for token in tokens])
    writer.add_token_types([int(token.kind) for token in tokens])
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    _add_special_ids(writer, source, config, vocabulary)
    template = read_chat_template(source)
    if template is None and vocabulary.has_chat_tokens:
        template = INTERNLM2
    if template is not None:
        writer.add_chat_template(with_chat_names(template) if vocabulary.has_chat_tokens else template)


def _add_special_ids(writer: GGUFWriter, source: Path, config: ModelConfig, vocabulary: Vocabulary) -> None:
    """llama.cpp stops at `eos` and at `eot`, the end of a turn."""
    path = source / "generation_config.json"
    end = vocabulary.id_of(IM_END)
    stops = stop_ids(config, read_json(path) if path.exists() else {}, end)
    writer.add_bos_token_id(token_id(config.raw.get("bos_token_id"), 1))
    writer.add_eos_token_id(stops[0])
    if end is not None:
        writer.add_eot_token_id(end)
    writer.add_unk_token_id(next(token for token, piece in enumerate(vocabulary.pieces) if piece.kind is Kind.UNKNOWN))
    writer.add_pad_token_id(token_id(config.raw.get("pad_token_id"), 2))
