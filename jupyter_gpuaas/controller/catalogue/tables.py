"""Tables of the service's database. A change of them needs a step in ``schema/versions``; a test compares both."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
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

#: Numbers that go on rising for years. SQLite's only integer has 64 bits, and only under this name does it count.
BIG = BigInteger().with_variant(Integer(), "sqlite")

sessions = Table(
    "sessions",
    metadata,
    # Order of creation is the order in the queue, also after a restart.
    Column("number", BIG, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("owner", String(256), nullable=False),
    Column("state", String(32), nullable=False, index=True),
    Column("last_event", BIG, nullable=False),
    # The whole record as JSON; the columns above are those that queries need.
    Column("record", LargeBinary, nullable=False),
)

# As the newest step makes it: another state needs another step.
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
    Column("seq", BIG, primary_key=True, autoincrement=True),
    Column("time_s", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("session_id", String(64), nullable=False, index=True),
    # Empty for news that concerns everybody.
    Column("owner", String(256), nullable=False),
    Column("source", String(32), nullable=False),
    Column("target", String(32), nullable=False),
    Column("cause", Text, nullable=False),
    Column("epoch", BIG, nullable=False),
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

# Which of several controllers on this database acts: one row, with the id 1.
controller_lease = Table(
    "controller_lease",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # +1 with each controller that takes it: what an earlier one writes is refused.
    Column("term", BIG, nullable=False),
    # +1 with each renewal: who waits sees by it that the holder lives, without trusting anybody's clock.
    Column("beat", BIG, nullable=False),
    # Empty when it was given back.
    Column("holder", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("ttl_s", Float, nullable=False),
    # The holder's, new with each; shown to it by those who wait.
    Column("key", String(128), nullable=False, server_default=""),
)
#: The row as nobody has held it.
FREE_LEASE: dict[str, object] = {"id": 1, "term": 0, "beat": 0, "holder": "", "url": "", "ttl_s": 0.0}
