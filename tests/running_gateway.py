"""A real gateway on a real socket for tests: in a thread of this process, or as `python -m gateway serve`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from fastapi import FastAPI

from gateway.auth import Keys
from gateway.main import create_app
from gateway.server import Server
from gateway.settings import Settings, Timeouts, UpstreamAddress
from gateway.turn import Parts
from tests.fakes.inference import FakeInference, Scenario

ROOT = Path(__file__).resolve().parent.parent
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one for all: reading the certificates takes longer than a test
MODEL = "smollm2-135m-instruct"
Json = dict[str, Any]


def eventually(condition: Callable[[], Any], *, within_s: float = 5.0) -> Any:
    """Waits until `condition` gives something true, and returns it; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not true within {within_s:g} s: {condition}")
        time.sleep(0.005)
    return found


def require_packet_filters() -> None:
    """Skips where the kernel lets this user attach none to a socket: some want CAP_NET_ADMIN, which containers lack."""
    take_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF))
    with socket.socket() as one:
        try:
            one.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(take_all)))
        except PermissionError:
            pytest.skip("the kernel lets this user attach no packet filter (CAP_NET_ADMIN)")


def client_of(url: str, key: str, **options: Any) -> httpx2.Client:
    """A plain HTTP client with a key."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=url, headers=headers, verify=_NO_TLS, **({"timeout": 30} | options))


def events_of(text: str) -> list[Json]:
    """The payloads of an event stream, decoded; `[DONE]` stays a text under `done`."""
    payloads = [
        line.removeprefix("data: ")
        for block in text.split("\n\n")
        for line in block.split("\n")
        if line[:6] == "data: "
    ]
    return [{"done": True} if payload == "[DONE]" else json.loads(payload) for payload in payloads]


@dataclass(frozen=True)
class RunningGateway:
    """A gateway in a thread of this process."""

    url: str
    app: FastAPI
    data_dir: Path

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def webui_key(self) -> str:
        return (self.data_dir / "webui.key").read_text().strip()

    def new_key(self, name: str = "test", **fields: Any) -> str:
        """The secret of a new key."""
        keys: Keys = self.app.state.keys
        return keys.create(name, **fields)[1]

    def client(self, key: str | None = None, **options: Any) -> httpx2.Client:
        """A client with `key`, or with a new key of its own."""
        return client_of(self.url, key or self.new_key(), **options)

    def is_idle(self) -> bool:
        """Whether no slot is held, nobody waits and no turn is open."""
        parts = self.parts
        return not parts.admission.running and parts.admission.waiting == 0 and not parts.open_turns


class _ThreadServer(Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # signals belong to the main thread


class _Faults(logging.Handler):
    """Collects what nobody should ever log: bugs, and tasks whose end nobody looked at."""

    LOGGERS = ("asyncio", "uvicorn.error", "gateway")
    expected: ClassVar[list[_Faults]] = []  # the loggers are the process's: what one run means to log is not another's

    def __init__(self, *, are_expected: bool) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []
        self._are_expected = are_expected

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "gateway.database" and not record.exc_info:
            return  # what the disk said, in the tests that fill it
        if self.expected and not self._are_expected:
            return
        self.seen.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")

    def __enter__(self) -> _Faults:
        for name in self.LOGGERS:
            logging.getLogger(name).addHandler(self)
        if self._are_expected:
            self.expected.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeHandler(self)
        if self._are_expected:
            self.expected.remove(self)


@contextmanager
def run_gateway(
    data_dir: Path,
    upstream: FakeInference | str,
    *,
    engine: str = "llamacpp",
    timeouts: Timeouts | None = None,
    has_bugs: bool = False,
    **fields: Any,
) -> Iterator[RunningGateway]:
    """Serves the gateway from a thread; `fields` are those of Settings.

    At its end nothing may be left open, and, unless it `has_bugs` by intention, none may have been logged.
    """
    url = upstream if isinstance(upstream, str) else upstream.url
    settings = Settings(
        data_dir=data_dir,
        model=MODEL,
        upstreams=tuple(UpstreamAddress(engine, one, "engine-key") for one in url.split(",")),
        timeouts=timeouts or Timeouts(drain_s=0.5),
        **({"key_rpm": 100_000, "user_rpm": 100_000, "all_users_rpm": 100_000, "user_streams": 1000} | fields),
    )
    app = create_app(settings)
    server = _ThreadServer(app, host="127.0.0.1", port=0, drain_s=settings.timeouts.drain_s)
    thread = threading.Thread(target=server.run, name="gateway", daemon=True)
    thread.start()
    eventually(lambda: server.started or not thread.is_alive(), within_s=20)
    assert server.started
    running = RunningGateway(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app, data_dir)
    with _Faults(are_expected=has_bugs) as faults:
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(20)
            gc.collect()
            assert not thread.is_alive(), "the gateway did not stop"
            assert running.is_idle(), "a slot or a turn was left open"
            assert has_bugs == bool(faults.seen), faults.seen


class GatewayProcess:
    """`python -m gateway serve` as a process of its own."""

    def __init__(
        self, data_dir: Path, upstream: str, environ: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> None:
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._environ = {
            "DATA_DIR": str(data_dir),
            "PORT": "0",
            "GATEWAY_UPSTREAMS": f"llamacpp={upstream}",
            "GATEWAY_KEY_RPM": "100000",
            **(environ or {}),
        }
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", *arguments],
                cwd=ROOT,
                env={**os.environ, **self._environ},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.url = ""

    @property
    def output(self) -> str:
        """What it has written since it was started."""
        return self.log.read_bytes()[self._seen :].decode()

    @property
    def key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    def client(self, **options: Any) -> httpx2.Client:
        return client_of(self.url, self.key, **options)

    def wait_until_up(self) -> None:
        """Until its port is open; fails early, with its log, when it has died."""
        found = eventually(lambda: _port_in(self.output) or self.process.poll() is not None, within_s=30)
        assert found is not True, f"exit code {self.process.returncode}:\n{self.output}"
        self.url = f"http://127.0.0.1:{found}"

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 15) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(within_s)


@contextmanager
def run_gateway_process(
    data_dir: Path, upstream: str, environ: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
) -> Iterator[GatewayProcess]:
    """Starts it and waits until it is up; ends it however the test ends."""
    running = GatewayProcess(data_dir, upstream, environ, arguments)
    try:
        running.wait_until_up()
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.process.kill()
        running.process.wait()


def _port_in(output: str) -> str:
    for line in output.splitlines():
        if "Uvicorn running on" in line:
            return line.split("http://127.0.0.1:")[1].split(" ")[0].strip('"')
    return ""


@contextmanager
def one_slot(fake: FakeInference, folder: Path, **fields: Any) -> Iterator[tuple[RunningGateway, httpx2.Client]]:
    """A gateway whose only slot is held by somebody until the fake lets go."""
    with (
        run_gateway(folder, fake, slots=1, **fields) as gateway,
        gateway.client() as client,
        gateway.client() as holder,
    ):
        fake.scenario = Scenario("silent_first_token")
        thread = threading.Thread(target=lambda: holder.post("/v1/chat/completions", json=_HOLDING))
        thread.start()
        eventually(lambda: fake.chats)
        time.sleep(0.1)  # by now it has begun to keep silent
        fake.scenario = Scenario()
        try:
            yield gateway, client
        finally:
            fake.release()
            thread.join()


_HOLDING = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
