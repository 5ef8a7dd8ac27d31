"""Parts of devices can be held."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Count devices with what comes after the point."""
    with op.batch_alter_table("usage") as batch:
        batch.alter_column("devices", type_=sa.Float(), existing_type=sa.Integer(), existing_nullable=False)
