"""A volume on a disk of its own, small enough to be filled, which can be made to fail as a broken disk does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

USER = "1000:1000"


@dataclass
class SmallDisk:
    """ext4 in a file, mounted by the engine as the volume `name`."""

    name: str
    mountpoint: Path

    def fill(self) -> None:
        """Until nothing more fits."""
        with (self.mountpoint / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while filler.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        (self.mountpoint / "filler").unlink()

    def fail(self) -> None:
        """What ext4 does after an error of the disk: read-only at once, whoever has files open."""
        subprocess.run(["mount", "-o", "remount,abort", str(self.mountpoint)], check=True)


@contextmanager
def small_disk(client: docker.DockerClient, name: str, folder: Path, size: str = "24M") -> Iterator[SmallDisk]:
    """Skips where there are no loop devices to be had."""
    if not all(map(shutil.which, ("losetup", "mkfs.ext4"))) or not Path("/dev/loop-control").exists():
        pytest.skip("a disk that becomes full needs losetup, mkfs.ext4 and loop devices")
    image = folder / f"{name}.img"
    subprocess.run(["truncate", "-s", size, str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m0", "-E", f"root_owner={USER}", str(image)], check=True)
    found = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"no loop device can be had: {found.stderr.strip()}")
    device = found.stdout.strip()
    volume = client.volumes.create(name, driver="local", driver_opts={"type": "ext4", "device": device})
    try:
        yield SmallDisk(name, Path(volume.attrs["Mountpoint"]))
    finally:
        volume.remove(force=True)
        subprocess.run(["losetup", "-d", device], check=False)
        image.unlink()
