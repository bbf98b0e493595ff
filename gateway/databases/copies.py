"""Copies of a SQLite history: made while a gateway writes on, and checked before one takes the history's place."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic.script import ScriptDirectory

from gateway.databases import DatabaseError, migrations

_WAIT_S = 10
_COUNTED = ("conversations", "responses", "api_keys")


@dataclass(frozen=True)
class Contents:
    """What is in a history: the migration that it ended with, and how much there is."""

    revision: str
    conversations: int
    responses: int
    api_keys: int

    def __str__(self) -> str:
        return f"{self.conversations} conversations, {self.responses} responses, {self.api_keys} API keys"


def copy(path: Path, target: Path) -> Contents:
    """Copies the database to a new file, as it is at one moment; whoever writes to it is not held up.

    Uses SQLite's backup in one step: that is one read transaction, which in WAL mode hinders no writer.

    Raises:
        DatabaseError: there is none, it is damaged, or the copy cannot be written.
    """
    if not path.exists():
        raise DatabaseError(
            f"There is no history at {path}. Is DATA_DIR the gateway's? One in PostgreSQL is saved with pg_dump, see "
            "docs/operations.md."
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S)) as source:
            with closing(sqlite3.connect(target)) as copied:
                source.backup(copied)
    except sqlite3.Error as error:
        raise DatabaseError(
            f"{path} cannot be copied: {error}. Is there as much free space beside the copy as the history has?"
        ) from None
    return contents(target, check="quick_check")


def contents(path: Path, *, check: str = "integrity_check") -> Contents:
    """Reads a whole database and counts. Raises DatabaseError when it is damaged or none of ours."""
    with _opened(path) as database:
        found = [str(row[0]) for row in database.execute(f"PRAGMA {check}(1)")]
        if found != ["ok"]:
            raise DatabaseError(f"The database is damaged: {found[0]}.")
        counted = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED}
        revision = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return Contents(revision=revision[0] if revision else "none", **counted)


def fold_log(path: Path) -> None:
    """Puts all that is in a database's log into the database, so that losing the log loses nothing.

    A damaged database is left as it is.

    Raises:
        DatabaseError: somebody reads it, or the disk does not take it. Nothing was lost.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S)) as database:
            (is_busy, *_) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        why = "another program reads it" if is_busy else ""
    except sqlite3.OperationalError as error:
        why = str(error)
    except sqlite3.DatabaseError:  # no database at all
        return
    if why:
        raise DatabaseError(f"{path} cannot be replaced now: {why}. Nothing was changed.")


def require_known(revision: str) -> None:
    """Raises DatabaseError for a history that a newer version wrote."""
    known = {script.revision for script in ScriptDirectory.from_config(migrations()).walk_revisions()}
    if revision not in known:
        raise DatabaseError(
            f"The history was written by a newer version of the gateway (its form is {revision}, and the newest that "
            f"this version knows is {max(known)}). Update this checkout or image first."
        )


def conversations_in(path: Path) -> int:
    """How many conversations a SQLite file holds; 0 also when there is none, or none of ours that can be read."""
    if not path.is_file():
        return 0
    try:
        with _opened(path) as database:
            return int(database.execute("SELECT count(*) FROM conversations").fetchone()[0])
    except DatabaseError:
        return 0


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S)) as database:
            yield database
    except sqlite3.Error as error:
        raise DatabaseError(f"{path.name} is no history of a gateway, or damaged: {error}.") from None
