"""A model of the person's own: what its GGUF file or its folder says about itself, in the catalogue's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from inference.catalogue import FileSource, FolderSource, Model, PromptFormat, Shape, Source
from inference.errors import VerifyError
from inference.gguf import read_gguf_head
from inference.model_config import ModelConfig, read_config
from inference.sources.local import check_local_file, check_local_folder

TOOL_MARKER = "<|action_start|>"  # only InternLM2's tokenizers have it
WEIGHTS = ("*.safetensors", "*.bin")


def local_model(path: Path) -> Model:
    """Raises UnknownModel when nothing is there, VerifyError when it cannot be a model."""
    if path.is_dir():
        return _of_folder(check_local_folder(path))
    return _of_file(check_local_file(path))


def _of_file(path: Path) -> Model:
    head = read_gguf_head(path)
    return Model(
        **_words(path.stem, path.name),
        layout="gguf",
        prompt="internlm2" if head.architecture == "internlm2" else "own",
        context_tokens=head.context_tokens,
        size_bytes=path.stat().st_size,
        kv_bytes_per_token=head.kv_bytes_per_token,
        sources=(FileSource(path),),
    )


def _of_folder(folder: Path) -> Model:
    if not (folder / "config.json").exists():
        raise VerifyError(
            f"{folder} is a LoRA adapter, which no engine here runs alone. Merge it into its model first, then name "
            "the merged folder."
        )
    config = read_config(folder)
    shape = _shape(config)
    sources: tuple[Source, ...] = (FolderSource(folder),)
    return Model(
        **_words(folder.resolve().name, folder.name),
        layout=config.layout,
        prompt=_prompt(folder, config),
        context_tokens=config.context_tokens,
        size_bytes=sum(file.stat().st_size for pattern in WEIGHTS for file in folder.glob(pattern)),
        kv_bytes_per_token=shape.kv_bytes_per_token,
        shape=shape,
        sources=sources,
    )


def _words(stem: str, file_name: str) -> dict[str, Any]:
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "local-model",
        "title": stem,
        "languages": (),
        "licence": "",
        "note_en": f"A model of this machine's owner ({file_name}).",
        "note_zh": f"本机所有者提供的模型（{file_name}）。",
    }


def _shape(config: ModelConfig) -> Shape:
    return Shape(
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate,
        vocabulary=config.vocab,
        has_tied_embeddings=config.is_tied,
    )


def _prompt(folder: Path, config: ModelConfig) -> PromptFormat:
    """A converted InternLM2 is a Llama by its config; its tokenizer still has InternLM2's markers."""
    if config.layout in ("internlm2", "internlm3"):
        return "internlm2"
    for name in ("tokenizer_config.json", "tokenizer.json"):
        file = folder / name
        if file.is_file() and TOOL_MARKER in file.read_text(encoding="utf-8", errors="replace"):
            return "internlm2"
    return "own"
