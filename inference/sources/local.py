"""A GGUF file of the person's own: looked at before the engine is, so that the reason is plain when it cannot be used.

GGUF files begin with the four bytes `GGUF`. A file that git checked out without LFS is a short text (the "pointer")
that begins with `version https://git-lfs`.
"""

from __future__ import annotations

from pathlib import Path

from inference.errors import UnknownModel, VerifyError

GGUF_MAGIC = b"GGUF"
LFS_MARK = b"version https://git-lfs"


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
    return f"{path} is a folder without a .gguf file. This version runs GGUF files only: MODEL=/path/to/file.gguf"
