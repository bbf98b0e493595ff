"""A SQLite file: WAL, every commit synced, one gateway at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import alembic.util
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.databases import DatabaseError, dumps, first_line, loads, migrate
from gateway.errors import HistoryUnavailable

_WAIT_S = 10
_ERASE_WAIT_MS = 200
log = logging.getLogger("gateway.database")


class SQLite:
    """A file and its engine.

    Args:
        path: made when missing, with its folder.
        hold: keeps every other gateway from the folder until `close`.

    Raises:
        DatabaseError: it cannot be opened or migrated, or another gateway holds it.
    """

    is_shared: ClassVar[bool] = False
    readers: ClassVar[int] = 2
    answer_within_s: ClassVar[float | None] = None

    def __init__(self, path: Path, *, hold: bool = False) -> None:
        self._path = path
        self._lock = hold_folder(path.parent) if hold else None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # what people wrote is nobody else's; SQLite's other files take this mode over
            self.engine = _engine(path, self.readers + 1)
            _migrate(self.engine, path)
        except OSError as error:
            self._release()
            raise DatabaseError(
                f"{path} cannot be made: {error.strerror}. Make its folder writable, or set DATA_DIR to another one."
            ) from None
        except BaseException:
            self._release()
            raise

    def writing(self) -> sa.Connection:
        return self.engine.connect().execution_options(is_writer=True)

    def reading(self) -> sa.Connection:
        return self.engine.connect()

    def in_words(self, error: SQLAlchemyError) -> HistoryUnavailable:
        cause = first_line(error)
        log.error("database: %s", cause)
        if "full" in cause:
            message = (
                "The server's disk is full, so conversations cannot be stored now. Free space on it, then try again."
            )
        elif "readonly" in cause or "read-only" in cause:
            message = "The server's data folder is read-only, so conversations cannot be stored."
        elif "I/O error" in cause:  # what a file system says that the kernel made read-only after an error of the disk
            message = "The server's disk fails or has become read-only, so conversations cannot be stored now."
        else:
            message = "The conversation store does not answer. Try again in a moment."
        return HistoryUnavailable(message, retry_after_s=5)

    def alone(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()  # who holds the folder is alone

    def stamp(self, name: str) -> Hashable:
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
        """Nothing yet: a reader that saw a new stamp before the commit would keep the old row under that stamp."""

    def bumped(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                _touched(self._stamp_file(name))
            except OSError as error:
                log.error("%s.%s cannot be touched: %s; others see the change late", self._path, name, error.strerror)

    def say(self, connection: sa.Connection, text: str) -> None:
        """Nobody else is there."""

    def listen(self, act: Callable[[str], None]) -> None:
        """Nobody else is there."""

    def erased(self, connection: sa.Connection) -> None:
        """The pages in the file are overwritten with zeros (secure_delete); the log still has their former content.

        So it is emptied here. When somebody reads just now, the next deletion does it.
        """
        driver = connection.connection.driver_connection
        assert driver is not None
        try:
            driver.execute(f"PRAGMA busy_timeout={_ERASE_WAIT_MS}")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            driver.execute(f"PRAGMA busy_timeout={_WAIT_S * 1000}")
        except sqlite3.Error as error:
            log.warning("database: its log could not be emptied: %s", error)

    def close(self) -> None:
        self.engine.dispose()
        self._release()

    def _stamp_file(self, name: str) -> str:
        return f"{self._path}.{name}"

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


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
            f"Another gateway is running on {folder}. Stop it, or give this one a folder of its own: DATA_DIR=…; "
            "several on the same history need PostgreSQL: DATABASE_URL=…"
        ) from None
    return descriptor


def _touched(file: str) -> os.stat_result:
    Path(file).touch(mode=0o600)
    now = time.time_ns()  # finer than what the kernel's own clock would write
    os.utime(file, ns=(now, now))
    return os.stat(file)


def _engine(path: Path, connections: int) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}",
        pool_size=connections,
        connect_args={"timeout": _WAIT_S},
        hide_parameters=True,  # errors are logged, and what people wrote must not be in them
        json_serializer=dumps,
        json_deserializer=loads,
    )

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's own would come too late
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        is_writer = connection.get_execution_options().get("is_writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _migrate(engine: sa.Engine, path: Path) -> None:
    try:
        with engine.connect().execution_options(is_writer=True) as connection, connection.begin():
            migrate(connection)
    except alembic.util.CommandError as error:
        raise DatabaseError(
            f"{path} was written by a newer version of the gateway ({error}). Update this checkout, or set DATA_DIR to "
            "another folder."
        ) from None
    except SQLAlchemyError as error:
        raise DatabaseError(
            f"{path} cannot be opened: {first_line(error)}. Is the folder writable, the disk not full, and the file a "
            "database?"
        ) from None
