"""Controllers that stand by have something to show to the one that acts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column; who takes the lease next fills it."""
    op.add_column("controller_lease", sa.Column("key", sa.String(128), nullable=False, server_default=""))
