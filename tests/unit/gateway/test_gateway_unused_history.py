"""A history that a setting leaves unused is told of at the start, once, and only when there is something in it."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.database import Database
from gateway.main import warn_of_unused_history
from gateway.settings import Places, Settings, UpstreamAddress

pytestmark = pytest.mark.unit


@pytest.fixture
def several(tmp_path: Path) -> Settings:
    """The settings of one of several gateways, in the folder in which one alone was before."""
    Database(tmp_path / Places.DATABASE_NAME).close()
    url = "postgresql://internlm:secret@127.0.0.1:9/internlm"
    return Settings(tmp_path, "m", (UpstreamAddress("llamacpp", "http://127.0.0.1:9"),), database_url=url)


def add_conversation(file: Path) -> None:
    """A row with whatever the columns want."""
    with closing(sqlite3.connect(file)) as database:
        columns = [row for row in database.execute("PRAGMA table_info(conversations)") if row[3] or row[5]]
        names = ", ".join(row[1] for row in columns)
        values = ["x" if "CHAR" in row[2].upper() or "TEXT" in row[2].upper() else 1 for row in columns]
        database.execute(f"INSERT INTO conversations ({names}) VALUES ({', '.join('?' * len(values))})", values)
        database.commit()


def told(settings: Settings, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="gateway"):
        warn_of_unused_history(settings)
    return [record.getMessage() for record in caplog.records]


def test_conversations_that_are_left_behind_are_told_of(several: Settings, caplog: pytest.LogCaptureFixture) -> None:
    file = several.data_dir / Places.DATABASE_NAME
    add_conversation(file)
    (sentence,) = told(several, caplog)
    assert str(file) in sentence
    assert "conversations: 1" in sentence
    assert "not used while DATABASE_URL is set" in sentence
    assert "secret" not in sentence


def test_an_empty_history_or_none_is_nothing_to_tell(several: Settings, caplog: pytest.LogCaptureFixture) -> None:
    assert told(several, caplog) == []
    (several.data_dir / Places.DATABASE_NAME).unlink()
    assert told(several, caplog) == []
    (several.data_dir / Places.DATABASE_NAME).write_text("no database")
    assert told(several, caplog) == []


def test_the_history_that_is_used_is_not_told_of(several: Settings, caplog: pytest.LogCaptureFixture) -> None:
    file = several.data_dir / Places.DATABASE_NAME
    add_conversation(file)
    assert told(dataclasses.replace(several, database_url=None), caplog) == []
    assert told(dataclasses.replace(several, database_url=f"sqlite:///{file}"), caplog) == []
