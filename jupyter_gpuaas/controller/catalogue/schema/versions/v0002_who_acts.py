"""Which of several controllers on one database acts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table, with its one row."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    lease = op.create_table(
        "controller_lease",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("term", big, nullable=False),
        sa.Column("beat", big, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("ttl_s", sa.Float, nullable=False),
    )
    op.bulk_insert(lease, [{"id": 1, "term": 0, "beat": 0, "holder": "", "url": "", "ttl_s": 0.0}])
