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
import httpx2
import pytest
import sqlalchemy as sa

from gateway.database import Database
from tests.fakes.inference import FakeInference, fake_inference
from tests.postgresql_server import PostgresServer, postgres_server
from tests.running_gateway import RunningGateway, eventually, run_gateway

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


# --- the same gateway as in tests/contract/gateway, with its history on the server


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture(scope="module")
def _gateway(
    server: PostgresServer, _fake: FakeInference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with run_gateway(folder, _fake, slots=8, database_url=server.new_database()) as running:
        yield running
        assert not list(folder.glob("*.sqlite3*"))  # nothing went past the server


@pytest.fixture
def fake(_fake: FakeInference) -> Iterator[FakeInference]:
    _fake.reset()
    yield _fake
    _fake.reset()


@pytest.fixture
def gateway(_gateway: RunningGateway, fake: FakeInference) -> Iterator[RunningGateway]:
    yield _gateway
    fake.release()
    eventually(_gateway.is_idle)


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client
