"""Why a repository could not be read, in one word and in one sentence with what to do. All kinds of hosts share it."""

from __future__ import annotations

from typing import Literal, get_args

from inference.errors import DiskFull, InferenceError, SourceError

Reason = Literal["auth", "missing", "network", "disk", "other"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class ConnectionLost(SourceError):
    """The network or the server failed; to try again may help."""


def source_error(reason: Reason, said: str, *, where: str, revision: str, token_name: str) -> InferenceError:
    """`said` is the host's own word, without secrets; `token_name` the variable that opens the door."""
    match reason:
        case "auth":
            return SourceError(
                f"{where} refused us ({said}). It wants a token that may read it: set {token_name} (or its _FILE, and "
                "the user name where there is one) and start again."
            )
        case "missing":
            return SourceError(
                f"{where} has no such repository or revision {revision!r}, or this token may not see it ({said})."
            )
        case "disk":
            return DiskFull(f"The disk became full while {where} was fetched. Free some space and start again.")
        case "network":
            return ConnectionLost(f"The connection to {where} failed ({said}).")
        case "other":
            return SourceError(f"{where} could not be fetched: {said}.")
