"""Which devices were held when, in the database: one row a lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Column, Float, String, Table, delete, func, insert, or_, select, update

from jupyter_gpuaas.controller.catalogue.database import Database, portions
from jupyter_gpuaas.controller.catalogue.tables import metadata, sessions
from jupyter_gpuaas.lifecycle.usage import Span

usage = Table(
    "usage",
    metadata,
    Column("lease_id", String(64), primary_key=True),
    Column("session_id", String(64), nullable=False, index=True),
    Column("owner", String(256), nullable=False, index=True),
    Column("devices", Float, nullable=False),
    Column("from_s", Float, nullable=False),
    # Null while it is held.
    Column("until_s", Float, nullable=True, index=True),
)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that runs, as it is written down."""

    lease_id: str
    session_id: str
    owner: str
    devices: float
    from_s: float


class UsageRows:
    """Reads and writes the table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, held: Held) -> None:
        """A lease begins; one that has begun already goes on."""
        row = msgspec.structs.asdict(held) | {"until_s": None}
        with self._database.writing() as connection:
            this = usage.c.lease_id == held.lease_id
            if connection.execute(update(usage).where(this).values(until_s=None)).rowcount != 1:
                connection.execute(insert(usage).values(row))

    def end(self, lease_id: str, until_s: float) -> None:
        """A lease has ended."""
        with self._database.writing() as connection:
            connection.execute(update(usage).where(usage.c.lease_id == lease_id).values(until_s=until_s))

    def running(self) -> list[Held]:
        """Leases that have not ended, as far as was written down."""
        with self._database.reading() as connection:
            rows = connection.execute(select(usage).where(usage.c.until_s.is_(None))).mappings().all()
        return [Held(**{name: row[name] for name in Held.__struct_fields__}) for row in rows]

    def ended_seconds(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Device-seconds of each session's leases that have ended."""
        found = dict.fromkeys(session_ids, 0.0)
        total = func.sum(usage.c.devices * (usage.c.until_s - usage.c.from_s))
        query = select(usage.c.session_id, total).where(usage.c.until_s.is_not(None)).group_by(usage.c.session_id)
        for some in portions(session_ids):
            with self._database.reading() as connection:
                for session_id, used_s in connection.execute(query.where(usage.c.session_id.in_(some))):
                    found[session_id] = float(used_s)
        return found

    def spans(self, *, after_s: float, owner: str | None = None, running: Iterable[str] = ()) -> list[Span]:
        """Leases that have ended after a time, and those that run; ``owner`` None means everybody's.

        Parameters
        ----------
        running
            Ids of the leases that do run; others that were not seen to end count for nothing.
        """
        wanted = or_(usage.c.until_s > after_s, usage.c.lease_id.in_(list(running)))
        columns: list[Any] = [usage, sessions.c.name]
        query = select(*columns).outerjoin(sessions, sessions.c.id == usage.c.session_id).where(wanted)
        if owner is not None:
            query = query.where(usage.c.owner == owner)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Span(
                session_id=row["session_id"],
                owner=row["owner"],
                devices=row["devices"],
                from_s=row["from_s"],
                until_s=row["until_s"],
                name=row["name"] or "",
            )
            for row in rows
        ]

    def forget(self, before_s: float) -> None:
        """Forget leases that ended before a time."""
        with self._database.writing() as connection:
            connection.execute(delete(usage).where(usage.c.until_s < before_s))
