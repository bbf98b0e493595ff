"""What this machine may use: cores and memory, as the process may use them (affinity, containers), not as built in;
its cards, and which engines are there.

Sources: `sched_getaffinity(2)`; control groups version 2 (`cpu.max`: "QUOTA PERIOD" in µs or "max", `memory.max`:
bytes or "max") and version 1 (`cpu.cfs_quota_us`, `cpu.cfs_period_us`, `memory.limit_in_bytes`); `sysconf(3)`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inference.cards import Card, list_cards
from inference.settings import DOCKER_SOCKET, docker_host

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class DockerState:
    """`has_nvidia`: NVIDIA's runtime is installed, so containers can have a card."""

    answers: bool = False
    has_nvidia: bool = False


@dataclass(frozen=True)
class Machine:
    """`launcher` and `lmdeploy` are the paths of those programs, None where they are not installed."""

    cores: int
    memory_bytes: int
    cards: tuple[Card, ...] = ()
    docker: DockerState = DockerState()
    launcher: str | None = None
    lmdeploy: str | None = None
    has_llamacpp: bool = True


def this_machine() -> Machine:
    """All of it. Looks for cards and asks Docker, which takes a moment and starts a process."""
    cores, memory = usable_cores_and_memory()
    return Machine(
        cores=cores,
        memory_bytes=memory,
        cards=list_cards(),
        docker=_docker(),
        launcher=shutil.which("text-generation-launcher"),
        lmdeploy=shutil.which("lmdeploy") or shutil.which("lmdeploy", path=os.path.dirname(sys.executable)),
        has_llamacpp=importlib.util.find_spec("xllamacpp") is not None,
    )


def free_bytes(folder: Path) -> int:
    """Free on the disk where this folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def has_docker_socket() -> bool:
    """Whether it is worth asking for a Docker engine."""
    return os.path.exists(DOCKER_SOCKET) or bool(docker_host())


def _docker() -> DockerState:
    """The client is imported only where there may be an engine: it takes a quarter of a second."""
    if not has_docker_socket():
        return DockerState()
    from inference.docker_engine import docker_info

    info = docker_info()
    devices = (info or {}).get("DiscoveredDevices") or []
    is_listed = any("nvidia" in str(device.get("ID", "")) for device in devices)
    return DockerState(info is not None, is_listed or "nvidia" in ((info or {}).get("Runtimes") or {}))


def usable_cores_and_memory(cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> tuple[int, int]:
    """Cores (at least 1; a share of one and a half counts as one) and memory in bytes."""
    cores = float(_affine_cores())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders(cgroups, own_cgroup):
        cores = min([cores, *_cpu_limits(folder)])
        memory = min([memory, *_memory_limits(folder)])
    return max(1, int(cores)), memory


def _affine_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folders(cgroups: Path, own_cgroup: Path) -> Iterator[Path]:
    """Our own group and the ones above it, in version 2; the two controllers of version 1, as a container sees them."""
    yield from (cgroups / "cpu", cgroups / "memory", cgroups)
    for line in _read(own_cgroup).splitlines():
        hierarchy, _, path = line.partition("::")
        parts = [part for part in path.split("/") if part]
        if hierarchy == "0" and ".." not in parts:
            yield from (cgroups.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _cpu_limits(folder: Path) -> Iterator[float]:
    words = _read(folder / "cpu.max").split()
    words = words or [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    with suppress(ValueError, IndexError, ZeroDivisionError):
        if (share := int(words[0]) / int(words[1])) > 0:
            yield share


def _memory_limits(folder: Path) -> Iterator[int]:
    with suppress(ValueError):
        yield int(_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
