"""Ids of checkpoints, and what they keep a host from that is not the session's any more.

An id tells the session and the epoch of the host that took the checkpoint, beside when. So a host that was cut off, and
whose session goes on elsewhere, sees at its next commit that it is too late, in the listing that a commit makes anyway.
For that the session's new host commits what it begins with once more, as its own (``Checkpointer.claim``).
This guards against hosts that do not know better; who forges manifests is kept out by their MAC.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable

from blake3 import blake3

from ..errors import StaleEpoch

#: Time, session, epoch, and what tells two of them apart; session and epoch are missing outside sessions.
_ID = re.compile(r"[0-9a-f]{16}-([0-9a-f]{12})-([0-9a-f]{1,16})-[0-9a-f]{8}")
_SESSION_BYTES = 6


def new_id(session: str, epoch: int) -> str:
    """An id for a checkpoint that is taken now."""
    of = f"{_tag(session)}-{epoch:x}-" if session and epoch < 1 << 64 else ""
    return f"{time.time_ns():016x}-{of}{os.urandom(4).hex()}"


def newest_epoch(session: str, ids: Iterable[str]) -> int:
    """The highest epoch that took one of these checkpoints for the session; 0 if none did."""
    tag = _tag(session)
    found = (_ID.fullmatch(each) for each in ids)
    return max((int(each[2], 16) for each in found if each and each[1] == tag), default=0)


def of_session(session: str, ids: Iterable[str]) -> list[str]:
    """Ids that a checkpoint of the session can have, of the newest host last, and else in their order.

    These are its own, and those that tell no session. What a host commits that has looked for a later one just before
    that came is not the session's newest.
    """
    tag = _tag(session)
    found = [(each, _ID.fullmatch(each)) for each in ids]
    mine = [(int(told[2], 16) if told else 0, each) for each, told in found if told is None or told[1] == tag]
    return [each for _, each in sorted(mine, key=lambda pair: pair[0])]


def unless_stale(session: str, epoch: int) -> Callable[[Iterable[str]], None]:
    """What ``Store.commit`` is to ask; it raises StaleEpoch when a later host has committed for the session."""

    def check(ids: Iterable[str]) -> None:
        newest = newest_epoch(session, ids) if session else 0
        if newest > epoch:
            raise StaleEpoch(epoch, newest)

    return check


def _tag(session: str) -> str:
    return blake3(session.encode()).digest(length=_SESSION_BYTES).hex()
