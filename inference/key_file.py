"""The bearer token between gateway and engine where it has to outlive both: a file that only this user reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from inference.errors import SettingsError


def kept_key(path: Path) -> str:
    """The key in a file that only this user reads; made when it is missing. Raises SettingsError."""
    try:
        try:
            with open(path, "x", encoding="ascii", opener=private) as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        except FileExistsError:
            pass
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The key file {path} cannot be used: {error}.") from None
    if len(key) < 16:
        raise SettingsError(f"The key file {path} holds no key. Delete it: a new one is made.")
    return key


def private(path: str, flags: int) -> int:
    """For `open(…, opener=private)`: a new file is this user's alone."""
    return os.open(path, flags, 0o600)
