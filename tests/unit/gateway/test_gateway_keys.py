"""Keys: what is kept in memory, when it is looked up again, and what holds while the database is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.auth import Keys, api_keys, former_secrets
from gateway.database import Database
from gateway.errors import HistoryUnavailable, InvalidRequest, NotAuthenticated

pytestmark = pytest.mark.unit


class Watched:
    """A database that counts its reads, and can be away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = 0
        self.is_away = False

    def stamp(self, name: str) -> Hashable:
        return time.monotonic_ns() if self.is_away else self._database.stamp(name)

    async def read(self, job: Any) -> Any:
        self.reads += 1
        if self.is_away:
            raise HistoryUnavailable("away")
        return await self._database.read(job)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "keys.sqlite3")
    yield database
    database.close()


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


@pytest.fixture
def watched(database: Database) -> Watched:
    return Watched(database)


def test_a_key_is_read_once_until_some_key_changes(keys: Keys, watched: Watched) -> None:
    reader = Keys(watched)  # type: ignore[arg-type]

    async def go() -> None:
        key, secret = keys.create("a")
        for _ in range(50):
            assert await reader.find(secret) == key
        assert watched.reads == 1
        keys.change(key.id, {"rpm": 5})
        assert (await reader.find(secret)).rpm == 5
        assert watched.reads == 2
        keys.create("another")
        await reader.find(secret)
        assert watched.reads == 3

    asyncio.run(go())


def test_who_was_known_goes_on_while_the_database_is_away_and_waits_once_a_second(keys: Keys, watched: Watched) -> None:
    reader = Keys(watched)  # type: ignore[arg-type]

    async def go() -> None:
        key, secret = keys.create("known")
        _, unknown = keys.create("not seen yet")
        await reader.find(secret)
        watched.is_away = True
        for _ in range(50):
            assert await reader.find(secret) == key
        assert watched.reads == 2
        with pytest.raises(HistoryUnavailable):  # and not NotAuthenticated
            await reader.find(unknown)
        watched.is_away = False
        keys.revoke(key.id)
        reader._ask_again_at = time.monotonic()
        with pytest.raises(NotAuthenticated, match="revoked"):
            await reader.find(secret)

    asyncio.run(go())


def test_an_end_comes_without_a_look_up(keys: Keys, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Keys(watched)  # type: ignore[arg-type]
    now = time.time()

    async def go() -> None:
        _, expiring = keys.create("a", expires_at=int(now) + 100)
        rotated, old = keys.create("b")
        keys.rotate(rotated.id, grace_s=100)
        for secret in (expiring, old):
            await reader.find(secret)
        monkeypatch.setattr("gateway.auth.time.time", lambda: now + 101)
        for secret, said in ((expiring, "expired"), (old, "replaced")):
            with pytest.raises(NotAuthenticated, match=said):
                await reader.find(secret)

    asyncio.run(go())
    assert watched.reads == 2


def test_the_cache_is_bounded_and_forgets_the_oldest(
    keys: Keys, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.auth._CACHE_SIZE", 3)
    reader = Keys(watched)  # type: ignore[arg-type]

    async def go() -> None:
        secrets = [keys.create(str(n))[1] for n in range(5)]
        for secret in secrets:
            await reader.find(secret)
        assert len(reader._cache) == 3
        for secret in secrets[2:]:
            await reader.find(secret)
        assert watched.reads == 5
        with pytest.raises(NotAuthenticated):
            await reader.find("sk-unknown")
        assert len(reader._cache) == 3

    asyncio.run(go())


def test_only_hashes_are_stored(keys: Keys, database: Database) -> None:
    key, first = keys.create("a")
    _, second = keys.rotate(key.id, grace_s=60)
    stored = database.read_now(
        lambda db: str([*db.execute(sa.select(api_keys)), *db.execute(sa.select(former_secrets))])
    )
    assert second[:10] in stored
    assert first not in stored
    assert second not in stored


@pytest.mark.parametrize("fields", [{"scopes": frozenset()}, {"scopes": frozenset({"root"})}, {"streams": 0}])
def test_what_cannot_be(keys: Keys, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        keys.create("x", **fields)
    assert keys.list() == []
