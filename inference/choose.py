"""What a person's MODEL= means: a name from the catalogue, or the path of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from inference.catalogue import FileSource, Model
from inference.errors import UnknownModel


def find_model(wanted: str, catalogue: Mapping[str, Model], root: Path) -> Model:
    """The catalogue's model of that name, or one for a path to a .gguf file (relative: from `root`).

    Raises UnknownModel with the names to choose from. The file itself is looked at when it is prepared.
    """
    if wanted in catalogue:
        return catalogue[wanted]
    path = Path(wanted).expanduser()
    if path.suffix.lower() == ".gguf" or "/" in wanted:
        return _local_model(root / path)
    raise UnknownModel(
        f"There is no model named {wanted!r}. Known names: {', '.join(catalogue)}. "
        "A model file of your own is named by its path: MODEL=/path/to/file.gguf."
    )


def _local_model(path: Path) -> Model:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "local-model"
    return Model(
        name=name,
        title=path.stem,
        languages=(),
        licence="",
        note_en="A model file of this machine's owner.",
        note_zh="本机所有者提供的模型文件。",
        context_tokens=None,
        size_bytes=path.stat().st_size if path.is_file() else 0,
        kv_bytes_per_token=None,
        sources=(FileSource(path),),
    )
