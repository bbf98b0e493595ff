"""Which gateways of a shared database live, and what becomes of the turns of those that do not.

Each gateway writes a row every two seconds. Whose row has grown old, by the database's own clock, has died or is cut
off from the database; the turns that it held open are then closed by whoever sees it. After an outage of the database
all rows are old, so one that looks dead is looked at again a while later, and only a gateway that itself reached the
database all the time judges.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from gateway.database import Database
from gateway.errors import GatewayError
from gateway.store import Store
from gateway.tables import gateways, is_open, responses

BEAT_S = 2.0
DEAD_S = 15.0
"""A row that is older than this looks dead."""
SECOND_LOOK_S = 6.0
_GAP_S = 3 * BEAT_S
_FORGET_S = 86_400.0
log = logging.getLogger("gateway.heartbeat")


class Heartbeat:
    """This gateway's sign of life, and its look at the others.

    Args:
        clock: gives seconds; passed in by tests.
    """

    def __init__(self, database: Database, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._suspects: dict[tuple[str, float | None], float] = {}
        self._beat_at = float("-inf")

    async def run(self) -> None:
        """Beats until it is cancelled, and takes back what may have been written late."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._store.settle_doubts()
                await self.beat()
            except GatewayError as error:
                log.warning("heartbeat: %s", error)
            except Exception:  # a bug must not make all others take this gateway for dead
                log.exception("heartbeat")

    async def begin(self) -> None:
        """At start, before the first turn. A SQLite file has one gateway: what is open there was left by a crash."""
        if self._database.is_shared:
            await self.beat()
        else:
            _tell(await self._store.close_open_turns())

    async def beat(self) -> None:
        """Writes this gateway's row and closes the open turns of dead ones. Raises HistoryUnavailable."""
        if not self._database.is_shared:
            return
        looked_at = self._clock()
        if looked_at - self._beat_at > _GAP_S:  # the database was away, or we were: the others too, perhaps
            self._suspects.clear()
        looking_dead = await self._database.write(self._beat)
        self._beat_at = self._clock()
        self._suspects = {seen: self._suspects.get(seen, looked_at) for seen in looking_dead}
        dead = [holder for (holder, _), since in self._suspects.items() if looked_at - since >= SECOND_LOOK_S]
        if dead:
            _tell(await self._store.close_open_turns(dead))
            await self._database.write(lambda db: db.execute(sa.delete(gateways).where(gateways.c.id.in_(dead))))

    async def leave(self) -> None:
        """An orderly end: nobody needs to look at this gateway any more."""
        if self._database.is_shared:
            own = sa.delete(gateways).where(gateways.c.id == self._store.holder)
            await self._database.write(lambda db: db.execute(own))

    def _beat(self, db: sa.Connection) -> list[tuple[str, float | None]]:
        """Other gateways with open turns that look dead, with when they were seen last."""
        now = float(db.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
        own = sa.update(gateways).where(gateways.c.id == self._store.holder)
        if not db.execute(own.values(seen_at=now)).rowcount:
            db.execute(sa.insert(gateways).values(id=self._store.holder, seen_at=now))
        db.execute(sa.delete(gateways).where(gateways.c.seen_at < now - _FORGET_S))
        holders = sa.select(responses.c.holder, gateways.c.seen_at).distinct()
        query = holders.outerjoin_from(responses, gateways, gateways.c.id == responses.c.holder).where(
            is_open,
            responses.c.holder != self._store.holder,
            gateways.c.seen_at.is_(None) | (gateways.c.seen_at < now - DEAD_S),
        )
        return [(row.holder, row.seen_at) for row in db.execute(query)]


def _tell(closed: int) -> None:
    if closed:
        log.warning("%d answers that a crash had left open are closed as incomplete", closed)
