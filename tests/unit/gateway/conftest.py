"""The database that the tests of the store run on: here SQLite, in tests/database the same on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "x.sqlite3")
    yield database
    database.close()


@pytest.fixture
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database that an earlier release wrote (the parameter is its dump), opened by this one."""
    with closing(sqlite3.connect(tmp_path / "x.sqlite3")) as connection:
        connection.executescript(request.param.read_text())
    database = Database(tmp_path / "x.sqlite3")
    yield database
    database.close()
