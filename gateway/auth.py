"""API keys: issue, find, change, rotate, revoke. Only hashes are kept; a secret is shown once.

A secret is `sk-` and 256 random bits, so a plain SHA-256 is enough: there is nothing to guess. Keys that were found are
kept in a dictionary under the database's stamp, so a change holds from the next request on, in every process, whether
HTTP made it or the command line. While the database is away, who was known goes on.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from gateway.database import Database, Job
from gateway.errors import HistoryUnavailable, InvalidRequest, NotAuthenticated, NotFound
from gateway.records import Page, new_id
from gateway.tables import metadata

Result = TypeVar("Result")
SCOPES = ("chat", "admin", "on_behalf_of")
LIMITS = {
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "tpd": "tokens a day",
    "streams": "answers at once",
}
"""The limits that a key may have of its own."""
LONGEST_GRACE_S = 30 * 86400
_LARGEST_LIMIT = 1_000_000_000
_LAST_SECOND = 2**31 - 1  # what a 32-bit column holds: January 2038
_STAMP = "keys"
_CACHE_SIZE = 10_000
_ASK_AGAIN_S = 1.0

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String),
    sa.Column("prefix", sa.String),
    sa.Column("hash", sa.String),
    sa.Column("scopes", sa.String),
    *(sa.Column(name, sa.Integer) for name in LIMITS),
    sa.Column("created_at", sa.Integer),
    sa.Column("expires_at", sa.Integer),
    sa.Column("revoked_at", sa.Integer),
)
former_secrets = sa.Table(
    "former_secrets",
    metadata,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("key_id", sa.String),
    sa.Column("works_until", sa.Integer),
)


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored.

    `prefix` is its visible beginning; times are Unix seconds; a limit of None means the default.
    """

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

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()


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


@dataclass(frozen=True)
class _Found:
    """A key by one of its secrets; `works_until` is the end of a former one."""

    key: ApiKey
    works_until: int | None
    stamp: Hashable


class Keys:
    """The keys in the database. All but `find` block: for the command line, the start, and threads of routes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, _Found] = {}
        self._ask_again_at = float("-inf")

    async def find(self, secret: str) -> ApiKey:
        """Raises NotAuthenticated for a secret that is unknown, replaced, revoked or expired; HistoryUnavailable."""
        digest = _digest(secret)
        stamp = self._database.stamp(_STAMP)
        found = self._cache.get(digest)
        if found is None or (found.stamp != stamp and time.monotonic() >= self._ask_again_at):
            try:
                found = await self._database.read(lambda db: _find(db, digest, stamp))
            except HistoryUnavailable:
                if found is None:
                    raise
                self._ask_again_at = time.monotonic() + _ASK_AGAIN_S  # not every request has to wait for nothing
            else:
                self._keep(digest, found)
        if found is None:
            raise NotAuthenticated("This API key is not known. Check it, or make one: python -m gateway keys create")
        if found.key.revoked_at is not None:
            raise NotAuthenticated("This API key has been revoked.")
        if found.key.has_expired:
            raise NotAuthenticated("This API key has expired.")
        if found.works_until is not None and found.works_until <= time.time():
            raise NotAuthenticated("This API key has been replaced by a new one. Use that.")
        return found.key

    def create(
        self,
        name: str,
        *,
        scopes: frozenset[str] = frozenset({"chat"}),
        rpm: int | None = None,
        tpm: int | None = None,
        tpd: int | None = None,
        streams: int | None = None,
        expires_at: int | None = None,
        secret: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Makes a key; returns it with its secret, which is not kept.

        Raises:
            InvalidRequest: a name, scope, limit or time that cannot be.
        """
        changes = {"name": name, "rpm": rpm, "tpm": tpm, "tpd": tpd, "streams": streams, "expires_at": expires_at}
        _require_valid(changes)
        if not scopes or not scopes <= set(SCOPES):
            raise InvalidRequest(f"Scopes are one or more of: {', '.join(SCOPES)}.", param="scopes")
        secret = secret or _new_secret()
        key = ApiKey(
            id=new_id("key"),
            name=name,
            prefix=secret[:10],
            scopes=scopes,
            rpm=rpm,
            tpm=tpm,
            tpd=tpd,
            streams=streams,
            created_at=int(time.time()),
            expires_at=expires_at,
            revoked_at=None,
        )
        row = asdict(key) | {"scopes": ",".join(sorted(scopes)), "hash": _digest(secret)}
        self._write(lambda db: db.execute(sa.insert(api_keys), [row]))
        return key, secret

    def list(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        return self._database.read_now(lambda db: [_as_key(row) for row in db.execute(query).mappings()])

    def page(self, *, limit: int, after: str | None) -> Page[ApiKey]:
        """The newest first. Raises NotFound for an unknown `after`."""

        def job(db: sa.Connection) -> Page[ApiKey]:
            query = sa.select(api_keys)
            place = sa.tuple_(api_keys.c.created_at, api_keys.c.id)
            if after is not None:
                last = _get(db, after)
                query = query.where(place < sa.tuple_(sa.literal(last.created_at), sa.literal(last.id)))
            query = query.order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(limit + 1)
            found = [_as_key(row) for row in db.execute(query).mappings()]
            return Page(found[:limit], len(found) > limit)

        return self._database.read_now(job)

    def get(self, key_id: str) -> ApiKey:
        """Raises NotFound."""
        return self._database.read_now(lambda db: _get(db, key_id))

    def change(self, key_id: str, changes: Mapping[str, Any]) -> ApiKey:
        """Changes `name`, limits and `expires_at`, those that are given; None takes a limit or an end away.

        Raises:
            NotFound, InvalidRequest
        """
        _require_valid(changes)

        def job(db: sa.Connection) -> ApiKey:
            _require_working(_get(db, key_id))
            if changes:
                db.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(**changes))
            return _get(db, key_id)

        return self._write(job)

    def rotate(self, key_id: str, *, grace_s: int = 0) -> tuple[ApiKey, str]:
        """A new secret for the same key, with its history and limits; the old one works for `grace_s` more.

        Raises:
            NotFound, InvalidRequest
        """
        if not 0 <= grace_s <= LONGEST_GRACE_S:
            raise InvalidRequest(f"The grace is 0 to {LONGEST_GRACE_S} seconds (30 days).", param="grace_s")
        secret = _new_secret()
        until = int(time.time()) + (grace_s + 1 if grace_s else 0)  # no shorter than was asked for

        def job(db: sa.Connection) -> ApiKey:
            _require_working(_get(db, key_id))
            mine = api_keys.c.id == key_id
            earlier = (former_secrets.c.key_id == key_id) & (former_secrets.c.works_until > until)
            db.execute(sa.update(former_secrets).where(earlier).values(works_until=until))
            old = db.execute(sa.select(api_keys.c.hash).where(mine).with_for_update()).scalar_one()
            db.execute(sa.insert(former_secrets).values(hash=old, key_id=key_id, works_until=until))
            db.execute(sa.update(api_keys).where(mine).values(hash=_digest(secret), prefix=secret[:10]))
            return _get(db, key_id)

        return self._write(job), secret

    def revoke(self, key_id: str, *, must_leave_an_admin: bool = False) -> bool:
        """Ends a key for good. Tells whether there was such a key that was not revoked yet.

        Raises:
            InvalidRequest: it is the last working key with the scope `admin`, and one must be left.
        """

        def job(db: sa.Connection) -> bool:
            if must_leave_an_admin:
                _require_other_admin(db, key_id)
            update = sa.update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
            return bool(db.execute(update.values(revoked_at=int(time.time()))).rowcount)

        return self._write(job)

    def ensure_file(self, path: Path, name: str, scopes: frozenset[str]) -> bool:
        """Makes sure that there is a key in `path`; makes key and file (mode 0600) when missing.

        A file whose key was revoked or replaced is left as it is: it must not come back to life.

        Returns:
            Whether the file was made now.
        """
        if path.exists():
            secret = path.read_text().strip()
            if secret:
                self.ensure_secret(secret, name, scopes)  # the database may be new, though the file is not
                return False
        _, secret = self.create(name, scopes=scopes)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
        return True

    def ensure_secret(self, secret: str, name: str, scopes: frozenset[str]) -> None:
        """Makes sure that this secret is a key's; one that was revoked or replaced does not come back to life."""
        if self._database.read_now(lambda db: _find(db, _digest(secret), None)) is None:
            self.create(name, scopes=scopes, secret=secret)

    def _keep(self, digest: str, found: _Found | None) -> None:
        self._cache.pop(digest, None)
        if found is not None:
            if len(self._cache) >= _CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            self._cache[digest] = found

    def _write(self, job: Job[Result]) -> Result:
        """Runs `job`, and tells every process that the keys have changed."""

        def bumping(db: sa.Connection) -> Result:
            result = job(db)
            self._database.bump(db, _STAMP)
            return result

        return self._database.write_now(bumping)


def _require_valid(fields: Mapping[str, Any]) -> None:
    name = fields.get("name", "x")
    if not name or not name.strip() or len(name) > 200 or not name.isprintable():
        raise InvalidRequest("A key needs a name of 1 to 200 printable characters.", param="name")
    for limit, what in LIMITS.items():
        value = fields.get(limit)
        if value is not None and not 1 <= value <= _LARGEST_LIMIT:
            raise InvalidRequest(f"A limit of {what} is at least one and at most {_LARGEST_LIMIT:,}.", param=limit)
    expires_at = fields.get("expires_at")
    if expires_at is not None and not time.time() < expires_at <= _LAST_SECOND:
        raise InvalidRequest("A key expires in the future, and before 2038-01-19.", param="expires_at")


def _require_working(key: ApiKey) -> None:
    if key.revoked_at is not None:
        raise InvalidRequest(f"The key {key.id} has been revoked; make a new one.", param="id")


def _require_other_admin(db: sa.Connection, key_id: str) -> None:
    rows = db.execute(sa.select(api_keys).where(api_keys.c.revoked_at.is_(None))).mappings()
    admins = {key.id for key in map(_as_key, rows) if "admin" in key.scopes and not key.has_expired}
    if admins == {key_id}:
        raise InvalidRequest(
            "This is the last key with the scope 'admin', so nobody could undo it. Make another admin key first, or "
            f"revoke it on the server: python -m gateway keys revoke {key_id}",
            param="id",
        )


def _new_secret() -> str:
    return "sk-" + secrets.token_urlsafe(32)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _find(db: sa.Connection, digest: str, stamp: Hashable) -> _Found | None:
    row = db.execute(sa.select(api_keys).where(api_keys.c.hash == digest)).mappings().one_or_none()
    if row is not None:
        return _Found(_as_key(row), None, stamp)
    query = sa.select(api_keys, former_secrets.c.works_until).join(
        former_secrets, former_secrets.c.key_id == api_keys.c.id
    )
    row = db.execute(query.where(former_secrets.c.hash == digest)).mappings().one_or_none()
    return None if row is None else _Found(_as_key(row), row["works_until"], stamp)


def _get(db: sa.Connection, key_id: str) -> ApiKey:
    row = db.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no key '{key_id[:100]}'.", param="id")
    return _as_key(row)


def _as_key(row: sa.RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=frozenset(row["scopes"].split(",")),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        **{limit: row[limit] for limit in LIMITS},
    )
