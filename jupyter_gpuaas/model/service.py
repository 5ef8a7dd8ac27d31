"""What a service of this user writes down so that others find it."""

from __future__ import annotations

import msgspec


class ServiceFile(msgspec.Struct, frozen=True):
    """Content of ``HOME/service.json``: the controller that runs, or that ran last."""

    url: str
    pid: int
    port: int
    nodes: int


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """Whose token it is."""

    user: str
    #: ``admin`` or ``user``.
    role: str


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token just made; the service itself keeps only its hash."""

    token: str
    user: str
    role: str
    #: Seconds since the epoch; 0 means that it does not end.
    expires_s: float = 0.0
