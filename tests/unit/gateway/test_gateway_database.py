"""The writer with group commit: what is told as written is on disk, and what failed is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.database import Database
from gateway.errors import HistoryUnavailable, NotFound

pytestmark = pytest.mark.unit
Job = Callable[[sa.Connection], Any]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "new folder" / "x.sqlite3")
    database.write_now(lambda db: db.exec_driver_sql("CREATE TABLE t (name TEXT PRIMARY KEY, filler BLOB)"))
    yield database
    database.close()


def insert(name: str, size: int = 0) -> Job:
    return lambda db: db.exec_driver_sql("INSERT INTO t VALUES (?, zeroblob(?))", (name, size)).rowcount


def names(database: Database) -> set[str]:
    return database.read_now(lambda db: {row[0] for row in db.exec_driver_sql("SELECT name FROM t")})


def written_together(database: Database, jobs: list[Job]) -> list[Any]:
    """The outcomes of jobs that share one commit: they are queued while the writer is busy with another."""
    busy, go_on = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        busy.set()
        assert go_on.wait(10)

    async def run() -> list[Any]:
        holding = asyncio.ensure_future(database.write(hold))
        await asyncio.to_thread(busy.wait, 10)
        writes = [asyncio.ensure_future(database.write(job)) for job in jobs]
        await asyncio.sleep(0)  # each has queued its job
        go_on.set()
        await holding
        return await asyncio.gather(*writes, return_exceptions=True)

    return asyncio.run(run())


def test_a_job_that_fails_rolls_back_alone(database: Database) -> None:
    def refuse(db: sa.Connection) -> None:
        insert("refused")(db)
        raise NotFound("It is not there.")

    def broken(db: sa.Connection) -> None:
        insert("broken")(db)
        raise ZeroDivisionError

    outcomes = written_together(database, [insert("a"), refuse, insert("a"), broken, insert("b")])
    assert [type(outcome) for outcome in outcomes] == [int, NotFound, HistoryUnavailable, ZeroDivisionError, int]
    assert names(database) == {"a", "b"}


def test_a_full_disk_is_told_to_everybody_whose_write_it_undid(database: Database) -> None:
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connections = [database.engine.connect() for _ in range(3)]  # the limit belongs to a connection: set it on all
    for connection in connections:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    for connection in connections:
        connection.close()
    outcomes = written_together(database, [insert("before"), insert("large", 1 << 20), insert("after")])
    assert isinstance(outcomes[1], HistoryUnavailable)
    assert "disk is full" in outcomes[1].message
    on_disk = names(database)
    for name, outcome in zip(("before", "large", "after"), outcomes, strict=True):
        assert (name in on_disk) == (not isinstance(outcome, Exception)), name


def test_a_writer_that_is_cancelled_writes_all_the_same(database: Database) -> None:
    async def run() -> None:
        write = asyncio.ensure_future(database.write(insert("a")))
        await asyncio.sleep(0)
        write.cancel()
        await asyncio.wait({write})
        await database.write(insert("b"))

    asyncio.run(run())
    assert names(database) == {"a", "b"}


def test_writes_keep_their_order(database: Database) -> None:
    async def run() -> None:
        update = "UPDATE t SET filler = ? WHERE name = 'a'"
        jobs: list[Job] = [insert("a"), *((lambda db, n=n: db.exec_driver_sql(update, (n,))) for n in range(200))]
        await asyncio.gather(*(database.write(job) for job in jobs))

    asyncio.run(run())
    assert database.read_now(lambda db: db.exec_driver_sql("SELECT filler FROM t").scalar_one()) == 199


def test_it_is_durable_and_keeps_references(database: Database) -> None:
    def read(db: sa.Connection) -> list[Any]:
        return [
            db.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert database.read_now(read) == ["wal", 2, 1]


def test_a_stamp_changes_in_every_process_when_a_bump_is_committed(database: Database, tmp_path: Path) -> None:
    """Not before: who read the old row under the new stamp would keep it."""
    elsewhere = Database(tmp_path / "new folder" / "x.sqlite3")
    before = database.stamp("things"), elsewhere.stamp("things")
    assert before == (elsewhere.stamp("things"), database.stamp("things"))

    def job(db: sa.Connection) -> None:
        insert("a")(db)
        database.bump(db, "things")
        assert elsewhere.stamp("things") == before[1]

    asyncio.run(database.write(job))
    after = database.stamp("things"), elsewhere.stamp("things")
    assert after[0] == after[1] != before[0]
    database.write_now(insert("b"))
    assert (database.stamp("things"), elsewhere.stamp("things")) == after
    elsewhere.write_now(lambda db: elsewhere.bump(db, "things"))
    assert database.stamp("things") == elsewhere.stamp("things") != after[0]
    elsewhere.close()


def test_when_nothing_can_be_told_no_stamp_is_like_another(database: Database, tmp_path: Path) -> None:
    (tmp_path / "new folder" / "x.sqlite3.things").symlink_to(tmp_path / "nowhere" / "x")
    assert database.stamp("things") != database.stamp("things")
