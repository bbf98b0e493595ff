"""The threads on which SQL runs: one writer with group commit, and a few readers.

All writes that arrive while a commit is on its way share the next one, so a disk that syncs slowly costs each of them
little; a job that fails rolls back alone. The event loop never waits for the disk, and nobody waits for a database that
does not answer. Which database it is, gateway/databases/ knows.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.databases import Backend, DatabaseError
from gateway.databases.postgresql import PostgreSQL
from gateway.databases.sqlite import SQLite
from gateway.errors import GatewayError, HistoryUnavailable

__all__ = ["Database", "DatabaseError", "Job"]

Result = TypeVar("Result")
Job = Callable[[sa.Connection], Result]
log = logging.getLogger("gateway.database")

_GROUP = 64
_CLOSE_S = 5.0
_AWAY_S = 0.25
_BUMPED, _ERASED = "bumped", "erased"
_AGAIN = {"40001", "40P01"}  # SQLSTATE: serialization failure, deadlock: another gateway was in the way


class _Pending(abc.ABC, Generic[Result]):
    """A job on its way, and who waits for it."""

    def __init__(self, job: Job[Result]) -> None:
        self.job = job
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.is_expired = False  # nobody waits any more, and somebody was told so
        self.is_again = False

    def is_wanted(self) -> bool:
        """Whether what a read finds would still reach anybody."""
        return not self.is_expired

    @abc.abstractmethod
    def resolve(self) -> None:
        """Tells who waits."""


class _Blocking(_Pending[Result]):
    def __init__(self, job: Job[Result]) -> None:
        super().__init__(job)
        self._is_done = threading.Event()

    def wait(self, timeout_s: float | None) -> bool:
        """Whether it was done in time."""
        return self._is_done.wait(timeout_s)

    def resolve(self) -> None:
        self._is_done.set()


class _Awaited(_Pending[Result]):
    def __init__(self, job: Job[Result], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(job)
        self.loop = loop
        self.future: asyncio.Future[Result] = loop.create_future()

    def is_wanted(self) -> bool:
        return not self.future.cancelled()

    def resolve(self) -> None:
        def settle() -> None:
            if self.future.cancelled():
                return
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(self.result)  # type: ignore[arg-type]  # None is a Result here

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(settle)


_Queue = queue.SimpleQueue[_Pending[Any] | None]


class Database:
    """A database and the threads that use it.

    Args:
        address: the path of a SQLite file, `sqlite:///path` or `postgresql://user:password@host:port/name`.
        hold: for a gateway that serves: refuses a SQLite file that another one holds.
        wait_s: for so long a server that does not answer yet is waited for, in seconds.

    Raises:
        DatabaseError: it cannot be opened or migrated.
    """

    def __init__(self, address: Path | str, *, hold: bool = False, wait_s: float = 0.0) -> None:
        self._backend: Backend
        if isinstance(address, str) and not address.startswith("sqlite:///"):
            self._backend = PostgreSQL(address, wait_s=wait_s)
        else:
            self._backend = SQLite(Path(str(address).removeprefix("sqlite:///")), hold=hold)
        self._is_away = False  # somebody waited in vain, and nothing has been done since
        self._write_failed = False
        self.failures = 0
        """Reads and writes that failed since the start; two at the same moment may count as one."""
        self._writes: _Queue = queue.SimpleQueue()
        self._reads: _Queue = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._readers = [
            threading.Thread(target=self._read_loop, name="store-reader", daemon=True)
            for _ in range(self._backend.readers)
        ]
        for thread in (self._writer, *self._readers):
            thread.start()

    @property
    def engine(self) -> sa.Engine:
        """SQLAlchemy's."""
        return self._backend.engine

    @property
    def is_shared(self) -> bool:
        """Whether other gateways may use it at the same time."""
        return self._backend.is_shared

    @property
    def is_up(self) -> bool:
        """Whether it answers, and took the last write. Idle, it knows no better than that."""
        return not (self._is_away or self._write_failed)

    async def write(self, job: Job[Result]) -> Result:
        """Runs `job` in a transaction and returns when it is on disk. Cancelling the caller does not undo it.

        Raises:
            HistoryUnavailable: the database failed, or did not answer in time; then the job may yet have been done.
            GatewayError: what the job itself raised.
        """
        return await self._done(self._writes, job)

    async def read(self, job: Job[Result]) -> Result:
        """Runs `job` on a reader thread, on one state of the database. Raises as `write` does."""
        return await self._done(self._reads, job)

    def write_now(self, job: Job[Result]) -> Result:
        """`write` for code that is not asynchronous: blocks."""
        return self._done_now(self._writes, job)

    def read_now(self, job: Job[Result]) -> Result:
        """`read` likewise."""
        return self._done_now(self._reads, job)

    def alone(self, what: str) -> AbstractContextManager[None]:
        """While it is open, no other gateway on this database is inside the same. Blocks."""
        return self._backend.alone(what)

    def stamp(self, name: str) -> Hashable:
        """Something that differs once a `bump` of `name` was committed, by whichever process. Never waits.

        Take it before reading what is to be cached under it: what is read then is at least as new as the stamp.
        """
        return self._backend.stamp(name)

    def bump(self, connection: sa.Connection, name: str) -> None:
        """Inside a job: when its transaction has been committed, `stamp(name)` changes in every process."""
        connection.info.setdefault(_BUMPED, set()).add(name)
        self._backend.bump(connection, name)

    def say(self, connection: sa.Connection, text: str) -> None:
        """Inside a job: when its transaction has been committed, all gateways that listen hear `text` (1 kB)."""
        self._backend.say(connection, text)

    def listen(self, act: Callable[[str], None]) -> None:
        """Has `act` called, on a thread, with what gateways say. What is said while the database is away is lost."""
        self._backend.listen(act)

    def erase(self, connection: sa.Connection) -> None:
        """Inside a job that deletes: after its commit, what was deleted is not in the database's files either.

        So far as the database can do that: see gateway/databases/.
        """
        connection.info[_ERASED] = True

    def close(self) -> None:
        """Finishes the queued writes and ends the threads; waits no more than seconds for a database that is away."""
        self._writes.put(None)
        for _ in self._readers:
            self._reads.put(None)
        until = time.monotonic() + _CLOSE_S
        for thread in (self._writer, *self._readers):
            thread.join(max(0.0, until - time.monotonic()) if self.is_shared else None)
        self._backend.close()

    def _announce(self, connection: sa.Connection) -> None:
        if _BUMPED in connection.info:
            self._backend.bumped(connection.info.pop(_BUMPED))
        if connection.info.pop(_ERASED, False):
            self._backend.erased(connection)

    async def _done(self, jobs: _Queue, job: Job[Result]) -> Result:
        pending = _Awaited(job, asyncio.get_running_loop())
        jobs.put(pending)
        timeout_s = self._timeout_s()
        if timeout_s is None:
            return await pending.future
        try:
            async with asyncio.timeout(timeout_s):
                return await pending.future
        except TimeoutError:
            raise self._expired(pending) from None

    def _done_now(self, jobs: _Queue, job: Job[Result]) -> Result:
        pending = _Blocking(job)
        jobs.put(pending)
        if not pending.wait(self._timeout_s()):
            raise self._expired(pending)
        if pending.error is not None:
            raise pending.error
        return pending.result  # type: ignore[return-value]  # None is a Result here

    def _timeout_s(self) -> float | None:
        return _AWAY_S if self._is_away else self._backend.answer_within_s

    def _expired(self, pending: _Pending[Any]) -> HistoryUnavailable:
        pending.is_expired = self._is_away = True
        self.failures += 1
        return HistoryUnavailable(
            "The conversation store does not answer in time. Try again in a moment.", retry_after_s=5
        )

    def _failed(self, error: SQLAlchemyError) -> GatewayError:
        self.failures += 1
        return self._backend.in_words(error)

    def _read_loop(self) -> None:
        while (pending := self._reads.get()) is not None:
            if not pending.is_wanted():
                continue
            try:
                with self._backend.reading() as connection:
                    pending.result = pending.job(connection)
                self._is_away = False
            except SQLAlchemyError as error:
                pending.error = self._failed(error)
            except GatewayError as error:
                pending.error = error
            except Exception as error:  # a bug in a job is its caller's, and must not end the reader thread
                pending.error = error
            pending.resolve()

    def _write_loop(self) -> None:
        is_open = True
        while is_open:
            group = [self._writes.get()]
            while len(group) < _GROUP and group[-1] is not None:
                try:
                    group.append(self._writes.get_nowait())
                except queue.Empty:
                    break
            is_open = group[-1] is not None
            pending = [entry for entry in group if entry is not None and not entry.is_expired]
            if pending:
                self._commit_group(pending)
            for entry in pending:
                if entry.is_again:
                    self._commit_group([entry])
                entry.resolve()

    def _commit_group(self, group: list[_Pending[Any]]) -> None:
        try:
            with self._backend.writing() as connection:
                with connection.begin():
                    for entry in group:
                        self._run_alone(entry, connection)
                self._is_away = False
                self._write_failed = any(isinstance(entry.error, HistoryUnavailable) for entry in group)
                self._announce(connection)
        except SQLAlchemyError as error:  # the commit failed, or the database is away: nobody's write is on disk
            unavailable = self._failed(error)
            self._write_failed = True
            for entry in group:
                entry.error = entry.error or unavailable

    def _run_alone(self, entry: _Pending[Any], connection: sa.Connection) -> None:
        is_second_try, entry.is_again, entry.error = entry.is_again, False, None
        connection.exec_driver_sql("SAVEPOINT job")  # SQLAlchemy's own costs as much as a statement
        try:
            entry.result = entry.job(connection)
            connection.exec_driver_sql("RELEASE SAVEPOINT job")
        except Exception as error:  # a bug in a job must not end the writer thread
            try:
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
                connection.exec_driver_sql("RELEASE SAVEPOINT job")
            except SQLAlchemyError as worse:  # SQLite on a full disk undoes all jobs, or the connection broke
                raise (error if isinstance(error, SQLAlchemyError) else worse) from None
            if isinstance(error, SQLAlchemyError) and not is_second_try and _is_worth_another_try(error):
                entry.is_again = True
            elif isinstance(error, SQLAlchemyError):
                entry.error = self._failed(error)
            else:
                if not isinstance(error, GatewayError):
                    log.exception("a write failed")
                entry.error = error


def _is_worth_another_try(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _AGAIN
