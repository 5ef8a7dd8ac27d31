"""The schema from before there were versions: sessions, events, tokens, keys of checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LIVE = "state IN ('busy', 'idle', 'lost', 'migrating', 'parked', 'queued', 'restoring', 'starting')"


def upgrade() -> None:
    """Make what is missing: services of that time made new tables as they met them."""
    there = set(sa.inspect(op.get_bind()).get_table_names())
    if "sessions" not in there:
        op.create_table(
            "sessions",
            sa.Column("number", _BIG, primary_key=True, autoincrement=True),
            sa.Column("id", sa.String(64), nullable=False, unique=True),
            sa.Column("name", sa.Text, nullable=False),
            sa.Column("owner", sa.String(256), nullable=False),
            sa.Column("state", sa.String(32), nullable=False, index=True),
            sa.Column("last_event", _BIG, nullable=False),
            sa.Column("record", sa.LargeBinary, nullable=False),
        )
        live = sa.text(_LIVE)
        op.create_index(
            "one_live_session_per_name",
            "sessions",
            ["owner", "name"],
            unique=True,
            sqlite_where=live,
            postgresql_where=live,
        )
    if "events" not in there:
        op.create_table(
            "events",
            sa.Column("seq", _BIG, primary_key=True, autoincrement=True),
            sa.Column("time_s", sa.Float, nullable=False),
            sa.Column("kind", sa.String(32), nullable=False),
            sa.Column("session_id", sa.String(64), nullable=False, index=True),
            sa.Column("owner", sa.String(256), nullable=False),
            sa.Column("source", sa.String(32), nullable=False),
            sa.Column("target", sa.String(32), nullable=False),
            sa.Column("cause", sa.Text, nullable=False),
            sa.Column("epoch", _BIG, nullable=False),
            sa.Column("detail", sa.JSON, nullable=False),
            sqlite_autoincrement=True,
        )
    if "tokens" not in there:
        op.create_table(
            "tokens",
            sa.Column("digest", sa.String(64), primary_key=True),
            sa.Column("user", sa.String(256), nullable=False),
            sa.Column("role", sa.String(16), nullable=False),
            sa.Column("created_s", sa.Float, nullable=False),
            sa.Column("expires_s", sa.Float, nullable=False),
        )
    if "checkpoint_keys" not in there:
        op.create_table(
            "checkpoint_keys",
            sa.Column("owner", sa.String(256), primary_key=True),
            sa.Column("key", sa.String(128), nullable=False),
        )
