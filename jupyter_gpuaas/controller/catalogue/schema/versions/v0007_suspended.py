"""A session that is suspended lives: no second one may have its name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_LIVE = "state IN ('busy', 'idle', 'lost', 'migrating', 'parked', 'queued', 'restoring', 'starting', 'suspended')"


def upgrade() -> None:
    """Make the index again, with what it says of the states."""
    op.drop_index("one_live_session_per_name", "sessions")
    live = sa.text(_LIVE)
    op.create_index(
        "one_live_session_per_name",
        "sessions",
        ["owner", "name"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
