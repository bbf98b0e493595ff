"""What grows old is deleted, a few at a time: conversations by their last activity, responses by their beginning.

Pinned conversations (metadata `pinned` is `true`) stay, and so does what is being written. A response in a conversation
goes with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from gateway.database import Database
from gateway.errors import GatewayError
from gateway.tables import conversations, is_open, is_pinned, responses

EVERY_S = 3600.0
_AT_ONCE = 50
_PAUSE_S = 0.05
_DAY_S = 86_400
log = logging.getLogger("gateway.retention")


class Retention:
    """Deletes what is older than it may become.

    Args:
        conversation_days: since the last activity; 0 keeps them for ever.
        response_days: for responses in no conversation; 0 keeps them for ever.
        clock: gives Unix seconds; passed in by tests.
    """

    def __init__(
        self,
        database: Database,
        *,
        conversation_days: int,
        response_days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._conversation_days = conversation_days
        self._response_days = response_days
        self._clock = clock

    async def run(self) -> None:
        """At start and every hour, until it is cancelled."""
        while True:
            try:
                threads, answers = await self.sweep()
                if threads or answers:
                    log.info("deleted for their age: %d conversations, %d responses", threads, answers)
            except GatewayError as error:
                log.warning("what is old could not be deleted: %s", error)
            except Exception:  # a bug here must not end it for good
                log.exception("retention")
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> tuple[int, int]:
        """Deletes all that is old now. Returns how many conversations and responses. Raises HistoryUnavailable."""
        return (
            await self._delete(conversations, self._old_conversations()) if self._conversation_days else 0,
            await self._delete(responses, self._old_responses()) if self._response_days else 0,
        )

    def _old_conversations(self) -> sa.Select[tuple[str]]:
        written = sa.exists().where(responses.c.conversation_id == conversations.c.id, is_open)
        old = conversations.c.updated_at < self._clock() - self._conversation_days * _DAY_S
        query = sa.select(conversations.c.id).where(old, ~is_pinned, ~written)
        return query.order_by(conversations.c.updated_at)

    def _old_responses(self) -> sa.Select[tuple[str]]:
        old = responses.c.created_at < int(self._clock()) - self._response_days * _DAY_S
        query = sa.select(responses.c.id).where(old, responses.c.conversation_id.is_(None), ~is_open)
        return query.order_by(responses.c.created_at)

    async def _delete(self, table: sa.Table, old: sa.Select[tuple[str]]) -> int:
        some = old.limit(_AT_ONCE).with_for_update(of=table, skip_locked=True)  # another gateway may do the same

        def job(db: sa.Connection) -> int:
            ids = db.execute(some).scalars().all()
            if ids:
                db.execute(sa.delete(table).where(table.c.id.in_(ids)))
                self._database.erase(db)
            return len(ids)

        total = 0
        while deleted := await self._database.write(job):
            total += deleted
            await asyncio.sleep(_PAUSE_S)  # turns go first
        return total
