"""A PostgreSQL database as an earlier release would have left it: its tables, with the rows of its SQLite dump."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa

MIGRATIONS = Path(__file__).resolve().parents[1] / "gateway" / "migrations"


def write_release(url: str, dump_file: Path) -> None:
    """Into the empty database at `postgresql://…`; the dump's name is that of the release's last migration."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with closing(sqlite3.connect(":memory:")) as dump, engine.begin() as connection:
        dump.executescript(dump_file.read_text())
        dump.row_factory = sqlite3.Row
        config = alembic.config.Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, dump_file.stem)
        tables = sa.MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                rows = [_as_in(table, row) for row in dump.execute(f"SELECT * FROM {table.name}")]
                connection.execute(sa.insert(table), rows)
    engine.dispose()


def _as_in(table: sa.Table, row: sqlite3.Row) -> dict[str, Any]:
    """SQLite keeps JSON as text and booleans as numbers."""
    values = dict(row)
    for column in table.columns:
        if isinstance(column.type, sa.JSON) and values[column.name] is not None:
            values[column.name] = json.loads(values[column.name])
        elif isinstance(column.type, sa.Boolean):
            values[column.name] = bool(values[column.name])
    return values
