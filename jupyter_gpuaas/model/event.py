"""Events: the story of sessions and nodes, as it is stored and shown."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened."""

    #: Rises by one an event, over all sessions of a service.
    seq: int
    time_s: float
    #: ``transition`` of a session; ``session``, ``node``, ``service`` for other news.
    kind: str
    session_id: str = ""
    #: For transitions: where from and where to.
    source: str = ""
    target: str = ""
    cause: str = ""
    epoch: int = 0
    detail: dict[str, Any] = msgspec.field(default_factory=dict)
