"""The database's threads on PostgreSQL: transactions, what other gateways are told, lost connections, starts."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.database import Database, DatabaseError
from gateway.errors import HistoryUnavailable, NotFound
from tests.postgresql_server import PASSWORD, PostgresServer
from tests.running_gateway import eventually

pytestmark = pytest.mark.database
Job = Callable[[sa.Connection], Any]


@pytest.fixture(autouse=True)
def _table(database: Database) -> None:
    database.write_now(lambda db: db.exec_driver_sql("CREATE TABLE t (name TEXT PRIMARY KEY, n INTEGER DEFAULT 0)"))


def insert(name: str) -> Job:
    return lambda db: db.exec_driver_sql("INSERT INTO t VALUES (%s)", (name,)).rowcount


def names(database: Database) -> set[str]:
    return database.read_now(lambda db: {row[0] for row in db.exec_driver_sql("SELECT name FROM t")})


def test_a_job_that_fails_rolls_back_alone(database: Database) -> None:
    def refuse(db: sa.Connection) -> None:
        insert("refused")(db)
        raise NotFound("It is not there.")

    def broken(db: sa.Connection) -> None:
        insert("broken")(db)
        raise ZeroDivisionError

    async def run() -> list[Any]:
        hold = asyncio.ensure_future(database.write(lambda _: time.sleep(0.2)))
        await asyncio.sleep(0.05)  # what comes now shares the next commit
        jobs = [insert("a"), refuse, insert("a"), broken, insert("b")]
        outcomes = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
        await hold
        return outcomes

    outcomes = asyncio.run(run())
    assert [type(outcome) for outcome in outcomes] == [int, NotFound, HistoryUnavailable, ZeroDivisionError, int]
    assert names(database) == {"a", "b"}


def test_a_read_sees_one_state_and_writes_nothing(database: Database, database_url: str) -> None:
    def look(db: sa.Connection) -> tuple[int, int]:
        count = sa.text("SELECT count(*) FROM t")
        before = db.execute(count).scalar_one()
        database.write_now(insert("between"))
        return before, db.execute(count).scalar_one()

    assert asyncio.run(database.read(look)) == (0, 0)
    with pytest.raises(HistoryUnavailable):
        asyncio.run(database.read(insert("by a reader")))
    assert names(database) == {"between"}


def test_gateways_that_wait_for_each_other_both_get_through(database: Database, database_url: str) -> None:
    """The server ends one of two transactions that block each other; that job is done again."""
    other = Database(database_url)
    for name in "ab":
        database.write_now(insert(name))
    both = threading.Barrier(2, timeout=10)
    tries: list[str] = []

    def job(first: str, second: str) -> Job:
        def run(db: sa.Connection) -> None:
            tries.append(first)
            for name in (first, second):
                db.exec_driver_sql("UPDATE t SET n = n + 1 WHERE name = %s", (name,))
                if name == first and tries.count(first) == 1:
                    both.wait()

        return run

    async def run() -> None:
        await asyncio.gather(database.write(job("a", "b")), other.write(job("b", "a")))

    asyncio.run(run())
    assert len(tries) == 3
    total = sa.text("SELECT sum(n) FROM t")
    assert database.read_now(lambda db: db.execute(total).scalar_one()) == 4
    other.close()


def test_a_statement_that_takes_too_long_is_given_up(database: Database) -> None:
    started_at = time.monotonic()

    async def run() -> None:
        slow = database.read(lambda db: db.exec_driver_sql("SELECT pg_sleep(30)"))
        with pytest.raises(HistoryUnavailable):
            await slow
        assert await database.read(lambda db: db.exec_driver_sql("SELECT 1").scalar_one()) == 1

    asyncio.run(run())
    assert time.monotonic() - started_at < 7


def test_connections_that_were_ended_are_made_anew(database: Database, server: PostgresServer) -> None:
    async def run() -> None:
        for n in range(5):
            await asyncio.gather(*(database.read(lambda db: db.exec_driver_sql("SELECT 1").scalar()) for _ in range(4)))
            assert end_connections(server, database) >= 2
            await database.write(insert(f"{n}"))

    asyncio.run(run())
    assert len(names(database)) == 5


def end_connections(server: PostgresServer, database: Database) -> int:
    ours = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
    with server.connect() as connection:
        row = connection.execute(ours, (database.engine.url.database,)).fetchone()
    assert row is not None
    return int(str(row[0]))


def test_nobody_waits_long_for_a_server_that_stands_still(database: Database, server: PostgresServer) -> None:
    """Who waits on a thread neither; and what nobody waits for any more is not done afterwards."""
    with server.standing_still():
        for limit_s, work in ((6.0, database.write_now), (1.0, database.read_now), (1.0, database.write_now)):
            started_at = time.monotonic()
            with pytest.raises(HistoryUnavailable):
                work(insert("late"))
            assert time.monotonic() - started_at < limit_s
    eventually(lambda: not isinstance(outcome_of(database, insert("x")), HistoryUnavailable), within_s=10)
    assert "x" in names(database)


def outcome_of(database: Database, job: Job) -> object:
    try:
        return database.write_now(job)
    except HistoryUnavailable as error:
        return error


# --- stamps


def listening(database: Database) -> tuple[int, int]:
    """Its stamp, once it hears the others."""
    found = eventually(lambda: isinstance(stamp := database.stamp("things"), tuple) and stamp)
    assert isinstance(found, tuple)
    return found


def test_a_bump_is_told_to_every_gateway_when_it_is_committed(database: Database, database_url: str) -> None:
    other = Database(database_url)
    here, there = listening(database), listening(other)

    def job(db: sa.Connection) -> None:
        database.bump(db, "things")
        time.sleep(0.2)
        assert other.stamp("things") == there

    def undone(db: sa.Connection) -> None:
        database.bump(db, "things")
        raise NotFound("It is not there.")

    with pytest.raises(NotFound):
        asyncio.run(database.write(undone))
    asyncio.run(database.write(insert("x")))
    time.sleep(0.2)
    assert other.stamp("things") == there
    asyncio.run(database.write(job))
    assert database.stamp("things") != here
    eventually(lambda: other.stamp("things") != there, within_s=1)
    assert isinstance(other.stamp("things"), tuple)
    assert other.stamp("others") != other.stamp("things")
    other.close()


def test_while_nothing_can_be_heard_a_stamp_changes_every_second(database: Database, server: PostgresServer) -> None:
    before = listening(database)
    with server.standing_still():
        eventually(lambda: not isinstance(database.stamp("things"), tuple), within_s=6)
        seen = {database.stamp("things")}
        time.sleep(1.1)
        assert database.stamp("things") not in seen
    eventually(lambda: isinstance(database.stamp("things"), tuple))
    end_connections(server, database)
    eventually(lambda: isinstance(stamp := database.stamp("things"), tuple) and stamp[0] > before[0])


# --- starting


def test_many_start_at_once_on_an_empty_database(server: PostgresServer) -> None:
    url = server.new_database()
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: Database(url), range(6)))
    for database in opened:
        assert database.read_now(lambda db: db.execute(sa.text("SELECT count(*) FROM items")).scalar_one()) == 0
        database.close()


def test_what_must_be_done_by_one_is_done_by_one_at_a_time(database: Database, database_url: str) -> None:
    other = Database(database_url)
    inside: list[str] = []

    def enter(which: Database) -> None:
        with which.alone("something"):
            inside.append("in")
            time.sleep(0.2)
            inside.append("out")

    with ThreadPoolExecutor() as pool:
        list(pool.map(enter, (database, other)))
    assert inside == ["in", "out"] * 2
    other.close()


def test_a_database_of_a_newer_version(database: Database, database_url: str) -> None:
    database.write_now(lambda db: db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"newer version.*DATABASE_URL"):
        Database(database_url)


@pytest.mark.parametrize("what", ["no server", "a wrong password", "no such database", "a name that is none"])
def test_a_server_that_cannot_be_used(server: PostgresServer, caplog: pytest.LogCaptureFixture, what: str) -> None:
    url = server.url("nowhere" if what == "no such database" else "postgres")
    if what == "no server":
        url = url.replace(f":{server.port}/", ":9/")
    elif what == "a wrong password":
        url = url.replace("stack:", "stack:not")
    elif what == "a name that is none":
        url = url.replace("127.0.0.1", "no.such.host.invalid")
    started_at = time.monotonic()
    with caplog.at_level(logging.INFO), pytest.raises(DatabaseError) as caught:
        Database(url, wait_s=1.0)
    assert 1 <= time.monotonic() - started_at < 8
    assert "waiting for the database at" in caplog.text
    for text in (str(caught.value), caplog.text):
        assert PASSWORD not in text
        assert "p%40ss" not in text
    assert "DATABASE_URL" in str(caught.value)
