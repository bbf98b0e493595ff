"""Inference servers that we run, one module each, behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from inference.status import Stage


class Engine(Protocol):
    """All that the supervisor must know about an inference server. It is immutable; the child's life is elsewhere."""

    @property
    def dialect(self) -> str:
        """How the gateway has to speak to it: `llamacpp`."""

    @property
    def endpoint(self) -> str:
        """Where it listens: `unix:/path` or `http://host:port`."""

    @property
    def api_key(self) -> str:
        """What it wants to see as bearer token; made anew for each run."""

    @property
    def description(self) -> str:
        """One line for people: what is started, and how."""

    @property
    def parent_death_signal(self) -> int:
        """What the child gets when we are killed: SIGKILL, or SIGTERM for a launcher that has children of its own."""

    def argv(self) -> list[str]:
        """The command line. It holds no secret, since every user of the machine can read it."""

    def environment(self) -> dict[str, str]:
        """The child's whole environment."""

    def clear_the_way(self) -> None:
        """Remove what an earlier life left that would block the next."""

    def stage_of(self, line: str) -> Stage | None:
        """The stage that this line of its log announces, if it does."""

    def redacted(self, line: str) -> str:
        """The line of its log without anything that people typed."""

    def explain(self, tail: Sequence[str], returncode: int) -> str:
        """In plain words why it ended and what to do, from its last lines and its exit code (-N: signal N)."""

    async def generate_one_token(self, timeout_s: float) -> None:
        """Raises ProbeFailed when it cannot."""
