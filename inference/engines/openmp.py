"""GNU's OpenMP library for llama.cpp where the system has none.

xllamacpp's wheel needs `libgomp.so.1`, which a bare Debian or Ubuntu lacks (it comes with package libgomp1). The wheel
of pykdtree carries a copy of it under another name, and is installed for that copy alone.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

NAME = "libgomp.so.1"
CARRIER = "pykdtree"


def openmp_environment(
    folder: Path, environ: Mapping[str, str], load: Callable[[str], object] = ctypes.CDLL
) -> dict[str, str]:
    """What a child's environment needs in addition: nothing, or a search path to the carried copy, linked in `folder`.

    Without either the child says itself which library is missing.
    """
    with suppress(OSError):
        load(NAME)
        return {}
    copy = _carried_copy()
    if copy is None:
        return {}
    link = folder / NAME
    link.unlink(missing_ok=True)
    link.symlink_to(copy)
    return {"LD_LIBRARY_PATH": ":".join(filter(None, [str(folder), environ.get("LD_LIBRARY_PATH", "")]))}


def _carried_copy() -> Path | None:
    try:
        files = importlib.metadata.files(CARRIER) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name.startswith("libgomp"))
    return next((path for path in found if path.is_file()), None)
