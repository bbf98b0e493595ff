"""What is wrong with a model, where, and for whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TGI, LMDEPLOY, LLAMACPP = "tgi", "lmdeploy", "llamacpp"
ALL = (TGI, LMDEPLOY, LLAMACPP)
SERVERS = (TGI, LMDEPLOY)


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        message: one sentence, what is wrong and what to do.
        engines: those in which it goes wrong; for a folder that is yet to be converted, those that it is converted for.
        is_fatal: the model is damaged, or would fail or answer wrongly there. False: worth knowing.
    """

    file: Path
    message: str
    engines: tuple[str, ...]
    is_fatal: bool = True

    def __str__(self) -> str:
        kind = "error" if self.is_fatal else "note"
        return f"{kind}: {self.file}: {self.message} [{', '.join(self.engines)}]"


def about(path: Path, message: str) -> str:
    """An error's sentence for a line that begins with the file's name."""
    if message.startswith(f"{path}: "):
        message = message.removeprefix(f"{path}: ")
        return message[:1].upper() + message[1:] if message[:1].islower() and "_" not in message.split()[0] else message
    return f"It {message.removeprefix(f'{path} ')}" if message.startswith(f"{path} ") else message
