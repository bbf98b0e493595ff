"""The database servers that the history can lie in: one module each, with the interface that gateway/database.py uses.

All SQL of the gateway is the same on both. What differs is here: opening, migrating, errors, locks between gateways,
and how one process tells the others that something has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import alembic.command
import alembic.config
import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import HistoryUnavailable


class DatabaseError(Exception):
    """The database cannot be opened or migrated; the message says why and what to do."""


class Backend(Protocol):
    """One database, open and migrated.

    Attributes:
        is_shared: several gateways may use it at once.
        readers: how many reading threads are worth having.
        answer_within_s: nobody waits longer than this for a job, in seconds; None: the database itself gives up.
    """

    is_shared: ClassVar[bool]
    readers: ClassVar[int]
    answer_within_s: ClassVar[float | None]
    engine: sa.Engine

    def writing(self) -> sa.Connection:
        """A connection whose transaction may write."""

    def reading(self) -> sa.Connection:
        """A connection that sees one state of the database until it is closed."""

    def in_words(self, error: SQLAlchemyError) -> HistoryUnavailable:
        """Our error for one of the database's; the details go to the log only."""

    def alone(self, what: str) -> AbstractContextManager[None]:
        """Holds off other gateways that want to do the same at the same time."""

    def stamp(self, name: str) -> Hashable:
        """See gateway.database.Database.stamp."""

    def bump(self, connection: sa.Connection, name: str) -> None:
        """In the transaction that changes what `name` stands for."""

    def bumped(self, names: Iterable[str]) -> None:
        """After its commit."""

    def say(self, connection: sa.Connection, text: str) -> None:
        """See gateway.database.Database.say."""

    def listen(self, act: Callable[[str], None]) -> None:
        """See gateway.database.Database.listen."""

    def erased(self, connection: sa.Connection) -> None:
        """After the commit of a job that deleted something, on its connection."""

    def close(self) -> None:
        """Ends threads and connections."""


def migrate(connection: sa.Connection) -> None:
    """Brings the tables to this version's form, in the transaction of `connection`. Raises alembic's CommandError."""
    config = migrations()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def migrations() -> alembic.config.Config:
    """Where alembic finds them."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def dumps(value: Any) -> str:
    """JSON for a column, as it is read and searched: not escaped to ASCII."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(value)


def loads(text: str | bytes) -> Any:
    """The value again."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def first_line(error: SQLAlchemyError) -> str:
    """What the database said, without the statement and what was in it."""
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
