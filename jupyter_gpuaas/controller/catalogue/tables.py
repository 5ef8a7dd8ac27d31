"""Tables of the service's database."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from jupyter_gpuaas.model import LIVE_STATES

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    # Order of creation is the order in the queue, also after a restart.
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("owner", String(256), nullable=False),
    Column("state", String(32), nullable=False, index=True),
    Column("last_event", Integer, nullable=False),
    # The whole record as JSON; the columns above are those that queries need.
    Column("record", LargeBinary, nullable=False),
)

_live = sessions.c.state.in_(sorted(state.value for state in LIVE_STATES))
# The database itself refuses a second live session of one name.
Index(
    "one_live_session_per_name",
    sessions.c.owner,
    sessions.c.name,
    unique=True,
    sqlite_where=_live,
    postgresql_where=_live,
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("session_id", String(64), nullable=False, index=True),
    # Empty for news that concerns everybody.
    Column("owner", String(256), nullable=False),
    Column("source", String(32), nullable=False),
    Column("target", String(32), nullable=False),
    Column("cause", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("detail", JSON, nullable=False),
    # Numbers are never given twice, also not after the newest events were pruned.
    sqlite_autoincrement=True,
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user", String(256), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_s", Float, nullable=False),
    # 0: does not end.
    Column("expires_s", Float, nullable=False),
)

# Secrets with which owners' checkpoints are sealed. Who has one can make checkpoints that restore as that owner's.
keys = Table(
    "checkpoint_keys",
    metadata,
    Column("owner", String(256), primary_key=True),
    Column("key", String(128), nullable=False),
)
