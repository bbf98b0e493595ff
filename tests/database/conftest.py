"""A real PostgreSQL for the tests of the history: one server, a new database for each test or module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.database import Database
from tests.contract.gateway.conftest import _fake, _gateway, _tgi, asking, behind_tgi, client, fake, gateway, tgi
from tests.postgresql_server import PostgresServer, postgres_server
from tests.released_postgresql import write_release

__all__ = ["_fake", "_gateway", "_tgi", "asking", "behind_tgi", "client", "fake", "gateway", "tgi"]


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
    write_release(database_url, request.param)
    database = Database(database_url)
    yield database
    database.close()


# --- the gateways of tests/contract/gateway, with their history on the server


@pytest.fixture(scope="module")
def history(server: PostgresServer) -> dict[str, Any]:
    return {"database_url": server.new_database()}
