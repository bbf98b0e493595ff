"""GGUF files: whole, with the tensors that the architecture needs, and a tokenizer of the embedding's size.

Sizes of types: `ggml.c` of ggml, as (numbers in a block, bytes of a block).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from inference.checks.problem import LLAMACPP, Problem, about
from inference.errors import InferenceError
from inference.gguf import GgufArray, GgufFile, read_gguf
from inference.sources.local import check_local_file

TYPE_SIZES = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
_PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def check_gguf(path: Path) -> Iterator[Problem]:
    try:
        file = read_gguf(check_local_file(path))
        size = path.stat().st_size
    except InferenceError as error:
        yield _problem(path, error.message)
        return
    except OSError as error:
        yield _problem(path, f"It cannot be read ({error.strerror}).")
        return
    yield from _check_tensors(path, file, size)
    yield from _check_names(path, file)
    yield from _check_tokenizer(path, file)


def _check_tensors(path: Path, file: GgufFile, size: int) -> Iterator[Problem]:
    end = 0
    names = [tensor.name for tensor in file.tensors]
    for tensor in file.tensors:
        block, block_bytes = TYPE_SIZES.get(tensor.kind, (1, 0))
        if not block_bytes:
            yield _problem(path, f"{tensor.name!r} has a type (number {tensor.kind}) that is not known here.", False)
        end = max(end, file.data_start + tensor.offset + math.prod(tensor.shape) // block * block_bytes)
    if doubled := next((name for name in names if names.count(name) > 1), None) if len(names) < 10_000 else None:
        yield _problem(path, f"{doubled!r} is there twice. Fetch or make it again.")
    if end > size:
        yield _problem(path, f"It is cut short: {size} of at least {end} bytes. Fetch or copy it again.")
    if not file.tensors and not file.entries.get("split.count"):
        yield _problem(path, "It holds no weights.")


def _check_names(path: Path, file: GgufFile) -> Iterator[Problem]:
    architecture = file.entries.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        yield _problem(path, "It does not say its architecture.")
        return
    count = file.entries.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        yield from _check_parts(path, count)
        return
    layers = file.entries.get(f"{architecture}.block_count")
    if architecture not in ("llama", "internlm2") or not isinstance(layers, int) or not 0 < layers < 10_000:
        return
    names = {tensor.name for tensor in file.tensors}
    wanted = ["token_embd.weight", "output_norm.weight"]
    wanted += [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in _PARTS]
    missing = [name for name in wanted if name not in names]
    if missing and "blk.0.ffn_gate_inp.weight" not in names:
        yield _problem(path, f"{missing[0]!r} is missing. Fetch or make it again.")


def _check_parts(path: Path, count: int) -> Iterator[Problem]:
    """A model in several files is loaded by its first."""
    start = path.name.rpartition("-00001-of-")[0]
    for number in range(2, min(count, 1000) + 1) if start else ():
        part = path.with_name(f"{start}-{number:05d}-of-{count:05d}.gguf")
        if not part.exists():
            yield _problem(part, "This part of the model is missing. Fetch or copy it.")


def _check_tokenizer(path: Path, file: GgufFile) -> Iterator[Problem]:
    tokens = file.entries.get("tokenizer.ggml.tokens")
    number = file.entries.get("split.no", 0)
    if number:
        return
    if not isinstance(tokens, GgufArray) or "tokenizer.ggml.model" not in file.entries:
        yield _problem(path, "It holds no tokenizer.")
        return
    embedding = next((tensor for tensor in file.tensors if tensor.name == "token_embd.weight"), None)
    if embedding and len(embedding.shape) == 2 and embedding.shape[1] != tokens.count:
        yield _problem(path, f"It has {tokens.count} tokens, but the embedding {embedding.shape[1]} rows.")
    if "tokenizer.chat_template" not in file.entries:
        yield _problem(path, "It holds no chat template; llama.cpp then takes ChatML.", False)


def _problem(path: Path, message: str, is_fatal: bool = True) -> Problem:
    return Problem(path, about(path, message), (LLAMACPP,), is_fatal)
