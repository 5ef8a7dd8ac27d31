"""Users, what is known of their tokens, and the audit log, in the database."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Integer,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from jupyter_gpuaas.controller.catalogue.database import Database, portions
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.catalogue.tables import BIG, metadata
from jupyter_gpuaas.model import AuditEntry, Limits, Scope

users = Table(
    "users",
    metadata,
    Column("name", String(256), primary_key=True),
    Column("created_s", Float, nullable=False),
    Column("blocked", Boolean, nullable=False),
    Column("limits", JSON, nullable=False),
)

# Beside the table of tokens, which is older. One without a row here may do all that its role may.
token_details = Table(
    "token_details",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("scopes", JSON, nullable=False),
    Column("label", Text, nullable=False),
    Column("made_by", String(256), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BIG, primary_key=True, autoincrement=True),
    Column("time_s", Float, nullable=False),
    Column("user", String(256), nullable=False, index=True),
    Column("token", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(256), nullable=False),
    Column("target", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_autoincrement=True,
)

#: Rows that are written between two looks at whether there are too many.
PRUNE_EACH = 500


class UserRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A user."""

    name: str
    created_s: float
    blocked: bool = False
    limits: Limits = Limits()


class TokenDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a token beside its record."""

    digest: str
    scopes: tuple[Scope, ...]
    label: str = ""
    made_by: str = ""


#: What a token of each role may at most be used for.
SCOPES_OF = {Role.ADMIN: tuple(Scope), Role.USER: (Scope.READ, Scope.SESSIONS)}
#: What it may be used for where nothing else was said.
DEFAULT_SCOPES = {Role.ADMIN: (Scope.READ, Scope.SESSIONS, Scope.ADMIN), Role.USER: (Scope.READ, Scope.SESSIONS)}


class UserRows:
    """Reads and writes users and what is known of their tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[UserRecord]:
        """All users, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(users).order_by(users.c.name)).mappings().all()
        return [msgspec.convert(_plain(row), UserRecord) for row in rows]

    def ensure(self, name: str) -> UserRecord:
        """The user, made if not there."""
        with self._database.writing() as connection:
            row = connection.execute(select(users).where(users.c.name == name)).mappings().first()
            if row is not None:
                return msgspec.convert(_plain(row), UserRecord)
            record = UserRecord(name=name, created_s=time.time())
            connection.execute(insert(users).values(msgspec.to_builtins(record)))
        return record

    def put(self, record: UserRecord) -> None:
        """Change a user that is there."""
        with self._database.writing() as connection:
            this = update(users).where(users.c.name == record.name)
            connection.execute(this.values(msgspec.to_builtins(record)))

    def drop(self, name: str) -> None:
        """Forget a user."""
        with self._database.writing() as connection:
            connection.execute(delete(users).where(users.c.name == name))

    def details(self) -> dict[str, TokenDetail]:
        """What is known of tokens, by their digests."""
        with self._database.reading() as connection:
            rows = connection.execute(select(token_details)).mappings().all()
        return {row["digest"]: msgspec.convert(_plain(row), TokenDetail) for row in rows}

    def add_detail(self, detail: TokenDetail) -> None:
        """Remember what is known of a token."""
        with self._database.writing() as connection:
            connection.execute(insert(token_details).values(msgspec.to_builtins(detail)))

    def drop_details(self, digests: list[str]) -> None:
        """Forget what was known of tokens."""
        with self._database.writing() as connection:
            for some in portions(digests):
                connection.execute(delete(token_details).where(token_details.c.digest.in_(some)))


class AuditRows:
    """Reads and writes the audit log, whose newest ``kept`` entries are kept."""

    def __init__(self, database: Database, *, kept: int) -> None:
        self._database = database
        self._kept = kept
        self._written = 0

    def add(self, **fields: Any) -> None:
        """Write an entry."""
        row = {"time_s": time.time(), "note": ""} | fields
        with self._database.writing() as connection:
            key = connection.execute(insert(audit).values(row)).inserted_primary_key
            self._written += 1
            if key is not None and self._written % max(1, min(PRUNE_EACH, self._kept // 10)) == 0:
                connection.execute(delete(audit).where(audit.c.seq <= int(key[0]) - self._kept))

    def entries(
        self, *, after: int, limit: int, user: str = "", target: str = "", last: bool = False
    ) -> list[AuditEntry]:
        """Entries above ``after``, oldest first; with ``last`` the newest of them.

        Parameters
        ----------
        target
            Only those whose target contains this.
        """
        query = select(audit).where(audit.c.seq > after)
        if user:
            query = query.where(audit.c.user == user)
        if target:
            query = query.where(audit.c.target.contains(target, autoescape=True))
        order = audit.c.seq.desc() if last else audit.c.seq
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(order).limit(limit)).mappings().all()
        found = [AuditEntry(**{name: row[name] for name in AuditEntry.__struct_fields__}) for row in rows]
        return found[::-1] if last else found


def _plain(row: RowMapping) -> dict[str, Any]:
    # Its keys are a subclass of str, which msgspec does not take for one.
    return {str(key): value for key, value in row.items()}
