"""A real PostgreSQL server of the tests' own: Debian's binaries, an unprivileged user, a folder and port of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

PASSWORD = "p@ss/word#1"
_URL_PASSWORD = "p%40ss%2Fword%231"
_CONFIG = ("fsync=off", "max_connections=200", "shared_buffers=32MB", "logging_collector=off", "log_min_messages=fatal")
_numbers = itertools.count(1)


def binaries() -> Path:
    """The folder of the newest server; skips the test where there is none, or fails where it may not skip."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4]))
    if not found:
        say = pytest.fail if "postgresql" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
        say("no PostgreSQL server: install the package `postgresql` of Debian or Ubuntu")
    return found[-1].parent


class PostgresServer:
    """A cluster; `start` and `stop` as often as wanted."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self._bin = binaries()
        self._user = user
        self.folder = folder
        self.port = _free_port()
        (folder / "password").write_text(PASSWORD)
        options = "-U stack -A scram-sha-256 -E UTF8 --no-locale --no-sync".split()
        self._run("initdb", "-D", str(folder / "data"), *options, f"--pwfile={folder / 'password'}")

    def url(self, database: str = "postgres") -> str:
        """With the password, whose special characters are escaped."""
        return f"postgresql://stack:{_URL_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """For what tests do behind the gateway's back."""
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=5)

    def new_database(self) -> str:
        """The URL of a new, empty one."""
        name = f"test_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Until it takes connections."""
        options = " ".join(f"-c {entry}" for entry in _CONFIG)
        options += f" -c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends connections in order; `immediate` is a crash."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """SIGKILL for the postmaster and all its children."""
        self._signal(signal.SIGKILL)
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Every process of it is stopped: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
        for process in (postmaster, *map(int, children.read_text().split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,  # the server keeps it open
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        log = self.folder / "log"
        assert done.returncode == 0, f"{program}: {done.stdout or (log.read_text()[-2000:] if log.exists() else '')}"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """One that runs, in a folder that is removed at the end."""
    binaries()
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    folder = Path(tempfile.mkdtemp(prefix="stack-postgresql-"))
    try:
        if user:
            shutil.chown(folder, user)
        server = PostgresServer(folder, user)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
