"""API keys: issue, find, revoke. Only hashes are kept; a key is shown once.

A key is `sk-` and 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from gateway.database import Database
from gateway.errors import HistoryUnavailable, InvalidRequest, NotAuthenticated
from gateway.records import new_id
from gateway.tables import metadata

SCOPES = ("chat", "admin", "on_behalf_of")
CACHE_S = 1.0
"""For so long a key that was found is not looked up again: a revoked key stops working within a second."""
_CACHE_SIZE = 10_000

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String),
    sa.Column("prefix", sa.String),
    sa.Column("hash", sa.String),
    sa.Column("scopes", sa.String),
    sa.Column("rpm", sa.Integer),
    sa.Column("created_at", sa.Integer),
    sa.Column("expires_at", sa.Integer),
    sa.Column("revoked_at", sa.Integer),
)


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored. `prefix` is its visible beginning; times are Unix seconds."""

    id: str
    name: str
    prefix: str
    scopes: frozenset[str]
    rpm: int | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    tpm: int | None = None
    tpd: int | None = None
    streams: int | None = None


@dataclass(frozen=True)
class Caller:
    """Who is asking: a key, or the end user that a key with the scope `on_behalf_of` names.

    Attributes:
        owner: whose history this is, and whose limits; distinct for every key and end user.
        address: the client address that such a key told, an IPv4 address or an IPv6 network of 64 bits.
    """

    key: ApiKey
    end_user: str | None = None
    address: str | None = None

    @property
    def owner(self) -> str:
        return self.key.id if self.end_user is None else f"{self.key.id}/{self.end_user}"


class Keys:
    """The keys in the database, with a short-lived dictionary in front; `clock` gives seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._cache: dict[str, tuple[float, ApiKey]] = {}

    async def find(self, secret: str) -> ApiKey:
        """Raises NotAuthenticated for a key that is unknown, revoked or expired; HistoryUnavailable."""
        digest = _digest(secret)
        cached = self._cache.get(digest)
        if cached is None or self._clock() - cached[0] > CACHE_S:
            try:
                key = await self._database.read(lambda db: _find(db, digest))
            except HistoryUnavailable:
                if cached is None:
                    raise
                key = cached[1]  # with the database away, who was known goes on
            if key is None:
                self._cache.pop(digest, None)
                raise NotAuthenticated(
                    "This API key is not known. Check it, or make one: python -m gateway keys create"
                )
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            cached = self._cache[digest] = (self._clock(), key)
        key = cached[1]
        if key.revoked_at is not None:
            raise NotAuthenticated("This API key has been revoked.")
        if key.expires_at is not None and key.expires_at <= time.time():
            raise NotAuthenticated("This API key has expired.")
        return key

    def create(
        self,
        name: str,
        *,
        scopes: frozenset[str] = frozenset({"chat"}),
        rpm: int | None = None,
        secret: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Makes a key; returns it with its secret, which is not kept. Blocks.

        Raises:
            InvalidRequest: a name, scope or limit that cannot be.
        """
        _require_valid(name, scopes, rpm)
        secret = secret or "sk-" + secrets.token_urlsafe(32)
        key = ApiKey(new_id("key"), name, secret[:10], scopes, rpm, int(time.time()), None, None)
        row = {
            "id": key.id,
            "name": name,
            "prefix": key.prefix,
            "hash": _digest(secret),
            "scopes": ",".join(sorted(scopes)),
            "rpm": rpm,
            "created_at": key.created_at,
        }
        self._database.write_now(lambda db: db.execute(sa.insert(api_keys), [row]))
        return key, secret

    def list(self) -> list[ApiKey]:
        """All keys, the oldest first. Blocks."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at)
        return self._database.read_now(lambda db: [_as_key(row) for row in db.execute(query).mappings()])

    def revoke(self, key_id: str) -> bool:
        """Whether there was such a key that worked. Blocks."""
        update = sa.update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        result = self._database.write_now(lambda db: db.execute(update.values(revoked_at=int(time.time()))).rowcount)
        return bool(result)

    def ensure_file(self, path: Path, name: str, scopes: frozenset[str]) -> bool:
        """Makes sure that the key in `path` works; makes key and file (mode 0600) when missing. Blocks.

        Returns:
            Whether the file was made now.
        """
        if path.exists():
            secret = path.read_text().strip()
            if secret and self._database.read_now(lambda db: _find(db, _digest(secret))) is None:
                self.create(name, scopes=scopes, secret=secret)  # the database is new, the file is not
            if secret:
                return False
        _, secret = self.create(name, scopes=scopes)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
        return True


def _require_valid(name: str, scopes: frozenset[str], rpm: int | None) -> None:
    if not name.strip() or len(name) > 200:
        raise InvalidRequest("A key needs a name of 1 to 200 characters.", param="name")
    if not scopes or not scopes <= set(SCOPES):
        raise InvalidRequest(f"Scopes are one or more of: {', '.join(SCOPES)}.", param="scopes")
    if rpm is not None and rpm < 1:
        raise InvalidRequest("The limit must be at least one request a minute.", param="rpm")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _find(db: sa.Connection, digest: str) -> ApiKey | None:
    row = db.execute(sa.select(api_keys).where(api_keys.c.hash == digest)).mappings().one_or_none()
    return None if row is None else _as_key(row)


def _as_key(row: sa.RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=frozenset(row["scopes"].split(",")),
        rpm=row["rpm"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
