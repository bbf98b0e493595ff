"""Models of the person's own: looked at before the engine is, so that the reason is plain when one cannot be used.

GGUF files begin with the four bytes `GGUF`. A file that git checked out without LFS is a short text (the "pointer")
that begins with `version https://git-lfs`.
"""

from __future__ import annotations

from pathlib import Path

from inference.errors import UnknownModel, VerifyError
from inference.sources.lfs import LFS_MARK, MOST_POINTER_BYTES, is_pointer_file
from inference.weights.checkpoint import read_checkpoint

GGUF_MAGIC = b"GGUF"


def check_local_file(path: Path) -> Path:
    """Returns the path when it looks like a GGUF file. Raises UnknownModel when nothing is there, else VerifyError."""
    try:
        if path.is_dir():
            raise VerifyError(_folder_message(path))
        with path.open("rb") as file:
            start = file.read(len(LFS_MARK))
    except FileNotFoundError:
        raise UnknownModel(f"There is no model file {path}. Check the path after MODEL= or --model.") from None
    except PermissionError:
        raise VerifyError(f"The model file {path} may not be read by this user. Mend it: chmod u+r {path}") from None
    except OSError as error:
        raise VerifyError(f"The model file {path} cannot be read: {error.strerror}.") from None
    if start == LFS_MARK:
        raise VerifyError(f"{path} is only a Git LFS pointer, not the model. Fetch it: git lfs pull, in its folder.")
    if not start:
        raise VerifyError(f"{path} is empty. Fetch or copy the model file again.")
    if not start.startswith(GGUF_MAGIC):
        raise VerifyError(f"{path} is not a GGUF file (it does not begin with 'GGUF'). llama.cpp reads only those.")
    return path


def _folder_message(path: Path) -> str:
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files:
        return f"{path} is a folder. Name the file in it: MODEL={path / files[0]}"
    return f"{path} is no model folder: it has neither a config.json nor a .gguf file. Check the path after MODEL=."


def pointer_files(folder: Path) -> list[Path]:
    """The files of a model folder that were checked out without LFS. Raises VerifyError when it cannot be read."""
    try:
        return [
            path
            for path in sorted(folder.iterdir())
            if path.is_file() and path.stat().st_size < MOST_POINTER_BYTES and is_pointer_file(path)
        ]
    except OSError as error:
        raise VerifyError(f"{folder} cannot be read ({error.strerror}).") from None


def check_local_folder(folder: Path) -> Path:
    """A model folder, merged or a LoRA adapter: all its weights are there and whole, as far as their heads tell.

    Raises UnknownModel when nothing is there, VerifyError naming the files that are pointers, missing or cut.
    """
    if not folder.exists():
        raise UnknownModel(f"There is no model folder {folder}. Check the path after MODEL= or --model.")
    if pointers := pointer_files(folder):
        names = ", ".join(path.name for path in pointers)
        raise VerifyError(
            f"{names} in {folder}: only Git LFS pointers, not the weights. Fetch them there: git lfs pull"
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        return folder
    if not (folder / "config.json").exists():
        raise VerifyError(_folder_message(folder))
    read_checkpoint(folder)
    return folder
