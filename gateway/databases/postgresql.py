"""A PostgreSQL server, which several gateways may share.

Nothing waits for it for ever: connecting, statements and locks have limits of a few seconds, and a connection whose
other end is gone is noticed. What one gateway changes is told to the others by NOTIFY (gateway/databases/notices.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import alembic.util
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.databases import DatabaseError, dumps, first_line, loads, migrate
from gateway.databases.notices import CHANNEL, SAID, Notices
from gateway.errors import HistoryUnavailable

log = logging.getLogger("gateway.database")
_LIMITS = "-c statement_timeout=5000 -c lock_timeout=4000 -c idle_in_transaction_session_timeout=15000"
_OPTIONS: dict[str, Any] = {
    "application_name": "internlm-stack gateway",
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_LOG_EVERY_S = 5.0


class PostgreSQL:
    """A database of a server, and its engine.

    Args:
        url: `postgresql://user:password@host:port/name`; what libpq knows may follow as a query.
        wait_s: for so long a server that does not answer is waited for.
        sleep: waits; passed in by tests.

    Raises:
        DatabaseError: it does not answer in time, cannot be used or cannot be migrated.
    """

    is_shared: ClassVar[bool] = True
    readers: ClassVar[int] = 4
    answer_within_s: ClassVar[float | None] = 5.0

    def __init__(self, url: str, *, wait_s: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> None:
        parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        self.where = f"{parsed.host or parsed.query.get('host') or 'the local socket'}, database {parsed.database}"
        options = {name: value for name, value in _OPTIONS.items() if name not in parsed.query}
        options["options"] = f"{_LIMITS} {parsed.query.get('options', '')}".strip()
        self.engine = sa.create_engine(
            parsed,
            pool_size=self.readers + 1,
            pool_timeout=self.answer_within_s,
            pool_pre_ping=True,  # a connection that died while it was idle is not worth a refused request
            connect_args=options,
            hide_parameters=True,
            json_serializer=dumps,
            json_deserializer=loads,
        )
        _, parameters = self.engine.dialect.create_connect_args(parsed)
        self._told, self._told_at = "", 0.0
        self._notices = Notices({**parameters, **options})
        try:
            self._open(wait_s, sleep)
        except BaseException:
            self.engine.dispose()
            raise

    def writing(self) -> sa.Connection:
        return self.engine.connect()

    def reading(self) -> sa.Connection:
        return self.engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def in_words(self, error: SQLAlchemyError) -> HistoryUnavailable:
        cause = first_line(error)
        if cause != self._told or time.monotonic() - self._told_at > _LOG_EVERY_S:
            self._told, self._told_at = cause, time.monotonic()  # while it is away, everybody hears the same
            log.error("database: %s", cause)
        if "No space left" in cause:
            message = (
                "The database's disk is full, so conversations cannot be stored now. Free space on it, then try again."
            )
        elif "read-only" in cause:
            message = "The database takes no writes now, so conversations cannot be stored. Try again later."
        else:
            message = "The conversation store does not answer. Try again in a moment."
        return HistoryUnavailable(message, retry_after_s=5)

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        try:
            with self.engine.connect() as connection, connection.begin():
                _wait_alone(connection, what)
                yield
        except SQLAlchemyError as error:
            raise self.in_words(error) from None

    def stamp(self, name: str) -> Hashable:
        return self._notices.stamp(name)

    def bump(self, connection: sa.Connection, name: str) -> None:
        """The server tells everybody when the transaction is committed, and nobody when it is not."""
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, name)))

    def bumped(self, names: Iterable[str]) -> None:
        for name in names:
            self._notices.count(name)  # here it is known at once

    def say(self, connection: sa.Connection, text: str) -> None:
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, SAID + text)))

    def listen(self, act: Callable[[str], None]) -> None:
        self._notices.listen(act)

    def erased(self, connection: sa.Connection) -> None:
        """Deleted rows are invisible at once; VACUUM, which the server runs by itself, frees their place."""

    def close(self) -> None:
        self._notices.close()
        self.engine.dispose()

    def _open(self, wait_s: float, sleep: Callable[[float], None]) -> None:
        started_at = logged_at = time.monotonic()
        while True:
            try:
                with self.engine.connect() as connection, connection.begin():
                    _wait_alone(connection, "migrations")  # several gateways may start at once
                    migrate(connection)
                return
            except alembic.util.CommandError as error:
                raise DatabaseError(
                    f"The database at {self.where} was written by a newer version of the gateway ({error}). Update "
                    "this checkout, or set DATABASE_URL to another database."
                ) from None
            except SQLAlchemyError as error:
                waited_s, cause = time.monotonic() - started_at, first_line(error)
            if waited_s >= wait_s:
                raise DatabaseError(
                    f"The database at {self.where} cannot be used: {cause}. Is the server running, and do the name "
                    "and password in DATABASE_URL (or DATABASE_PASSWORD_FILE) fit?"
                )
            if logged_at == started_at or time.monotonic() - logged_at >= _LOG_EVERY_S:
                logged_at = time.monotonic()
                log.warning("waiting for the database at %s, up to %.0f s: %s", self.where, wait_s, cause)
            sleep(min(0.5, wait_s))


def _wait_alone(connection: sa.Connection, what: str) -> None:
    """Until the end of the transaction; with time for a migration of large tables elsewhere."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"internlm-stack {what}"))))
