"""Rows of the catalogue as facts."""

from __future__ import annotations

import msgspec

from jupyter_gpuaas.model import GpuSession, Lease, MigrationView
from jupyter_gpuaas.model._compat import StrEnum


class Role(StrEnum):
    """What a token allows."""

    #: Sees and does everything.
    ADMIN = "admin"
    #: Has sessions of its own.
    USER = "user"


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A token; only its digest is known."""

    digest: str
    user: str
    role: Role
    created_s: float
    #: Seconds since the epoch; 0 means that it does not end.
    expires_s: float = 0.0


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session's next host gets what its former one had."""

    #: Id of the checkpoint that is restored.
    checkpoint: str
    #: Node and epoch of the former host, which gives journal, files and requests; empty where nothing is left there.
    node: str = ""
    epoch: int = 0
    #: What the former host still holds; given back when the new one is live.
    lease: Lease | None = None
    #: The new host has everything already, and only has to begin.
    ready: bool = False
    #: What the loss of the former host was; empty where it was not lost. Where nothing is left of it, its user is told.
    why: str = ""
    #: After a loss, the cell that the variables of the checkpoint are those after, where that is known.
    cell: int | None = None
    #: The new host is there already, as a standby. Without ``node`` it has all that there is.
    stands_by: bool = False
    #: Hosts in a row that have failed to become the session's.
    failures: int = 0


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A migration that is under way, or must be led back."""

    view: MigrationView
    #: What is held on the target; None before there is anything.
    lease: Lease | None = None
    #: Since when the session stands still, in seconds since the epoch; 0 before.
    stopped_s: float = 0.0


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A session's standby."""

    #: What it holds on its node.
    lease: Lease


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session with what only the service may know of it."""

    session: GpuSession
    #: Key of the session's tickets.
    secret: str
    cwd: str = ""
    machine: str = ""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    #: ``HostReport.kernel_starts`` as last seen, to tell a kernel that was replaced.
    kernel_starts: int = 0
    #: Id of the checkpoint that it begins with; empty for none.
    restore: str = ""
    #: The highest epoch that was ever given to a host of it, be it for a migration that failed.
    epochs: int = 0
    move: Move | None = None
    #: Number of the last wish of its notebook that was looked at.
    wished: int = 0
    incoming: Incoming | None = None
    aside: Aside | None = None
    #: What its host, which is there, has given up for others, until it has devices again.
    kept: Lease | None = None
    #: Its last migration that has ended.
    last_migration: MigrationView | None = None
