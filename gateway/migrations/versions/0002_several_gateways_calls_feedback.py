"""Which gateway holds an open answer; items that are calls; feedback; indexes by owner, by age and of open turns."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_IS_OPEN = sa.text("status IN ('in_progress', 'queued')")
_IS_OPEN_TURN = sa.text("status IN ('in_progress', 'queued') AND conversation_id IS NOT NULL")
_IS_ALONE = sa.text("conversation_id IS NULL")


def upgrade() -> None:
    op.add_column("items", sa.Column("kind", sa.String(40), nullable=False, server_default="message"))
    op.add_column("items", sa.Column("data", sa.JSON))
    op.add_column("responses", sa.Column("feedback", sa.JSON))
    op.add_column("responses", sa.Column("holder", sa.String(64)))
    op.add_column("responses", sa.Column("cuts", sa.JSON))
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
    op.drop_index("responses_open", "responses")
    op.create_index("responses_open", "responses", ["holder"], sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
    op.create_index(  # whatever else goes wrong: one open turn a conversation
        "responses_one_open_turn",
        "responses",
        ["conversation_id"],
        unique=True,
        sqlite_where=_IS_OPEN_TURN,
        postgresql_where=_IS_OPEN_TURN,
    )
    op.create_index("responses_of_owner", "responses", ["owner", "created_at", "id"])
    op.create_index("responses_alone", "responses", ["created_at"], sqlite_where=_IS_ALONE, postgresql_where=_IS_ALONE)
    op.create_index("conversations_by_age", "conversations", ["updated_at"])
    op.create_index("responses_after", "responses", ["previous_id"])


def downgrade() -> None:
    for name, table in (
        ("responses_after", "responses"),
        ("conversations_by_age", "conversations"),
        ("responses_alone", "responses"),
        ("responses_of_owner", "responses"),
        ("responses_one_open_turn", "responses"),
        ("responses_open", "responses"),
    ):
        op.drop_index(name, table)
    is_open = sa.text("status = 'in_progress'")
    op.create_index("responses_open", "responses", ["status"], sqlite_where=is_open)
    op.drop_table("gateways")
    for table, column in (
        ("responses", "cuts"),
        ("responses", "holder"),
        ("responses", "feedback"),
        ("items", "data"),
        ("items", "kind"),
    ):
        op.drop_column(table, column)
