"""Starting what a bench measures, and reading what the kernel accounts to a process."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.load import Target

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A TCP port that nobody holds right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def allow_many_files() -> None:
    """2,000 streams take 4,000 descriptors in a proxy; what we start inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def mock(fault: str = "") -> Iterator[Target]:
    """The mock upstream in a process of its own; with a `fault`, every chat fails so."""
    port = free_port()
    with running([sys.executable, "-m", "bench.mock", str(port), *([fault] if fault else [])]) as process:
        wait_until_up(f"http://127.0.0.1:{port}/health", process)
        yield Target("direct", process.pid, port)


@contextmanager
def gateway(
    data_dir: Path, upstream: str, *, engine: str = "tgi", upstream_key: str = "", **settings: str
) -> Iterator[Target]:
    """A gateway of its own in front of `upstream`; the target is its chat with the admin key."""
    with gateway_process(data_dir, upstream, engine=engine, upstream_key=upstream_key, **settings) as (process, target):
        yield target
        if process.poll() is not None:
            raise SystemExit(f"bench: the gateway ended with {process.returncode}; its log is lost with {data_dir}")


@contextmanager
def gateway_process(
    data_dir: Path, upstream: str, *, engine: str = "tgi", upstream_key: str = "", **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], Target]]:
    """The same, with its process, for those who kill it. `upstream` is a URL, or pairs for GATEWAY_UPSTREAMS."""
    port = free_port()
    environ = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "PORT": str(port),
        "MODEL": "bench",
        "GATEWAY_UPSTREAMS": upstream if "=" in upstream else f"{engine}={upstream}",
        "GATEWAY_UPSTREAM_KEYS": f"{engine}={upstream_key}" if upstream_key else "",
        "GATEWAY_KEY_RPM": "1000000",
        "GATEWAY_SLOTS": "4096",
        "GATEWAY_MAX_WAITING": "100000",
        "GATEWAY_CONTEXT_TOKENS": "1000000",
        **settings,
    }
    command = [sys.executable, "-m", "gateway", "serve", "--log-level", "warning"]
    with running(command, environ=environ, log=data_dir / "bench.log") as process:
        wait_until_up(f"http://127.0.0.1:{port}/healthz", process)
        yield process, Target("gateway", process.pid, port, (data_dir / "admin.key").read_text().strip())


@contextmanager
def webui(data_dir: Path, api: Target, key_file: Path) -> Iterator[Target]:
    """A web UI of its own in front of a gateway."""
    port = free_port()
    environ = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "WEBUI_GATEWAY_URL": f"http://127.0.0.1:{api.port}",
        "WEBUI_API_KEY_FILE": str(key_file),
    }
    command = [sys.executable, "-m", "webui", "--port", str(port)]
    with running(command, environ=environ, log=data_dir / "bench.log") as process:
        wait_until_up(f"http://127.0.0.1:{port}/", process, within_s=90)
        yield Target("webui", process.pid, port)


def new_key(data_dir: Path, name: str, *options: str) -> str | None:
    """A key made with `python -m gateway keys create`; None when this version does not know the options."""
    command = [sys.executable, "-m", "gateway", "keys", "create", "--name", name, *options]
    environ = {**os.environ, "DATA_DIR": str(data_dir)}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1].strip() if done.returncode == 0 else None


@contextmanager
def nginx(upstream_port: int, *, is_keeping: bool = False) -> Iterator[Target | None]:
    """nginx as a proxy that only moves bytes: one worker, no log, no buffering, HTTP/1.1 to the upstream with a
    connection for each request, as is its default, or keeping them. None where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        pool, header = _KEEPING if is_keeping else ("", "")
        told = {"folder": folder, "port": port, "upstream_port": upstream_port, "pool": pool, "header": header}
        config.write_text(_NGINX.format_map(told))
        with running([program, "-c", str(config), "-e", f"{folder}/error.log"]) as process:
            wait_until_up(f"http://127.0.0.1:{port}/health", process)
            yield Target("nginx", process.pid, port)


_KEEPING = ("keepalive 512; keepalive_requests 1000000;", 'proxy_set_header Connection "";')
_NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream mock {{ server 127.0.0.1:{upstream_port}; {pool} }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_buffering off; {header} }}
  }}
}}
"""


@contextmanager
def running(
    command: Sequence[str], *, environ: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the context is open; the end of its log is shown when the bench fails."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with open(log or os.devnull, "ab") as output:
        process = subprocess.Popen(
            command, env=environ, cwd=ROOT, stdout=output if log else None, stderr=subprocess.STDOUT if log else None
        )
    try:
        yield process
    except BaseException:
        if log is not None:
            sys.stderr.write(log.read_text()[-2000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_up(url: str, process: subprocess.Popen[bytes], within_s: float = 30) -> None:
    """Until the URL answers; ends the bench when the process dies before."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise SystemExit(f"bench: nothing answers at {url}")


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process so far, to the nanosecond: its clock of clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def peak_mb(pid: int) -> float:
    """The largest resident size of a process so far, in MB (VmHWM of proc_pid_status(5))."""
    return _status_kb(pid, "VmHWM") / 1000


def resident_kb(pid: int) -> int:
    """The resident size of a process now, in kB (VmRSS)."""
    return _status_kb(pid, "VmRSS")


def _status_kb(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise SystemExit(f"bench: the kernel tells no {name} of process {pid}")
    return int(found[1])
