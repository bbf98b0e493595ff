"""Starting the gateway beside a bench, and reading what the kernel accounts to a process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A TCP port that nobody holds right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gateway(
    data_dir: Path, upstream: str, upstream_key: str = "none", **settings: str
) -> Iterator[tuple[int, int, str]]:
    """A gateway of its own in front of `upstream` (engine llamacpp); gives pid, port and an API key."""
    port = free_port()
    environ = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "PORT": str(port),
        "GATEWAY_UPSTREAMS": f"llamacpp={upstream}",
        "GATEWAY_UPSTREAM_KEYS": f"llamacpp={upstream_key}",
        "GATEWAY_KEY_RPM": "1000000",
        **settings,
    }
    command = [sys.executable, "-m", "gateway", "serve", "--log-level", "warning"]
    process = subprocess.Popen(command, env=environ, cwd=ROOT)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/healthz", process)
        yield process.pid, port, (data_dir / "admin.key").read_text().strip()
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"bench: nothing answers at {url}")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process so far (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The largest resident size of a process so far, in MB (VmHWM of proc_pid_status(5))."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else float("nan")
