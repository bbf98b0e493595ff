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

from hosting.errors import CannotStart

NAMES = ("huggingface-gradio", "huggingface-docker", "openxlab", "container", "host")
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

    @property
    def is_space(self) -> bool:
        """Of Hugging Face."""
        return self.name.startswith("huggingface-")


def find_platform(environ: Mapping[str, str], system: Path = Path("/")) -> Platform:
    """`system` is the root of the file system. APP_PLATFORM names the platform where its marks do not tell."""
    named = environ.get("APP_PLATFORM")
    if named and named not in NAMES:
        raise CannotStart(f"APP_PLATFORM={named!r} is not known. It can be {', '.join(NAMES)}.")
    if named in NAMES[:2] or (not named and environ.get("SPACE_ID")):
        return _space(environ, named or (NAMES[0] if environ.get("SYSTEM") == "spaces" else NAMES[1]))
    xlab = system / XLAB_HOME
    if named == "openxlab" or (not named and xlab.is_dir()):
        return Platform(
            "openxlab",
            "OpenXLab",
            is_hosted=True,
            is_contained=True,
            frame_ancestors="https://openxlab.org.cn https://*.openxlab.org.cn",
            keeps=xlab / ".cache" if xlab.is_dir() else None,
        )
    if named == "container" or (not named and any((system / mark).exists() for mark in _CONTAINER_MARKS)):
        return Platform("container", "a container", is_contained=True)
    return Platform("host", "this machine")


def _space(environ: Mapping[str, str], name: str) -> Platform:
    return Platform(
        name,
        "a Hugging Face Space (%s)" % ("Gradio" if name == NAMES[0] else "Docker"),
        is_hosted=True,
        is_contained=True,
        is_zero_gpu=environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"),
        frame_ancestors="https://huggingface.co",
    )
