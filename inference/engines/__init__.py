"""Inference servers that we run, one module each, behind one small interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inference.status import Progress


class Engine(Protocol):
    """What the supervisor must know about any inference server. It is immutable; the child's life is elsewhere."""

    @property
    def dialect(self) -> str:
        """How the gateway has to speak to it: `llamacpp`, `tgi` or `lmdeploy`."""

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
    def ports(self) -> tuple[int, ...]:
        """Ports of 127.0.0.1 that must be free before it starts: it would find out only after loading its model."""

    def news_of(self, line: str) -> Progress | None:
        """The stage that this line of its log announces, if it does."""

    def redacted(self, line: str) -> str:
        """The line of its log without secrets and anything that people typed."""

    def explain(self, tail: Sequence[str], returncode: int) -> str:
        """In plain words why it ended and what to do, from its last lines and its exit code (-N: signal N)."""

    async def generate_one_token(self, timeout_s: float) -> None:
        """Raises ProbeFailed when it cannot."""

    async def check_alive(self, timeout_s: float) -> None:
        """Raises ProbeFailed when an engine that was ready does not work any more; cheap, asked again and again."""


class ProcessEngine(Engine, Protocol):
    """A server that is a child process of ours."""

    @property
    def parent_death_signal(self) -> int:
        """What the child gets when we are killed: SIGKILL, or SIGTERM for a launcher that has children of its own."""

    @property
    def stop_signals(self) -> tuple[int, ...]:
        """What its process group gets at the stop, with a share of the time after each; last comes SIGKILL."""

    @property
    def folder(self) -> Path:
        """Private, writable, gone after the run: its working directory."""

    def clear_the_way(self) -> None:
        """Remove what an earlier life left in `folder` that would block the next."""

    def argv(self) -> list[str]:
        """The command line. It holds no secret, since every user of the machine can read it."""

    def environment(self) -> dict[str, str]:
        """The child's whole environment."""


class ContainerEngine(Engine, Protocol):
    """A server in a container, which is no child of ours."""

    def container(self) -> ContainerSpec:
        """What Docker is asked to run."""


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """`volumes`: folder here to folder there, all read-only. `ports`: port there to port on 127.0.0.1 here."""

    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    volumes: Mapping[Path, str]
    ports: Mapping[int, int]
    gpus: int
    shm_bytes: int
