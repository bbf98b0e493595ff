"""Text Generation Inference in its container, for machines with Docker and NVIDIA's container toolkit."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference.engines import ContainerSpec
from inference.engines.tgi import (
    ENVIRONMENT,
    STOP_MARGIN_S,
    check_alive,
    flags,
    news_of,
    redacted,
)
from inference.engines.tgi_causes import explain_tgi
from inference.plan import LaunchPlan
from inference.probe import generate_one_token
from inference.sockets import free_ports
from inference.status import Progress

INNER_PORT = 80
SHM_BYTES = 1 << 30  # what sharding needs; one card needs none


@dataclass(frozen=True)
class TgiContainer:
    """It listens on a port of 127.0.0.1 that only this machine reaches."""

    plan: LaunchPlan
    image: str
    stop_timeout_s: float = 10.0
    model_folder: Path | None = None
    port: int = field(default_factory=lambda: free_ports(1)[0])
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    dialect: str = "tgi"

    def serving(self, model_folder: Path) -> TgiContainer:
        """The same engine (same endpoint, same key) with its model."""
        return replace(self, model_folder=model_folder)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def description(self) -> str:
        name = f"Text Generation Inference in a container ({self.image})"
        return f"{name}: {self.plan.model.name}, {self.plan.on_card}"

    def container(self) -> ContainerSpec:
        """The image's entry point splits its arguments at spaces, so the folder has a name without any in there."""
        assert self.model_folder is not None, "serving(path) comes first"
        inner = f"/models/{self.plan.model.name}"
        listen = ("--hostname", "0.0.0.0", "--port", str(INNER_PORT))
        grace_s = max(1, int(self.stop_timeout_s) - STOP_MARGIN_S)
        return ContainerSpec(
            image=self.image,
            command=(*flags(self.plan, inner, grace_s), *listen),
            environment={**ENVIRONMENT, "API_KEY": self.api_key},
            volumes={self.model_folder: inner},
            ports={INNER_PORT: self.port},
            gpus=self.plan.on_card.cards,
            shm_bytes=SHM_BYTES,
        )

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    def news_of(self, line: str) -> Progress | None:
        return news_of(line)

    def redacted(self, line: str) -> str:
        return redacted(line, self.api_key)

    def explain(self, tail: Sequence[str], returncode: int) -> str:
        return explain_tgi(tail, returncode, self.plan)

    async def generate_one_token(self, timeout_s: float) -> None:
        await generate_one_token(self.endpoint, self.api_key, self.plan.model.name, timeout_s=timeout_s)

    async def check_alive(self, timeout_s: float) -> None:
        await check_alive(self.endpoint, timeout_s)
