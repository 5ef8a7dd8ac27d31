"""Which nodes take no new sessions: what every controller on the database is to know."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the table; what a file of the engine says, the controller of its folder brings in."""
    op.create_table("cordons", sa.Column("node", sa.String(256), primary_key=True))
