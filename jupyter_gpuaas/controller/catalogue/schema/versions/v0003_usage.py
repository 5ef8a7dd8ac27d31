"""Which devices were held when. Services between two releases may have made it already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table."""
    if sa.inspect(op.get_bind()).has_table("usage"):
        return
    op.create_table(
        "usage",
        sa.Column("lease_id", sa.String(64), primary_key=True),
        sa.Column("session_id", sa.String(64), nullable=False, index=True),
        sa.Column("owner", sa.String(256), nullable=False, index=True),
        sa.Column("devices", sa.Integer, nullable=False),
        sa.Column("from_s", sa.Float, nullable=False),
        sa.Column("until_s", sa.Float, nullable=True, index=True),
    )
