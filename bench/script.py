"""What an answer of the mock is to be. It travels in the prompt, so it passes every proxy."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

_WORDS = re.compile(rb"bench ((?:[a-z_]+=[\w.]+ )*)end")


@dataclass(frozen=True)
class Script:
    """Times in milliseconds; `str(script)` is the prompt that asks for it.

    Attributes:
        tokens: how many the answer has, unless the request's max_tokens cuts it.
        first_ms: from the request to the first token.
        spread_ms: the first token is later by a random part of this, so that streams do not march in step.
        pace_ms: from one write to the next; 0: as fast as the reader takes them.
        batch: tokens in a write, each in an HTTP chunk of its own, as an engine's decode steps pile up in a burst.
        stamp: each token's text tells when it was made (time.monotonic_ns, which all processes of a machine share).
        id: keeps the times of this answer's tokens and of its end for `Mock.kept`.
        fault: "" or one of FAULTS.
        after: tokens before the fault.
    """

    FAULTS = ("ends", "resets", "half", "engine_died", "refuses", "overloaded")

    tokens: int = 20
    first_ms: float = 0.0
    spread_ms: float = 0.0
    pace_ms: float = 0.0
    batch: int = 1
    stamp: int = 0
    id: str = ""
    fault: str = ""
    after: int = 0

    def __str__(self) -> str:
        told = (f"{field.name}={getattr(self, field.name)} " for field in fields(self) if getattr(self, field.name))
        return f"bench {''.join(told)}end"

    @classmethod
    def last_in(cls, body: bytes) -> Script:
        """The last script in a request: earlier ones are the history of a conversation. Without one: the default."""
        found = _WORDS.findall(body)
        told = dict(word.split("=") for word in found[-1].decode().split()) if found else {}
        kinds = {"int": int, "float": float, "str": str}
        return cls(
            **{field.name: kinds[str(field.type)](told[field.name]) for field in fields(cls) if field.name in told}
        )
