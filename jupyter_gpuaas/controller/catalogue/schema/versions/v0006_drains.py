"""Which nodes are emptied, and by when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "drains",
        sa.Column("node", sa.String(256), primary_key=True),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
