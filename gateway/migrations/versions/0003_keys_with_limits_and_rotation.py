"""Keys with limits of tokens and of answers at once; the secrets that a key had before."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("tpm", "tpd", "streams"):
        op.add_column("api_keys", sa.Column(name, sa.Integer))
    op.create_table(
        "former_secrets",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
        sa.Column("works_until", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("former_secrets")
    for name in ("streams", "tpd", "tpm"):
        op.drop_column("api_keys", name)
