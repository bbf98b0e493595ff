"""Which platform this is, by what it puts into the environment or on the disk.

| platform | told by | source |
|---|---|---|
| Hugging Face Space | SPACE_ID | its documentation, "Spaces environment variables" |
| ... with the Gradio SDK | SYSTEM=spaces beside it | gradio/utils.py reads it; that no Docker Space does is assumed |
| ... on ZeroGPU | SPACES_ZERO_GPU is 1, t or true | the package `spaces` 0.51.3, spaces/config.py |
| OpenXLab | the folder /home/xlab-app-center | the platform's tutorial and its apps; no variable of it is known |
| a container | /.dockerenv, /run/.containerenv | Docker and Podman put them there |

Neither platform could be tried where this was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

XLAB_HOME = "home/xlab-app-center"
_CONTAINER_MARKS = (".dockerenv", "run/.containerenv")


@dataclass(frozen=True)
class Platform:
    """`is_hosted`: people come through the platform's one proxy, to one port, into a page that is shown in a frame.

    `frame_ancestors` are the sites whose pages show ours. `keeps` is a folder that may outlive a restart.
    """

    name: str
    title: str
    is_hosted: bool = False
    is_contained: bool = False
    is_zero_gpu: bool = False
    frame_ancestors: str = ""
    keeps: Path | None = None


def find_platform(environ: Mapping[str, str], system: Path = Path("/")) -> Platform:
    """`system` is the root of the file system."""
    if environ.get("SPACE_ID"):
        return _space(environ)
    if (system / XLAB_HOME).is_dir():
        return Platform(
            "openxlab",
            "OpenXLab",
            is_hosted=True,
            is_contained=True,
            frame_ancestors="https://openxlab.org.cn https://*.openxlab.org.cn",
            keeps=system / XLAB_HOME / ".cache",
        )
    if any((system / mark).exists() for mark in _CONTAINER_MARKS):
        return Platform("container", "a container", is_contained=True)
    return Platform("host", "this machine")


def _space(environ: Mapping[str, str]) -> Platform:
    is_gradio = environ.get("SYSTEM") == "spaces"
    return Platform(
        "huggingface-gradio" if is_gradio else "huggingface-docker",
        "a Hugging Face Space (%s)" % ("Gradio" if is_gradio else "Docker"),
        is_hosted=True,
        is_contained=True,
        is_zero_gpu=environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"),
        frame_ancestors="https://huggingface.co",
    )
