"""Which files of a repository make the model. Pure.

Safetensors are preferred to `.bin`, and never both are taken: they are the same weights twice. Code (`*.py`) is neither
needed nor run. States of a training are left out. Only files at the top count; nothing is written outside the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from inference.catalogue import Layout, RemoteFile
from inference.errors import SourceError

# Everything of a model but its weights: settings, tokenizer, chat template, licence, card.
_SMALL = re.compile(
    r"(?:config|generation_config|adapter_config|tokenizer_config|tokenizer|special_tokens_map|added_tokens|vocab"
    r"|preprocessor_config|chat_template|quantize_config)\.json"
    r"|chat_template\.jinja|merges\.txt|vocab\.txt|.+\.model|LICENSE(?:\.\w+)?|NOTICE(?:\.\w+)?|README(?:_zh)?\.md"
)
_WEIGHTS = re.compile(r"(?:model|pytorch_model|adapter_model|.+-\d{5}-of-\d{5})[^/]*\.(safetensors|bin)")
_INDEX = re.compile(r".+\.(safetensors|bin)\.index\.json")
_NO_WEIGHTS = re.compile(r"optimizer|scheduler|rng_state|trainer|training|args|arguments", re.IGNORECASE)


def choose_files(
    listed: Iterable[RemoteFile], promised: tuple[RemoteFile, ...], layout: Layout, title: str
) -> tuple[RemoteFile, ...]:
    """The catalogue's own files where it names some (`promised`), else those that the layout needs.

    Raises SourceError naming what lacks.
    """
    top = {file.name: file for file in listed if _is_plain(file.name)}
    if promised:
        absent = [file.name for file in promised if file.name not in top]
        if absent:
            raise SourceError(f"{title} does not have {', '.join(absent)}.")
        return tuple(top[file.name] for file in promised)
    if layout == "gguf":
        return _one_gguf(top, title)
    chosen = [file for name, file in top.items() if _SMALL.fullmatch(name)]
    return (*chosen, *_weights(top, title))


def _weights(top: dict[str, RemoteFile], title: str) -> tuple[RemoteFile, ...]:
    found = {name: match[1] for name in top if (match := _WEIGHTS.fullmatch(name)) and not _NO_WEIGHTS.search(name)}
    form = "safetensors" if "safetensors" in found.values() else "bin"
    names = [name for name, its_form in found.items() if its_form == form]
    if not names:
        raise SourceError(f"{title} has no weights (*.safetensors or *.bin); it has {_some(top)}.")
    indexes = [name for name in top if (match := _INDEX.fullmatch(name)) and match[1] == form]
    return tuple(top[name] for name in (*indexes, *names))


def _one_gguf(top: dict[str, RemoteFile], title: str) -> tuple[RemoteFile, ...]:
    names = [name for name in top if name.lower().endswith(".gguf")]
    if len(names) != 1:
        raise SourceError(
            f"{title} has {len(names)} GGUF files ({_some(names)}). Name the one to take in the catalogue's `file`."
        )
    return (top[names[0]],)


def _is_plain(name: str) -> bool:
    """A file at the top, whose name is safe on a disk: `/` and `\\` would lead elsewhere, a leading dot hides."""
    return bool(re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,200}", name))


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") if shown else "no files"
