"""What was used of devices, by session and by user."""

from __future__ import annotations

import msgspec


class SessionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that one session has held."""

    session_id: str
    #: Empty where the session is not remembered any more.
    name: str = ""
    owner: str = ""
    #: Devices times the seconds for which they were held, standbys and both sides of a move included.
    device_seconds: float = 0.0
    #: Devices that it holds now, of one that it shares a part.
    devices: float = 0


class UserUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that all sessions of one user have held."""

    user: str
    device_seconds: float = 0.0
    devices: float = 0
    #: Sessions that the sum is of.
    sessions: int = 0


class UsageView(msgspec.Struct, frozen=True, kw_only=True):
    """Use of devices in a span of time."""

    from_s: float
    until_s: float
    users: tuple[UserUsage, ...] = ()
    sessions: tuple[SessionUsage, ...] = ()
