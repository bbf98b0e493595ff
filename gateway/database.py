"""The threads on which SQL runs: one writer with group commit, and a few readers.

All writes that arrive while a commit is on its way share the next one, so a disk that syncs slowly costs each of them
little; a job that fails rolls back alone. The event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import GatewayError, HistoryUnavailable

Result = TypeVar("Result")
Job = Callable[[sa.Connection], Result]
log = logging.getLogger("gateway.database")

_GROUP = 64
_READERS = 2
_BUMPED = "bumped"


class DatabaseError(Exception):
    """The database cannot be opened or migrated; the message says why and what to do."""


@dataclass
class _Pending(Generic[Result]):
    job: Job[Result]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Result]
    result: Result | None = None
    error: BaseException | None = None

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


class Database:
    """A SQLite file and the threads that use it.

    Args:
        path: the file; made when missing, with its folder.

    Raises:
        DatabaseError: it cannot be opened or migrated.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # what people wrote is nobody else's; SQLite's other files take this mode over
        except OSError as error:
            raise DatabaseError(
                f"{path} cannot be made: {error.strerror}. Make its folder writable, or set DATA_DIR to another one."
            ) from None
        self._path = path
        self.engine = _engine(path)
        _migrate(self.engine, path)
        self._queue: queue.SimpleQueue[_Pending[Any] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._writer.start()

    async def write(self, job: Job[Result]) -> Result:
        """Runs `job` in a transaction and returns when it is on disk. Cancelling the caller does not undo it.

        Raises:
            HistoryUnavailable: the database failed.
            GatewayError: what the job itself raised.
        """
        loop = asyncio.get_running_loop()
        pending: _Pending[Result] = _Pending(job, loop, loop.create_future())
        self._queue.put(pending)
        return await pending.future

    async def read(self, job: Job[Result]) -> Result:
        """Runs `job` on a reader thread. Raises as `write` does."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, job)

    def read_now(self, job: Job[Result]) -> Result:
        """The same for the command line: blocks."""
        return self._read(job)

    def write_now(self, job: Job[Result]) -> Result:
        """One transaction on the calling thread: for the command line and the start."""
        try:
            with self.engine.connect().execution_options(is_writer=True) as connection:
                with connection.begin():
                    result = job(connection)
                self._announce(connection)
                return result
        except SQLAlchemyError as error:
            raise in_words(error) from None

    def stamp(self, name: str) -> Hashable:
        """Something that differs once a `bump` of `name` was committed, by whichever process. Never waits.

        Take it before reading what is to be cached under it: what is read then is at least as new as the stamp.
        """
        file = self._stamp_file(name)
        try:
            try:
                found = os.stat(file)
            except FileNotFoundError:
                found = _touched(file)
        except OSError:
            return time.monotonic_ns()  # nothing can be told, so nothing may be trusted
        return found.st_mtime_ns, found.st_ino

    def bump(self, connection: sa.Connection, name: str) -> None:
        """Inside a job: when its transaction has been committed, `stamp(name)` changes in every process."""
        connection.info.setdefault(_BUMPED, set()).add(name)

    def _announce(self, connection: sa.Connection) -> None:
        """After the commit: a reader that saw a new stamp before it would keep the old row under that stamp."""
        for name in connection.info.pop(_BUMPED, ()):
            file = self._stamp_file(name)
            try:
                _touched(file)
            except OSError as error:
                log.error("%s cannot be touched: %s; other processes see the change late", file, error.strerror)

    def _stamp_file(self, name: str) -> str:
        return f"{self._path}.{name}"

    def close(self) -> None:
        """Finishes the queued writes and ends the threads."""
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _read(self, job: Job[Result]) -> Result:
        try:
            with self.engine.connect() as connection:
                return job(connection)
        except SQLAlchemyError as error:
            raise in_words(error) from None

    def _write_loop(self) -> None:
        is_open = True
        while is_open:
            group = [self._queue.get()]
            while len(group) < _GROUP and group[-1] is not None:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            is_open = group[-1] is not None
            pending = [entry for entry in group if entry is not None]
            if pending:
                self._commit_group(pending)

    def _commit_group(self, group: list[_Pending[Any]]) -> None:
        try:
            with self.engine.connect().execution_options(is_writer=True) as connection:
                with connection.begin():
                    for entry in group:
                        _run_alone(entry, connection)
                self._announce(connection)
        except SQLAlchemyError as error:  # the commit failed, or the database is away: nobody's write is on disk
            for entry in group:
                entry.error = entry.error or in_words(error)
        for entry in group:
            entry.resolve()


def _touched(file: str) -> os.stat_result:
    Path(file).touch(mode=0o600)
    now = time.time_ns()  # finer than what the kernel's own clock would write
    os.utime(file, ns=(now, now))
    return os.stat(file)


def _run_alone(entry: _Pending[Any], connection: sa.Connection) -> None:
    cause: SQLAlchemyError | None = None
    try:
        with connection.begin_nested():
            try:
                entry.result = entry.job(connection)
            except SQLAlchemyError as error:
                cause = error
                raise
    except GatewayError as error:
        entry.error = error
    except SQLAlchemyError as error:
        cause = cause or error  # when the savepoint is gone too, its error says less
        if not _is_in_transaction(connection):  # a full disk makes SQLite roll back all jobs of the group at once
            raise cause from None
        entry.error = in_words(cause)
    except Exception as error:  # a bug in a job must not end the writer thread
        log.exception("a write failed")
        entry.error = error


def _is_in_transaction(connection: sa.Connection) -> bool:
    """What SQLite itself says; SQLAlchemy does not see it roll back."""
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", True))


def in_words(error: SQLAlchemyError) -> HistoryUnavailable:
    """Our error for one of the database's; the details go to the log only."""
    log.error("database: %s", str(error.__cause__ or error).splitlines()[0])
    cause = str(error.__cause__ or error)
    if "full" in cause:
        message = "The server's disk is full, so conversations cannot be stored now. Free space on it, then try again."
    elif "readonly" in cause or "read-only" in cause:
        message = "The server's data folder is read-only, so conversations cannot be stored."
    else:
        message = "The conversation store does not answer. Try again in a moment."
    return HistoryUnavailable(message, retry_after_s=5)


def hold_folder(folder: Path) -> int:
    """Marks `folder` as this process's until it ends or closes the descriptor that is returned.

    Two gateways on one SQLite file would close each other's open answers and each let a turn into one conversation.

    Raises:
        DatabaseError: another gateway holds it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseError(f"The folder {folder} cannot be used: {error.strerror}. Set DATA_DIR to another.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DatabaseError(
            f"Another gateway is running on {folder}. Stop it, or give this one a folder of its own: DATA_DIR=…"
        ) from None
    return descriptor


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{path}", pool_size=_READERS + 1, connect_args={"timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's own would come too late
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        is_writer = connection.get_execution_options().get("is_writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _migrate(engine: sa.Engine, path: Path) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with engine.connect().execution_options(is_writer=True) as connection, connection.begin():
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise DatabaseError(
            f"{path} was written by a newer version of the gateway ({error}). Update this checkout, or set DATA_DIR to "
            "another folder."
        ) from None
    except SQLAlchemyError as error:
        cause = error.__cause__ or error
        raise DatabaseError(
            f"{path} cannot be opened: {cause}. Is the folder writable, the disk not full, and the file a database?"
        ) from None
