"""The tokenizer's files and the chat template, as the engines read them.

TGI saves the tokenizer anew with transformers 4.51 and reads what comes out, so `tokenizer_class` decides; it reads the
chat template from `chat_template.json` or `tokenizer_config.json`, never from `chat_template.jinja`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference.chat_template import read_chat_template, read_tgi_template
from inference.checks.problem import ALL, LLAMACPP, LMDEPLOY, SERVERS, TGI, Problem, about
from inference.checks.settings import added_tokens
from inference.errors import InferenceError, VerifyError
from inference.model_config import ModelConfig, read_json
from inference.tokenizer import check_equal
from inference.vocabulary import TOOL_MARKERS, read_vocabulary


def check_tokenizer(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    yield from _check_sentencepiece(folder, config)
    if config.layout == "llama":
        yield from _check_json(folder, config)
        yield from _check_class(folder, config)
        yield from check_template(folder)


def _check_sentencepiece(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    """`tokenizer.model` is what is converted; in Llama's layout only a GGUF file is made of it."""
    path = folder / "tokenizer.model"
    is_source = config.layout != "llama"
    if not path.exists():
        if is_source and (folder / "tokenizer.json").exists():
            return
        message = (
            "It is missing. Fetch it from the model's repository."
            if is_source
            else ("It is missing: the folder cannot be turned into a GGUF file.")
        )
        yield Problem(path, message, ALL if is_source else (LLAMACPP,), is_source)
        return
    try:
        vocabulary = read_vocabulary(folder, config.vocab)
        check_equal(vocabulary)
    except InferenceError as error:
        yield Problem(path, about(path, error.message), ALL if is_source else (LLAMACPP,), is_source)
        return
    if vocabulary.left_out:
        message = f"Tokens beyond the embedding's {config.vocab} rows are named: {', '.join(vocabulary.left_out[:6])}."
        yield Problem(folder / "tokenizer_config.json", message, ALL, is_fatal=not is_source)


def _check_json(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    path = folder / "tokenizer.json"
    try:
        content = read_json(path)
    except VerifyError as error:
        yield Problem(path, f"{about(path, error.message)} TGI and LMDeploy do not start without.", SERVERS)
        return
    model = content.get("model")
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list) or not vocabulary:
        yield Problem(path, "It holds no vocabulary. Convert the model again.", SERVERS)
        return
    added = added_tokens(folder)
    ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))), *added.values()]
    highest = max((one for one in ids if type(one) is int), default=0)
    if highest >= config.vocab:
        message = f"It gives ids up to {highest}, but the embedding has {config.vocab} rows: a server fails there."
        yield Problem(path, message, SERVERS)
    entries: Any = content.get("added_tokens")
    hidden = [
        entry["content"]
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and entry.get("content") in TOOL_MARKERS and entry.get("special")
    ]
    if hidden:
        message = f"{', '.join(hidden)} are special, so TGI hides them, and tool calls cannot be seen."
        yield Problem(path, message, (TGI,), is_fatal=False)


def _check_class(folder: Path, config: ModelConfig) -> Iterator[Problem]:
    path = folder / "tokenizer_config.json"
    try:
        content = read_json(path)
    except VerifyError as error:
        yield Problem(path, about(path, error.message), SERVERS)
        return
    name = content.get("tokenizer_class")
    if name == "TokenizersBackend":
        yield Problem(path, "tokenizer_class TokenizersBackend (transformers 5) does not load in TGI.", (TGI,))
    elif name != "PreTrainedTokenizerFast":
        message = f"tokenizer_class is {name!r}; only PreTrainedTokenizerFast takes tokenizer.json as it is."
        yield Problem(path, message, SERVERS, is_fatal=_has_chat_pieces(folder))
    if "auto_map" in content:
        yield Problem(path, "It has an auto_map, so the load stops and asks whether code may run. Remove it.", (TGI,))
    if content.get("clean_up_tokenization_spaces", True):
        message = "clean_up_tokenization_spaces is not false: spaces before punctuation are lost in answers."
        yield Problem(path, message, SERVERS, is_fatal=False)
    length = content.get("model_max_length")
    if isinstance(length, int | float) and length < config.context_tokens:
        message = f"model_max_length {length} is below the model's {config.context_tokens} tokens, and is the limit."
        yield Problem(path, message, (TGI,), is_fatal=False)


def _has_chat_pieces(folder: Path) -> bool:
    """An InternLM2 by its tokens: with another class its chat tokens get ids beyond the embedding."""
    return "<|im_end|>" in added_tokens(folder) and (folder / "tokenizer.model").exists()


def check_template(folder: Path) -> Iterator[Problem]:
    path = folder / "tokenizer_config.json"
    try:
        template, anywhere = read_tgi_template(folder), read_chat_template(folder)
    except VerifyError as error:
        yield Problem(path, error.message, SERVERS)
        return
    if template is None:
        if anywhere is None:
            yield Problem(path, "There is no chat template, so chats are refused (TGI: 422).", SERVERS)
            return
        message = "The chat template is in chat_template.jinja only, which TGI never reads: chats are refused (422)."
        yield Problem(path, message, (TGI,))
    for text in {template, anywhere} - {None}:
        yield from _check_syntax(path, str(text))


def _check_syntax(path: Path, template: str) -> Iterator[Problem]:
    """Parsed only; nothing of it is run."""
    try:
        ImmutableSandboxedEnvironment(extensions=[loopcontrols]).parse(template)
    except jinja2.TemplateError as error:
        yield Problem(path, f"The chat template is wrong ({error}): TGI ends after its warm-up.", (TGI, LMDEPLOY))
        return
    if "bos_token" not in template and "<s>" not in template:
        message = "The chat template does not write bos_token, and TGI adds none to chats."
        yield Problem(path, message, (TGI,), is_fatal=False)
    if "[UNUSED_TOKEN_14" in template:
        message = "The chat template has the old names [UNUSED_TOKEN_14x] of the chat tokens. Convert the model again."
        yield Problem(path, message, SERVERS)
