"""Users, what is known of their tokens, the audit log, and reservations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "users",
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("blocked", sa.Boolean, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
    )
    op.create_table(
        "token_details",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("made_by", sa.String(256), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("seq", big, primary_key=True, autoincrement=True),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("user", sa.String(256), nullable=False, index=True),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(256), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(256), nullable=False),
        sa.Column("devices", sa.Integer, nullable=False),
        sa.Column("from_s", sa.Float, nullable=False),
        sa.Column("until_s", sa.Float, nullable=False),
        sa.Column("kind", sa.String(64), nullable=True),
        sa.Column("node", sa.String(256), nullable=True),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("made_by", sa.String(256), nullable=False),
        sa.Column("begun", sa.Boolean, nullable=False),
        sa.Column("noticed", sa.Boolean, nullable=False),
    )
