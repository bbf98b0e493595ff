"""InternLM2 (and InternLM3) to Llama's layout, for TGI and LMDeploy: bytes are moved, nothing is computed or loaded.

One file of weights after the other by byte ranges (`llama_layout.py`, `weights/ranges.py`), then the tokenizer
(`tokenizer.py`) and the settings that both engines really read (`llama_config.py`), `config.json` last
(`new_folder.py`). InternLM3 has Llama's names already: its files are linked, and only the settings are written anew.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.chat_template import INTERNLM2, read_chat_template, with_chat_names
from inference.errors import ConvertError
from inference.llama_config import (
    generation_config,
    llama_config,
    named_tokens,
    stop_ids,
    tokenizer_config,
)
from inference.llama_layout import check_tensors, is_dropped, llama_shards, llama_tensors
from inference.lora import convert_adapter, is_adapter
from inference.model_config import ModelConfig, read_config, read_json
from inference.new_folder import Output, SmallFile, plain_disk_errors, write_folder, write_json
from inference.status import Progress, Report
from inference.tokenizer import check_equal, write_tokenizer
from inference.vocabulary import IM_END, Vocabulary, read_vocabulary, told_tokens
from inference.weights.checkpoint import read_checkpoint
from inference.weights.tensors import Piece, Shard

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
_COPIED = ("tokenizer.model", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
_EMBEDDINGS = ("model.tok_embeddings.weight", "model.embed_tokens.weight")


def convert(source: Path, target: Path, report: Report, *, cancelled: threading.Event | None = None) -> Path:
    """Converts a folder, a model or a LoRA adapter of one. Blocks; set `cancelled` to stop it early.

    Returns the folder to be used: `target`, or `source` itself when it is in Llama's layout already. A second run goes
    on where the first was interrupted, and does nothing when all is done.
    Raises ConvertError, VerifyError (a damaged source), DiskFull or Cancelled.
    """
    stop = cancelled or threading.Event()
    with plain_disk_errors(target):
        if not source.is_dir():
            raise ConvertError(f"{source} is no folder. Name the folder that holds the model's files.")
        if is_adapter(source):
            return convert_adapter(source, target, report, stop)
        config = read_config(source)
        if config.layout == "llama":
            report(Progress("convert", message=f"{source} is in Llama's layout already; nothing needs to be converted"))
            return source
        _convert_model(source, target, config, report, stop)
    return target


@dataclass(frozen=True)
class _Source:
    """All that the small files are made of. `vocabulary` is None when the folder's own tokenizer.json is taken."""

    folder: Path
    config: ModelConfig
    outputs: tuple[Output, ...]
    vocabulary: Vocabulary | None
    eos: list[int]
    generation: dict[str, Any]
    template: str | None


def _convert_model(source: Path, target: Path, config: ModelConfig, report: Report, cancelled: threading.Event) -> None:
    config, outputs = planned_outputs(source, config, report)
    read = _read_source(source, config, outputs, report)
    settings = [path for name in _SETTINGS if (path := source / name).exists()]
    write_folder(target, outputs, _small_files(read), settings, report, cancelled)


def planned_outputs(source: Path, config: ModelConfig, report: Report) -> tuple[ModelConfig, tuple[Output, ...]]:
    """The files of weights in Llama's layout, and the config with the vocabulary that the embedding has.

    Raises ConvertError naming the tensor that has no place there, is missing, doubled or misshapen; VerifyError.
    """
    if "quantization_config" in config.raw:
        raise ConvertError(f"{source / 'config.json'} has a quantization_config. Convert the 16-bit model instead.")
    shards = read_checkpoint(source)
    config = _with_real_vocabulary(config, shards, report)
    if config.layout == "internlm2":
        return config, _internlm2_outputs(shards, config)
    return config, _linked_outputs(shards, config)


def _with_real_vocabulary(config: ModelConfig, shards: Sequence[Shard], report: Report) -> ModelConfig:
    """Engines take the size of the vocabulary from the config and fail when the embedding has another one."""
    for tensor in (tensor for shard in shards for tensor in shard.tensors):
        if tensor.name in _EMBEDDINGS and tensor.shape and tensor.shape[0] not in (0, config.vocab):
            report(
                Progress(
                    "convert",
                    message=f"config.json says {config.vocab} tokens, the embedding has {tensor.shape[0]}; that counts",
                )
            )
            return replace(config, vocab=tensor.shape[0])
    return config


def _internlm2_outputs(shards: Sequence[Shard], config: ModelConfig) -> tuple[Output, ...]:
    """Types of four bytes first in each file, so that every tensor begins at a multiple of its element."""
    pieces = [sorted(each, key=lambda piece: piece.dtype != "F32") for each in llama_shards(shards, config) if each]
    return tuple(Output(_shard_name(number, len(pieces)), tuple(each)) for number, each in enumerate(pieces, start=1))


def _linked_outputs(shards: Sequence[Shard], config: ModelConfig) -> tuple[Output, ...]:
    """InternLM3 has Llama's names: safetensors files are taken as they are, `.bin` files are rewritten."""
    check_tensors(shards, llama_tensors(config), config)
    found = []
    for number, shard in enumerate(shards, start=1):
        pieces = tuple(
            Piece(one.name, one.dtype, one.shape, one.file, ((one.offset, one.size_bytes),))
            for one in shard.tensors
            if shard.path.suffix == ".safetensors" or not is_dropped(one.name)
        )
        if shard.path.suffix == ".safetensors":
            found.append(Output(shard.path.name, pieces, link=shard.path))
        else:
            found.append(Output(_shard_name(number, len(shards)), pieces))
    return tuple(found)


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _read_source(source: Path, config: ModelConfig, outputs: tuple[Output, ...], report: Report) -> _Source:
    """The small files' sources, read and checked before anything is written."""
    vocabulary = _vocabulary(source, config)
    if vocabulary and vocabulary.left_out:
        texts = ", ".join(vocabulary.left_out[:6])
        report(Progress("convert", message=f"left out, since the embedding has no rows for them: {texts}"))
    generation_path = source / "generation_config.json"
    generation = read_json(generation_path) if generation_path.exists() else {}
    end = vocabulary.id_of(IM_END) if vocabulary else _told_id(source, IM_END)
    template = read_chat_template(source)
    has_chat_tokens = vocabulary.has_chat_tokens if vocabulary else end is not None
    if template is None and has_chat_tokens:
        template = INTERNLM2
    if template is not None and has_chat_tokens:
        template = with_chat_names(template)
    eos = stop_ids(config, generation, end)
    return _Source(source, config, outputs, vocabulary, eos, generation, template)


def _vocabulary(source: Path, config: ModelConfig) -> Vocabulary | None:
    """From tokenizer.model. Where that cannot be written as tokenizer.json, a tokenizer.json in the folder is taken."""
    has_json = (source / "tokenizer.json").exists()
    if not (source / "tokenizer.model").exists():
        if has_json:
            return None
        raise ConvertError(f"{source} has no tokenizer.model. Fetch it from the model's repository into this folder.")
    vocabulary = read_vocabulary(source, config.vocab)
    try:
        check_equal(vocabulary)
        named_tokens(vocabulary, config)
    except ConvertError:
        if has_json:
            return None
        raise
    return vocabulary


def _told_id(source: Path, text: str) -> int | None:
    return next((token for _, token, told, _ in told_tokens(source) if told == text), None)


def _small_files(read: _Source) -> list[SmallFile]:
    """In the order of their writing; config.json is the last."""
    pieces = [piece for output in read.outputs for piece in output.pieces]
    dtypes = Counter[str]()
    for piece in pieces:
        dtypes[piece.dtype] += piece.size_bytes
    has_bias = any(piece.name.endswith("self_attn.q_proj.bias") for piece in pieces)
    config = llama_config(read.config, has_bias=has_bias, dtype=dtypes.most_common(1)[0][0], eos=read.eos)
    files = [_copy(name, read.folder / name) for name in _COPIED if (read.folder / name).exists()]
    if len(read.outputs) > 1:
        names = {piece.name: output.name for output in read.outputs for piece in output.pieces}
        total = sum(piece.size_bytes for piece in pieces)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
        files.append(_json_file("model.safetensors.index.json", index))
    files += _tokenizer_files(read)
    files.append(_json_file("generation_config.json", generation_config(read.generation, read.config, read.eos)))
    return [*files, _json_file("config.json", config)]


def _tokenizer_files(read: _Source) -> list[SmallFile]:
    vocabulary = read.vocabulary
    if vocabulary is None:
        path = read.folder / "tokenizer_config.json"
        kept = {key: value for key, value in (read_json(path) if path.exists() else {}).items() if key != "auto_map"}
        settings = kept | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": read.config.context_tokens,
            **({} if read.template is None else {"chat_template": read.template}),
        }
        return [
            _copy("tokenizer.json", read.folder / "tokenizer.json"),
            _json_file("tokenizer_config.json", settings),
        ]
    settings = tokenizer_config(vocabulary, read.config, read.template)
    special = {key: settings[key] for key in settings if key.endswith(("_token", "_special_tokens"))}

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as out:
            write_tokenizer(vocabulary, settings["bos_token"], out)

    return [
        SmallFile("tokenizer.json", write),
        _json_file("special_tokens_map.json", special),
        _json_file("tokenizer_config.json", settings),
    ]


def _json_file(name: str, content: dict[str, Any]) -> SmallFile:
    return SmallFile(name, lambda path: write_json(path, content))


def _copy(name: str, source: Path) -> SmallFile:
    def write(path: Path) -> None:
        shutil.copyfile(source, path)

    return SmallFile(name, write)
