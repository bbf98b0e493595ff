"""What other gateways say by PostgreSQL's NOTIFY, counted by name on a connection of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import psycopg

CHANNEL = "internlm_stack"
SAID = "say:"
"""Begins what is not counted, but told to those who listen."""
_PROBE_S = 1.0
_SILENT_S = 3.0
log = logging.getLogger("gateway.database")


class Notices:
    """Counts notices; the thread that listens is started when somebody first asks.

    Args:
        parameters: psycopg's, for the connection.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = dict(parameters)
        self._counts: Counter[str] = Counter()
        self._listeners: list[Callable[[str], None]] = []
        self._connections = 0
        self._alive_at = float("-inf")
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def stamp(self, name: str) -> Hashable:
        """Differs once `name` was announced. While nothing can be heard it differs every second."""
        if self._thread is None:
            self._start()
        if time.monotonic() - self._alive_at > _SILENT_S:
            return int(time.monotonic())
        return self._connections, self._counts[name]

    def count(self, name: str) -> None:
        """One notice; counting it twice does no harm."""
        self._counts[name] += 1

    def listen(self, act: Callable[[str], None]) -> None:
        """Calls `act`, on this thread, with what is said; what is said while nothing can be heard is lost."""
        self._listeners.append(act)
        self._start()

    def close(self) -> None:
        """Ends the thread."""
        self._is_closing.set()
        if self._thread is not None:
            self._thread.join(2 * _PROBE_S)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        was_heard = True
        while not self._is_closing.is_set():
            try:
                with psycopg.connect(**self._parameters, autocommit=True) as connection:
                    was_heard = True
                    self._listen(connection)
            except psycopg.Error as error:
                self._alive_at = float("-inf")
                if was_heard:
                    log.warning("other gateways cannot be heard: %s", str(error).strip().splitlines()[0])
                was_heard = False
                self._is_closing.wait(_PROBE_S)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        self._connections += 1  # only now: what was announced before may have been missed
        while not self._is_closing.is_set():
            self._alive_at = time.monotonic()
            for notice in connection.notifies(timeout=_PROBE_S, stop_after=1):
                self._heard(notice.payload)
            connection.execute("SELECT 1")  # a server that stands still keeps its connections

    def _heard(self, payload: str) -> None:
        if not payload.startswith(SAID):
            self.count(payload)
            return
        for act in self._listeners:
            act(payload.removeprefix(SAID))
