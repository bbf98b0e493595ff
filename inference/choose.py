"""What a person's MODEL= means: a name from the catalogue, or the path of a GGUF file."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from pathlib import Path

from inference.catalogue import FileSource, Model
from inference.errors import UnknownModel
from inference.gguf import read_gguf_head
from inference.sources.local import check_local_file


def find_model(wanted: str, catalogue: Mapping[str, Model], root: Path) -> Model:
    """The catalogue's model of that name, or one for a path (relative: from `root`) to a GGUF file.

    Raises UnknownModel with what to choose from, or VerifyError when the file cannot be one.
    """
    if wanted in catalogue:
        return catalogue[wanted]
    if wanted.lower().endswith(".gguf") or "/" in wanted:
        return _local_model(check_local_file(root / os.path.expanduser(wanted)))
    raise UnknownModel(
        f"There is no model named {wanted!r}. Known names: {', '.join(catalogue)}. "
        "A model file of your own is named by its path: MODEL=/path/to/file.gguf"
    )


def _local_model(path: Path) -> Model:
    head = read_gguf_head(path)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "local-model"
    return Model(
        name=name,
        title=path.stem,
        languages=(),
        licence="",
        note_en=f"A model file of this machine's owner ({path.name}).",
        note_zh=f"本机所有者提供的模型文件（{path.name}）。",
        layout="gguf",
        prompt="internlm2" if head.architecture == "internlm2" else "own",
        context_tokens=head.context_tokens,
        size_bytes=path.stat().st_size,
        kv_bytes_per_token=head.kv_bytes_per_token,
        sources=(FileSource(path),),
    )
