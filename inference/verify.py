"""Checks a model on disk in seconds, without loading weights, and says what would go wrong in which engine.

A folder in InternLM2's, InternLM3's or Llama's layout, a LoRA adapter's folder, a GGUF file or a folder of them. With a
`manifest.json` of ours the files' sizes and hashes are checked too; hashed is only what has another date than recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from inference.checks.gguf_file import check_gguf
from inference.checks.problem import ALL, SERVERS, Problem, about
from inference.checks.settings import check_settings
from inference.checks.tokenizer import check_tokenizer
from inference.checks.weights import check_torch_files, check_weights
from inference.errors import InferenceError, VerifyError
from inference.lora import WEIGHT_NAMES, is_adapter
from inference.manifest import MANIFEST_NAME, verify_folder
from inference.model_config import ModelConfig, read_config, read_json
from inference.new_folder import RECORD_NAME, read_record
from inference.status import Progress, Report
from inference.weights.checkpoint import read_weights

__all__ = ["Problem", "check_model", "find_problems"]


def check_model(path: Path) -> list[Problem]:
    """All that is wrong with it, and what is worth knowing; an empty list is a model that every engine takes."""
    return find_problems(path, lambda _: None)


def find_problems(path: Path, report: Report) -> list[Problem]:
    """The same, with news about the hashing of large files."""
    try:
        return list(dict.fromkeys(_problems(path, report)))
    except OSError as error:
        return [Problem(Path(error.filename or path), f"It cannot be read ({error.strerror}).", ALL)]


def _problems(path: Path, report: Report) -> Iterator[Problem]:
    if path.is_file() or path.suffix == ".gguf":
        yield from check_gguf(path)
    elif not path.is_dir():
        yield Problem(path, "There is no such file or folder.", ALL)
    else:
        yield from _folder_problems(path, report)


def _folder_problems(folder: Path, report: Report) -> Iterator[Problem]:
    ggufs = sorted(folder.glob("*.gguf"))
    if is_adapter(folder):
        yield from _adapter_problems(folder)
    elif (folder / "config.json").exists() or not ggufs:
        yield from _model_problems(folder)
    for file in ggufs:
        yield from check_gguf(file)
    if (folder / MANIFEST_NAME).exists():
        yield from _manifest_problems(folder, report)


def _model_problems(folder: Path) -> Iterator[Problem]:
    if (folder / RECORD_NAME).exists() and not read_record(folder).is_complete:
        yield Problem(folder, "A conversion to it was interrupted. Run it again; it goes on where it was.", ALL)
    config: ModelConfig | None = None
    try:
        config = read_config(folder)
    except VerifyError as error:
        path = folder / "config.json"
        yield Problem(path, about(path, error.message), ALL)
    yield from check_weights(folder, config)
    if config:
        yield from check_settings(folder, config)
        yield from check_torch_files(folder, config)
        yield from check_tokenizer(folder, config)


def _adapter_problems(folder: Path) -> Iterator[Problem]:
    """An adapter is for one layout, and its names say for which."""
    weights = next((path for name in WEIGHT_NAMES if (path := folder / name).exists()), None)
    if weights is None:
        yield Problem(folder, f"There is no {' or '.join(WEIGHT_NAMES)}.", SERVERS)
        return
    try:
        read_json(folder / "adapter_config.json")
        tensors = read_weights(weights)
    except VerifyError as error:
        yield Problem(weights, about(weights, error.message), SERVERS)
        return
    if any(".attention.w" in tensor.name or ".feed_forward.w" in tensor.name for tensor in tensors):
        message = "The adapter is for InternLM2's own layout. Convert it too: python -m inference convert SRC DST"
        yield Problem(weights, message, SERVERS, is_fatal=False)


def _manifest_problems(folder: Path, report: Report) -> Iterator[Problem]:
    def count(done: int) -> None:
        report(Progress("verify", done, 0, f"hashing the files of {folder} that have another date than recorded"))

    try:
        verify_folder(folder, count)
    except InferenceError as error:
        yield Problem(folder / MANIFEST_NAME, error.message, ALL)
