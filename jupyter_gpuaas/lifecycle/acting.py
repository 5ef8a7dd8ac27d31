"""Which of several controllers on one database acts. Pure; times are of the caller's own monotonic clock.

One row holds a term and a beat. Who acts adds to the beat; who waits looks. When the waiting one has seen the same term
and beat for as long as the holder said that it may be silent, it takes the next term. The holder counts from before it
asked for its last renewal, and the other from after it saw it, so the holder always stops first. No two clocks are
compared, and a clock that jumps changes nothing.
"""

from __future__ import annotations

import msgspec

#: The holder stops after this part of the time, so that it is done before another begins.
STOP_AT = 0.8
#: It renews so often in that time.
RENEWALS = 4


class Row(msgspec.Struct, frozen=True):
    """The lease as it is in the database."""

    term: int
    beat: int
    #: Empty when it was given back.
    holder: str
    url: str
    #: How long the holder may be silent; negative when it was given back because the service was ended.
    ttl_s: float
    #: By which others show the holder that they are controllers.
    key: str = ""


class Seen(msgspec.Struct, frozen=True):
    """What a waiting controller has seen, and since when it is so."""

    row: Row
    since_s: float


def look(seen: Seen | None, row: Row, now_s: float) -> Seen:
    """What is known after another look."""
    same = seen is not None and (seen.row.term, seen.row.beat, seen.row.holder) == (row.term, row.beat, row.holder)
    return Seen(row, seen.since_s if same and seen is not None else now_s)


def may_take(seen: Seen, now_s: float) -> bool:
    """Whether the lease is free: given back, or not renewed for too long."""
    return not seen.row.holder or now_s - seen.since_s >= seen.row.ttl_s


def is_over(before: Seen | None, row: Row) -> bool:
    """Whether the service was ended, sessions and all, while this controller waited: it ends, too."""
    return before is not None and row.ttl_s < 0 <= before.row.ttl_s


def must_stop(renewed_s: float, ttl_s: float, now_s: float) -> bool:
    """Whether the holder may not act any more; ``renewed_s`` is when it asked for its last renewal."""
    return now_s - renewed_s >= ttl_s * STOP_AT


def pause_s(ttl_s: float) -> float:
    """Between two renewals, or two looks."""
    return ttl_s * STOP_AT / RENEWALS
