"""What a person's MODEL= means: a name from the catalogue, or the path of a GGUF file or a model folder."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path

from inference.catalogue import Model
from inference.errors import UnknownModel
from inference.local_model import local_model


def find_model(wanted: str, catalogue: Mapping[str, Model], root: Path) -> Model:
    """The catalogue's model of that name, or one for a path (relative: from `root`) to a GGUF file or a model folder.

    Raises UnknownModel with what to choose from, or VerifyError when the file cannot be one.
    """
    if wanted in catalogue:
        return catalogue[wanted]
    if wanted.lower().endswith(".gguf") or "/" in wanted:
        return local_model(root / os.path.expanduser(wanted))
    raise UnknownModel(
        f"There is no model named {wanted!r}. Known names: {', '.join(catalogue)}. "
        "A model of your own is named by its path: MODEL=/path/to/file.gguf or MODEL=/path/to/folder"
    )
