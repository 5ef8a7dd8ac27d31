"""Rows of the catalogue as facts."""

from __future__ import annotations

import msgspec

from jupyter_gpuaas.model import GpuSession
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
