"""The tables of the history as SQLAlchemy knows them; migrations/ makes them, with their indexes and references."""

from __future__ import annotations

import sqlalchemy as sa

OPEN = ("in_progress", "queued")
"""The states in which an answer is still to come."""

metadata = sa.MetaData()
conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String),
    sa.Column("metadata", sa.JSON),
    sa.Column("created_at", sa.Integer),
    sa.Column("updated_at", sa.Float),
)
responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String),
    sa.Column("conversation_id", sa.String),
    sa.Column("previous_id", sa.String),
    sa.Column("status", sa.String),
    sa.Column("body", sa.JSON),
    sa.Column("created_at", sa.Integer),
    sa.Column("feedback", sa.JSON(none_as_null=True)),
    sa.Column("holder", sa.String),  # the gateway that writes this answer now
    sa.Column("cuts", sa.JSON(none_as_null=True)),
)
items = sa.Table(
    "items",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("id", sa.String),
    sa.Column("conversation_id", sa.String),
    sa.Column("response_id", sa.String),
    sa.Column("is_output", sa.Boolean),
    sa.Column("role", sa.String),
    sa.Column("status", sa.String),
    sa.Column("content", sa.JSON),
    sa.Column("tokens", sa.Integer),
    sa.Column("created_at", sa.Integer),
    sa.Column("kind", sa.String),
    sa.Column("data", sa.JSON(none_as_null=True)),
)
gateways = sa.Table(
    "gateways",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("seen_at", sa.Float),
)

is_pinned = sa.func.coalesce(conversations.c.metadata["pinned"].as_string(), "") == "true"
# In the statement itself, not as a parameter: only then do databases use the partial indexes.
is_open = responses.c.status.in_([sa.literal_column(f"'{status}'") for status in OPEN])
