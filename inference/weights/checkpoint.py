"""Which files of a folder hold its weights, and what is in them.

An index (`model.safetensors.index.json`, `pytorch_model.bin.index.json`) says which files belong together; which
tensors they hold is taken from the files themselves. Safetensors go before `.bin`. Others are no weights of the model:
`training_args.bin`, `optimizer.bin`, `adapter_model.safetensors` and the like.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from inference.errors import VerifyError
from inference.weights.safetensors import read_safetensors
from inference.weights.tensors import Shard, Tensor
from inference.weights.torch_file import read_torch_file

NO_WEIGHTS = re.compile(r"^(adapter_|optimizer|scheduler|rng_state|scaler)|args|arguments|training")
_NUMBERED = re.compile(r"^(.*)-(\d{5})-of-(\d{5})(\.\w+)$")
_INTERNEVO = re.compile(r"^model_(config|tp\d+_).*\.pt$")


@dataclass(frozen=True)
class WeightFiles:
    """`missing` are names that the index, or the numbers in the other names, say should be there."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]
    index: Path | None


def weight_files(folder: Path) -> WeightFiles:
    """Raises VerifyError when there are none, or when an index cannot be read."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise VerifyError(f"{folder} cannot be read ({error.strerror}).") from None
    for ending in (".safetensors", ".bin"):
        if found := _of_kind(folder, names, ending):
            return found
    if other := next((name for name in names if _INTERNEVO.match(name)), None):
        raise VerifyError(
            f"{folder / other} is in InternEvo's own format, which is not read here. Turn it into Hugging Face's "
            "layout first, with InternEvo's tools."
        )
    raise VerifyError(f"{folder} holds no weights: neither .safetensors nor .bin files.")


def read_checkpoint(folder: Path) -> list[Shard]:
    """All files of weights. Raises VerifyError naming the first that is missing, cut, damaged or no file at all."""
    found = weight_files(folder)
    if found.missing:
        raise VerifyError(f"{folder} lacks {', '.join(found.missing)}. Fetch or copy what is missing.")
    return [Shard(path, read_weights(path)) for path in found.files]


def read_weights(path: Path) -> tuple[Tensor, ...]:
    """The tensors of one file. Raises VerifyError."""
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def read_index(path: Path) -> dict[str, str]:
    """Tensor to file. Raises VerifyError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["weight_map"]
        items = {str(tensor): str(file) for tensor, file in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VerifyError(f"{path} cannot be read as an index of weights ({error}). Fetch it again.") from None
    if strange := [file for file in items.values() if "/" in file or not file]:
        raise VerifyError(f"{path} names {strange[0]!r}, which is no file of its folder.")
    return items


def _of_kind(folder: Path, names: list[str], ending: str) -> WeightFiles | None:
    indexes = [name for name in names if name.endswith(f"{ending}.index.json") and not NO_WEIGHTS.search(name)]
    if len(indexes) > 1:
        raise VerifyError(f"{folder} has several indexes: {', '.join(indexes)}. Remove all but the model's own.")
    if indexes:
        index = folder / indexes[0]
        wanted = sorted(set(read_index(index).values()))
    else:
        index = None
        wanted = [name for name in names if name.endswith(ending) and not NO_WEIGHTS.search(name)]
        wanted = sorted({*wanted, *_series(wanted)})
    if not wanted:
        return None
    there = [name for name in wanted if name in names]
    if not there and ending == ".safetensors" and any(name.endswith(".bin") for name in names):
        return None
    missing = tuple(name for name in wanted if name not in names)
    return WeightFiles(tuple(folder / name for name in there), missing, index)


def _series(names: list[str]) -> set[str]:
    """All names of `model-00001-of-00008.bin` and its like when one of them is there."""
    found: set[str] = set()
    for match in filter(None, map(_NUMBERED.match, names)):
        start, _, count, ending = match.groups()
        found |= {f"{start}-{number:05d}-of-{count}{ending}" for number in range(1, min(int(count), 1000) + 1)}
    return found
