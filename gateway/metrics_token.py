"""The token that a Prometheus beside the gateway reads /metrics with: a file that the first gateway makes."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from gateway.database import DatabaseError


def kept_token(path: Path) -> str:
    """What is in the file; it is made when it is missing, readable for its group.

    Gateways that start at the same moment get the same one.

    Raises:
        DatabaseError: it cannot be read or made.
    """
    try:
        if not path.exists():
            _make(path)
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise DatabaseError(
            f"GATEWAY_METRICS_TOKEN_FILE: {path} cannot be used ({why}). Name a file that can be written."
        ) from None
    if not token:
        raise DatabaseError(f"GATEWAY_METRICS_TOKEN_FILE: {path} is empty. Remove it, and it is made anew.")
    return token


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        new.write_text(secrets.token_urlsafe(32) + "\n")
        new.chmod(0o640)
        with contextlib.suppress(FileExistsError):  # another gateway was faster
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
