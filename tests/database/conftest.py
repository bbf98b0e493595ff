"""A real PostgreSQL for the tests of the history: one server, a new database for each test or module."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa

from gateway.database import Database
from tests.contract.gateway.conftest import _fake, _gateway, _tgi, asking, behind_tgi, client, fake, gateway, tgi
from tests.postgresql_server import PostgresServer, postgres_server

__all__ = ["_fake", "_gateway", "_tgi", "asking", "behind_tgi", "client", "fake", "gateway", "tgi"]
MIGRATIONS = Path(__file__).resolve().parents[2] / "gateway" / "migrations"


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def database_url(server: PostgresServer) -> str:
    """Of an empty database."""
    return server.new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Stands in for tests/unit/gateway's, which is SQLite."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def migrated(request: pytest.FixtureRequest, database_url: str) -> Iterator[Database]:
    """A database as an earlier release would have left it (its tables, the dump's rows), opened by this one."""
    engine = sa.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    with closing(sqlite3.connect(":memory:")) as dump, engine.begin() as connection:
        dump.executescript(request.param.read_text())
        dump.row_factory = sqlite3.Row
        config = alembic.config.Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, request.param.stem)
        tables = sa.MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                rows = [_as_in(table, row) for row in dump.execute(f"SELECT * FROM {table.name}")]
                connection.execute(sa.insert(table), rows)
    engine.dispose()
    database = Database(database_url)
    yield database
    database.close()


def _as_in(table: sa.Table, row: sqlite3.Row) -> dict[str, Any]:
    """SQLite keeps JSON as text and booleans as numbers."""
    values = dict(row)
    for column in table.columns:
        if isinstance(column.type, sa.JSON) and values[column.name] is not None:
            values[column.name] = json.loads(values[column.name])
        elif isinstance(column.type, sa.Boolean):
            values[column.name] = bool(values[column.name])
    return values


# --- the gateways of tests/contract/gateway, with their history on the server


@pytest.fixture(scope="module")
def history(server: PostgresServer) -> dict[str, Any]:
    return {"database_url": server.new_database()}
