"""config.json and generation_config.json, as the engines read them (sources: see `inference/llama_config.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inference.checks.problem import ALL, LLAMACPP, SERVERS, TGI, Problem, about
from inference.errors import ConvertError, VerifyError
from inference.llama_config import rope_scaling
from inference.model_config import ModelConfig, read_json

_TGI_ROPES = ("default", "dynamic", "llama3", "yarn", "longrope", "mrope")


def check_settings(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    path = folder / "config.json"
    if config.layout == "llama":
        yield from _check_llama(path, config)
        yield from check_stop_ids(folder, config)
    else:
        message = (
            f"The model is in {'InternLM2' if config.layout == 'internlm2' else 'InternLM3'}'s own layout, which TGI "
            "does not know and LMDeploy tokenizes wrongly. Convert it: python -m inference convert SRC DST"
        )
        yield Problem(path, message, SERVERS, is_fatal=False)
        try:
            rope_scaling(config.rope)
        except ConvertError as error:
            yield Problem(path, error.message.removeprefix("config.json: "), ALL)
    if "quantization_config" in config.raw and config.layout != "llama":
        yield Problem(path, "It has a quantization_config; only the 16-bit model can be converted.", ALL)


def _check_llama(path: Path, config: ModelConfig) -> Iterator[Problem]:
    raw = config.raw
    if raw.get("architectures") != ["LlamaForCausalLM"]:
        message = f'architectures is {raw.get("architectures")}; it should be ["LlamaForCausalLM"].'
        yield Problem(path, message, SERVERS)
    if "auto_map" in raw:
        yield Problem(path, "It has an auto_map, so the load stops and asks whether code may run. Remove it.", (TGI,))
    if config.head_dim * config.heads != config.hidden:
        message = f"head_dim {config.head_dim} is not hidden_size / num_attention_heads, which TGI computes with."
        yield Problem(path, message, (TGI,))
    if config.rope.kind == "linear":
        message = "TGI ignores rope_scaling of the type linear, so positions are wrong. Convert the model again."
        yield Problem(path, message, (TGI,))
    elif config.rope.kind not in _TGI_ROPES:
        yield Problem(path, f"rope_scaling has the type {config.rope.kind!r}, which TGI refuses.", (TGI,))
    if "rope_theta" not in raw and "rope_parameters" in raw:
        message = (
            "rope_theta stands in rope_parameters only (transformers 5 writes it so): TGI then takes 10000 and no "
            "scaling. Write rope_theta, and rope_scaling, at the top."
        )
        yield Problem(path, message, (TGI,))
    if config.rope.kind == "dynamic":
        message = (
            f"Dynamic scaling acts beyond {config.context_tokens} tokens; in TGI, a larger --max-total-tokens changes "
            "short answers too, and llama.cpp has none of it."
        )
        yield Problem(path, message, (TGI, LLAMACPP), is_fatal=False)


def check_stop_ids(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    """A chat must end at the end of its turn."""
    path = folder / "generation_config.json"
    ends = _turn_ends(folder)
    if not path.exists():
        yield Problem(path, "It is missing, so TGI stops at the tokenizer's end token only.", SERVERS, bool(ends))
        return
    try:
        told = read_json(path).get("eos_token_id")
    except VerifyError as error:
        yield Problem(
            path, f"{about(path, error.message)} TGI and LMDeploy skip it without a word, and chats run on.", SERVERS
        )
        return
    if not isinstance(told, list):
        message = f"eos_token_id is {told}, no list: TGI then ignores the file, and chats may run on. Write a list."
        yield Problem(path, message, (TGI,))
    ids = told if isinstance(told, list) else [told]
    for text, token in ends.items():
        if token not in ids:
            yield Problem(path, f"eos_token_id lacks {token}, the id of {text}: chats run on.", SERVERS)
    if high := [one for one in ids if type(one) is not int or not 0 <= one < config.vocab]:
        yield Problem(path, f"eos_token_id holds {high[0]!r}, which is no token of this model.", SERVERS)


def _turn_ends(folder: Path) -> dict[str, int]:
    """Texts and ids of tokens that end a turn, by the added tokens of tokenizer.json."""
    return {text: token for text, token in added_tokens(folder).items() if text == "<|im_end|>"}


def added_tokens(folder: Path) -> dict[str, int]:
    """Nothing where tokenizer.json cannot be read; that is a finding of its own."""
    try:
        entries: Any = read_json(folder / "tokenizer.json").get("added_tokens")
    except VerifyError:
        return {}
    found: dict[str, int] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("content"), str):
            found[entry["content"]] = entry["id"]
    return found
