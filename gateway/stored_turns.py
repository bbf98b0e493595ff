"""The life of a turn in the database: opened with its question, checkpointed, closed with its answer; perhaps reopened.

A turn is two short transactions: `begin_turn` writes the question and an open answer, `finish_turn` closes the answer.
In between, one shared `checkpoint` keeps what has been generated so far, so a crash loses two seconds at most.
An open turn carries the id of the gateway that holds it: nobody else writes it while that gateway lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.database import Database
from gateway.errors import ConversationBusy, HistoryUnavailable, InvalidRequest
from gateway.records import (
    Item,
    StoredResponse,
    as_id,
    as_item,
    as_response,
    busy,
    find_conversation,
    find_response,
    insert_items,
    new_id,
    no_conversation,
    require_no_open_turn,
    storable,
)
from gateway.tables import OPEN, conversations, is_open, items, responses

HISTORY_ITEMS = 500
"""At most so many items of a conversation are read for a prompt."""
_DOUBT_ROUNDS = 30
_CAME_BETWEEN = "Another message came into this conversation while this one waited. Send it again."

# What every turn does is put together once: building a statement costs more than SQLite takes to run it.
_thread: sa.BindParameter[str] = sa.bindparam("thread")
_response: sa.BindParameter[str] = sa.bindparam("response")
_IS_BUSY = sa.select(sa.exists().where(responses.c.conversation_id == conversations.c.id, is_open)).where(
    conversations.c.id == _thread, conversations.c.owner == sa.bindparam("of")
)
_HISTORY = (
    sa.select(items).where(items.c.conversation_id == _thread).order_by(items.c.position.desc()).limit(HISTORY_ITEMS)
)
_LAST_ITEM = sa.select(items.c.id).where(items.c.conversation_id == _thread).order_by(items.c.position.desc()).limit(1)
_TOUCH = sa.update(conversations).where(conversations.c.id == _thread).values(updated_at=sa.bindparam("now"))
_TOUCH_OWN = _TOUCH.where(conversations.c.owner == sa.bindparam("of"))
_OPEN = sa.insert(responses)
_CLOSE = (
    sa.update(responses)
    .where(responses.c.id == _response, responses.c.holder.is_(None) | (responses.c.holder == sa.bindparam("by")))
    .values(status=sa.bindparam("ended"), body=sa.bindparam("final"), holder=None)
)
_CLOSE_WITH_CUTS = _CLOSE.values(cuts=sa.bindparam("ends"))
_PUT = (
    sa.update(items)
    .where(items.c.id == sa.bindparam("item"), items.c.response_id == _response)
    .values(
        status=sa.bindparam("ended"),
        content=sa.bindparam("whole"),
        tokens=sa.bindparam("count"),
        data=sa.bindparam("fields"),
    )
)
_KEEP = (
    sa.update(items)
    .where(items.c.id == sa.bindparam("item"), items.c.status == "in_progress")
    .values(content=sa.bindparam("so_far"))
)
_KEEP_CUTS = (
    sa.update(responses)
    .where(responses.c.id == _response, responses.c.holder == sa.bindparam("by"))
    .values(cuts=sa.bindparam("so_far"))
)


class StoredTurns:
    """Turns of all owners. Every method may raise HistoryUnavailable.

    Args:
        holder: the id of this gateway, in the turns that it holds open.
    """

    def __init__(self, database: Database, holder: str | None = None) -> None:
        self._database = database
        self.holder = holder or new_id("gw")
        self._doubtful: dict[str, int] = {}

    async def history(self, owner: str, conversation_id: str | None, previous_id: str | None) -> list[Item]:
        """The items before a new turn, oldest first: of a conversation, or of a chain of responses.

        Raises NotFound, ConversationBusy when a turn is open there.
        """

        def job(db: sa.Connection) -> list[Item]:
            if conversation_id is not None:
                is_busy = db.execute(_IS_BUSY, {"thread": as_id(conversation_id), "of": owner}).scalar()
                if is_busy is None:
                    raise no_conversation(conversation_id)
                if is_busy:
                    raise busy()
                rows = db.execute(_HISTORY, {"thread": conversation_id}).mappings()
            elif previous_id is not None:
                query = _chain_items(db, owner, previous_id)
                rows = db.execute(query.order_by(items.c.position.desc()).limit(HISTORY_ITEMS)).mappings()
            else:
                return []
            return [as_item(row) for row in rows][::-1]

        return await self._database.read(job)

    async def begin_turn(
        self,
        owner: str,
        body: dict[str, Any],
        *,
        conversation_id: str | None,
        previous_id: str | None,
        last_item_id: str | None,
        question: Sequence[Item],
        answer: Item,
    ) -> None:
        """Writes the question and an answer that is open: `body["status"]` is `in_progress` or `queued`.

        `last_item_id` ends the history that the prompt was made of: a turn that came in between, while this one waited
        for its place, would be missing in the prompt. Raises NotFound, and ConversationBusy for that or an open turn.
        """

        def job(db: sa.Connection) -> None:
            if conversation_id is not None:
                touched = {"thread": as_id(conversation_id), "of": owner, "now": time.time()}
                if not db.execute(_TOUCH_OWN, touched).rowcount:  # it also locks the row
                    raise no_conversation(conversation_id)
                if db.execute(_LAST_ITEM, {"thread": conversation_id}).scalar() != last_item_id:
                    raise ConversationBusy(_CAME_BETWEEN, retry_after_s=1)
            row = {
                "id": body["id"],
                "owner": owner,
                "conversation_id": conversation_id,
                "previous_id": previous_id,
                "status": body["status"],
                "body": body,
                "created_at": body["created_at"],
                "holder": self.holder,
            }
            try:
                db.execute(_OPEN, row)
            except IntegrityError:  # an answer that goes on adds no item; responses_one_open_turn tells
                raise busy() from None
            insert_items(db, [*question, answer], conversation_id=conversation_id, response_id=body["id"])

        try:
            await self._database.write(job)
        except HistoryUnavailable:
            self._doubtful[body["id"]] = _DOUBT_ROUNDS
            raise

    async def start_turn(self, body: dict[str, Any]) -> bool:
        """A queued turn gets its place: `body` replaces the stored one. Returns whether it still was queued."""
        of_it = (responses.c.id == body["id"]) & (responses.c.status == "queued")
        update = sa.update(responses).where(of_it).values(status=body["status"], body=body)
        return bool(await self._database.write(lambda db: db.execute(update).rowcount))

    async def finish_turn(
        self, body: dict[str, Any], answers: Sequence[Item], *, cuts: Sequence[int] | None = None
    ) -> None:
        """Closes an open turn with its final response object and all items of its output.

        Items that are there are updated, others are added, and one that was opened and is not in `answers` goes.
        Does nothing to a turn that was taken back, or that another gateway has reopened.
        """

        def job(db: sa.Connection) -> None:
            conversation = body.get("conversation")
            if conversation is not None:
                db.execute(_TOUCH, {"thread": conversation["id"], "now": time.time()})
            closed = {"response": body["id"], "by": self.holder, "ended": body["status"], "final": body}
            ended = _CLOSE if cuts is None else _CLOSE_WITH_CUTS
            if cuts is not None:
                closed["ends"] = list(cuts)
            if db.execute(ended, closed).rowcount:
                _put_output(db, body, answers)

        await self._database.write(job)

    async def abandon_turn(self, response_id: str) -> None:
        """Takes a turn back that failed before its caller was told anything of it."""
        of_it = (responses.c.id == response_id) & (responses.c.holder == self.holder)
        await self._database.write(lambda db: db.execute(sa.delete(responses).where(of_it)))

    async def checkpoint(self, answers: Iterable[Item], cuts: Mapping[str, Sequence[int]] | None = None) -> None:
        """Keeps what open answers have so far, in one transaction; `cuts` go by the response's id."""
        values = [{"item": answer.id, "so_far": storable(answer.content)} for answer in answers]
        all_cuts = [
            {"response": response_id, "by": self.holder, "so_far": list(ends)}
            for response_id, ends in (cuts or {}).items()
        ]

        def job(db: sa.Connection) -> None:
            if values:
                db.execute(_KEEP, values)
            if all_cuts:
                db.execute(_KEEP_CUTS, all_cuts)

        await self._database.write(job)

    async def reopen_turn(
        self,
        owner: str,
        response_id: str,
        *,
        body: dict[str, Any] | None = None,
        cuts: Sequence[int] | None = None,
    ) -> StoredResponse:
        """Opens an answer again that ended `incomplete` or `cancelled`, so that it can go on; returns it as it is then.

        `body` replaces the stored one, and `cuts` say where its pieces end now. Raises NotFound, InvalidRequest when it
        was not cut, and ConversationBusy when something came after it, or a turn is open where it belongs.
        """

        def job(db: sa.Connection) -> StoredResponse:
            found = find_response(db, owner, response_id)
            if found["conversation_id"] is not None:  # locks are taken in one order: conversation, then response
                find_conversation(db, owner, found["conversation_id"], lock=True)
                require_no_open_turn(db, found["conversation_id"])
            row = find_response(db, owner, response_id, lock=True)
            if row["status"] in OPEN:
                raise busy()
            if row["status"] not in ("incomplete", "cancelled"):
                raise InvalidRequest(
                    f"Only an answer that was cut can go on; this one is {row['status']}.", param="response_id"
                )
            _require_nothing_after(db, row)
            update = sa.update(responses).where(responses.c.id == response_id)
            opened = body or row["body"] | {"status": "in_progress", "incomplete_details": None}
            ends = None if cuts is None else list(cuts)
            db.execute(update.values(status=opened["status"], body=opened, holder=self.holder, cuts=ends))
            db.execute(
                sa.update(items)
                .where(items.c.response_id == response_id, items.c.is_output, items.c.kind == "message")
                .where(items.c.status == "incomplete")
                .values(status="in_progress")
            )
            return as_response(db, find_response(db, owner, response_id))

        return await self._database.write(job)

    async def close_open_turns(self, holders: Sequence[str] | None = None) -> int:
        """Closes turns that crashes left open, as `incomplete`: those of `holders`, or all. Returns how many."""
        query = sa.select(responses).where(is_open)
        if holders is not None:
            query = query.where(responses.c.holder.in_(holders))

        def job(db: sa.Connection) -> int:
            locked = query.with_for_update(key_share=True, skip_locked=True)  # another gateway may do the same
            open_turns = db.execute(locked).mappings().all()
            for row in open_turns:
                body = row["body"] | {"status": "incomplete", "incomplete_details": {"reason": "interrupted"}}
                update = sa.update(responses).where(responses.c.id == row["id"])
                db.execute(update.values(status="incomplete", body=body, holder=None))
                output = sa.update(items).where(items.c.response_id == row["id"], items.c.status == "in_progress")
                db.execute(output.values(status="incomplete"))
            return len(open_turns)

        return await self._database.write(job)

    async def settle_doubts(self) -> None:
        """Takes back turns whose beginning may have been written although its caller was told that it was not.

        A database that stood still commits when it goes on, whether or not anybody still waits. So this is repeated.
        """
        doubtful = list(self._doubtful)
        if not doubtful:
            return
        late = sa.delete(responses).where(responses.c.id.in_(doubtful), responses.c.holder == self.holder)
        await self._database.write(lambda db: db.execute(late))
        for response_id in doubtful:
            self._doubtful[response_id] -= 1
            if not self._doubtful[response_id]:
                del self._doubtful[response_id]


def _put_output(db: sa.Connection, body: dict[str, Any], answers: Sequence[Item]) -> None:
    new = []
    for answer in answers:
        values = {
            "item": answer.id,
            "response": body["id"],
            "ended": answer.status,
            "whole": storable(answer.content),
            "count": answer.tokens,
            "fields": answer.data,
        }
        if not db.execute(_PUT, values).rowcount:
            new.append(answer)
    conversation = body.get("conversation")
    insert_items(db, new, conversation_id=conversation["id"] if conversation else None, response_id=body["id"])
    if new or not answers:
        left_open = (items.c.response_id == body["id"]) & items.c.is_output & (items.c.status == "in_progress")
        ended = [answer.id for answer in answers]
        db.execute(sa.delete(items).where(left_open, items.c.id.not_in(ended)))


def _chain_items(db: sa.Connection, owner: str, previous_id: str) -> sa.Select[Any]:
    """The items of a response, of the one before it, and so on. In a conversation its whole thread so far counts."""
    row = find_response(db, owner, previous_id, param="previous_response_id")
    if row["status"] in OPEN:
        raise ConversationBusy("That response is still being written. Wait for it, or stop it.", retry_after_s=1)
    links = sa.select(responses.c.id, responses.c.previous_id, responses.c.conversation_id)
    chain = links.where(responses.c.id == previous_id).cte(recursive=True)
    chain = chain.union(links.where(responses.c.id == chain.c.previous_id, responses.c.owner == owner))
    last, earlier = items.alias(), items.alias()
    of_chain = sa.select(last.c.position).join(chain, last.c.response_id == chain.c.id)
    before_it = sa.select(earlier.c.position).where(  # a chain may begin at a response of a conversation
        earlier.c.conversation_id == chain.c.conversation_id,
        last.c.response_id == chain.c.id,
        earlier.c.position <= last.c.position,
    )
    return sa.select(items).where(items.c.position.in_(of_chain.union(before_it)))


def _require_nothing_after(db: sa.Connection, row: sa.RowMapping) -> None:
    own = sa.select(sa.func.max(items.c.position)).where(items.c.response_id == row["id"])
    later = sa.select(items.c.id).where(
        items.c.conversation_id == row["conversation_id"], items.c.position > own.scalar_subquery()
    )
    answers_to_it = sa.select(responses.c.id).where(responses.c.previous_id == row["id"])
    if db.execute(later.limit(1)).first() or db.execute(answers_to_it.limit(1)).first():
        raise ConversationBusy("Something came after this answer, so it cannot go on any more.")
