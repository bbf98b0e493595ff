"""A conversation copied up to one of its items, together with what is known of its answers.

An answer's copy has a response of its own: what it took, how it ended, what its caller thought of it. So it can be
rated by itself, and stays whole when the conversation that it came from is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from gateway.records import as_item, insert_items, new_id
from gateway.tables import is_open, items, responses


def copy_items(db: sa.Connection, source_id: str, last: int, fork_id: str) -> None:
    """Copies the items of one conversation up to the position `last` into another one, which is empty."""
    query = sa.select(items).where(items.c.conversation_id == source_id, items.c.position <= last)
    rows = db.execute(query.order_by(items.c.position)).mappings().all()
    own = _copy_responses(db, rows, source_id, last, fork_id)
    copies = [replace(as_item(row, fresh=True), response_id=own.get(row["response_id"])) for row in rows]
    insert_items(db, copies, conversation_id=fork_id)


def _copy_responses(
    db: sa.Connection, rows: Sequence[sa.RowMapping], source_id: str, last: int, fork_id: str
) -> dict[str, str]:
    """Copies those that have ended and whose output is whole among the items. Returns their new ids by the old ones."""
    beyond = sa.select(items.c.response_id).where(
        items.c.conversation_id == source_id, items.c.position > last, items.c.is_output
    )
    wanted = {row["response_id"] for row in rows if row["is_output"]} - set(db.execute(beyond).scalars())
    query = sa.select(responses).where(responses.c.conversation_id == source_id, ~is_open)
    found = [row for row in db.execute(query).mappings() if row["id"] in wanted]
    own = {row["id"]: new_id("resp") for row in found}
    if found:
        db.execute(sa.insert(responses), [_copy(row, own[row["id"]], fork_id) for row in found])
    return own


def _copy(row: sa.RowMapping, response_id: str, fork_id: str) -> dict[str, object]:
    return {
        "id": response_id,
        "owner": row["owner"],
        "conversation_id": fork_id,
        "previous_id": None,
        "status": row["status"],
        "body": row["body"] | {"id": response_id, "conversation": {"id": fork_id}, "previous_response_id": None},
        "created_at": row["created_at"],
        "feedback": row["feedback"],
        "holder": None,
        "cuts": None if row["cuts"] is None else [],  # its events come again in one piece
    }
