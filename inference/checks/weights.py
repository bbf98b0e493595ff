"""Files of weights: whole, each tensor once, of the right shape, and named so that the engines find them.

TGI opens every `*.safetensors` of the folder but those with `args`, `arguments` or `training` in their names, whatever
the index says; LMDeploy opens those that the index names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from inference.checks.problem import ALL, LMDEPLOY, TGI, Problem, about
from inference.errors import VerifyError
from inference.llama_layout import internlm2_tensors, is_dropped, llama_tensors, missing_tensors, reason_against
from inference.model_config import ModelConfig
from inference.weights.checkpoint import NO_WEIGHTS, WeightFiles, read_index, read_weights, weight_files
from inference.weights.tensors import FLOATS, Shard, Tensor

_UNSEEN = re.compile(r"args|arguments|training")


def check_weights(folder: Path, config: ModelConfig | None) -> Iterator[Problem]:
    """`config` is None when config.json cannot be used; then only the files themselves are looked at."""
    try:
        found = weight_files(folder)
        listed = read_index(found.index) if found.index else {}
    except VerifyError as error:
        yield Problem(folder, error.message, ALL)
        return
    for name in found.missing:
        yield Problem(folder / name, "This file is missing. Fetch or copy it.", ALL)
    shards, problems = _readable(found)
    yield from problems
    yield from _unseen(found)
    tensors, problems = _once(shards)
    yield from problems
    yield from _strays(folder, found, tensors)
    is_whole = not found.missing and len(shards) == len(found.files)
    if is_whole:
        yield from _index(found, listed, tensors)
    if config:
        yield from check_tensors(folder, config, tensors, is_whole=is_whole)


def check_tensors(
    folder: Path, config: ModelConfig, tensors: dict[str, Tensor], *, is_whole: bool
) -> Iterator[Problem]:
    """Names, shapes and types against config.json. Where files are missing, so are tensors."""
    expected = internlm2_tensors(config) if config.layout == "internlm2" else llama_tensors(config)
    for tensor in tensors.values():
        if is_dropped(tensor.name):
            continue
        if tensor.name not in expected:
            message = f"{tensor.name!r} does not belong there: {reason_against(tensor.name)}."
            yield Problem(tensor.file, message, ALL)
        elif tensor.dtype not in FLOATS:
            message = f"{tensor.name!r} has the type {tensor.dtype}; the 16-bit model is wanted."
            yield Problem(tensor.file, message, ALL)
        elif tensor.shape != expected[tensor.name]:
            message = (
                f"{tensor.name!r} has the shape {list(tensor.shape)}, but by config.json it should have "
                f"{list(expected[tensor.name])}."
            )
            yield Problem(tensor.file, message, ALL)
    if is_whole:
        for name in missing_tensors(tensors, expected, config):
            yield Problem(folder, f"{name!r} is missing from the weights. Fetch or convert the model again.", ALL)
        yield from _biases(folder, config, tensors)
    yield from _types(folder, config, tensors)


def _readable(found: WeightFiles) -> tuple[list[Shard], list[Problem]]:
    shards, problems = [], []
    for path in found.files:
        try:
            shards.append(Shard(path, read_weights(path)))
        except VerifyError as error:
            problems.append(_problem(path, error))
    return shards, problems


def _once(shards: Sequence[Shard]) -> tuple[dict[str, Tensor], list[Problem]]:
    tensors: dict[str, Tensor] = {}
    problems = []
    for tensor in (tensor for shard in shards for tensor in shard.tensors):
        if tensor.name in tensors:
            problems.append(
                Problem(tensor.file, f"{tensor.name!r} is also in {tensors[tensor.name].file.name}. Remove one.", ALL)
            )
        tensors.setdefault(tensor.name, tensor)
    return tensors, problems


def _unseen(found: WeightFiles) -> Iterator[Problem]:
    for path in found.files:
        if _UNSEEN.search(path.name):
            yield Problem(path, "TGI skips files with such a name ('args' or 'training' in it). Rename it.", (TGI,))


def _strays(folder: Path, found: WeightFiles, tensors: dict[str, Tensor]) -> Iterator[Problem]:
    """Files beside those of the index, which TGI opens too."""
    for path in sorted(folder.glob("*.safetensors")):
        if path in found.files or NO_WEIGHTS.search(path.name) or not found.files or found.index is None:
            continue
        try:
            doubled = next((tensor.name for tensor in read_weights(path) if tensor.name in tensors), None)
        except VerifyError as error:
            yield replace(_problem(path, error), engines=(TGI,))
            continue
        if doubled:
            yield Problem(path, f"It is not in the index and holds {doubled!r} once more. Remove it.", (TGI,))
        else:
            yield Problem(path, "It is not in the index; TGI loads it all the same.", (TGI,), is_fatal=False)


def _index(found: WeightFiles, listed: dict[str, str], tensors: dict[str, Tensor]) -> Iterator[Problem]:
    if found.index is None:
        return
    absent = [name for name in listed if name not in tensors and not is_dropped(name)]
    if absent:
        yield Problem(found.index, f"It names {absent[0]!r}, which is in none of the files.", ALL)
    moved = [name for name, tensor in tensors.items() if listed.get(name, tensor.file.name) != tensor.file.name]
    if moved:
        yield Problem(found.index, f"{moved[0]!r} is in another file than it says.", (LMDEPLOY,), is_fatal=False)


def _biases(folder: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> Iterator[Problem]:
    if config.layout != "llama":
        return
    has_bias = any(name.endswith("self_attn.q_proj.bias") for name in tensors)
    if has_bias != config.has_bias:
        state = (
            "has biases, but config.json says attention_bias false: they are left out"
            if has_bias
            else ("has no biases, but config.json says attention_bias true: the load fails")
        )
        yield Problem(folder / "config.json", f"The attention {state}. Correct config.json.", ALL)


def _types(folder: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> Iterator[Problem]:
    types = {tensor.dtype for tensor in tensors.values() if len(tensor.shape) > 1}
    told = config.raw.get("torch_dtype") or config.raw.get("dtype")
    words = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    if len(types) == 1 and told and words.get(next(iter(types))) not in (None, str(told).removeprefix("torch.")):
        message = f"torch_dtype is {told}, but the weights are {words[next(iter(types))]}; LMDeploy goes by the former."
        yield Problem(folder / "config.json", message, (LMDEPLOY,), is_fatal=False)


def check_torch_files(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    """TGI turns `.bin` files of Llama's layout into safetensors at its start, in the same folder."""
    if config.layout == "llama" and not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        message = (
            "There are only .bin files: TGI rewrites them at its start, which needs a writable folder and the space "
            "once more. Save the model as safetensors."
        )
        yield Problem(folder, message, (TGI,), is_fatal=False)


def _problem(path: Path, error: VerifyError) -> Problem:
    return Problem(path, about(path, error.message), ALL)
