"""What is going to happen to sessions if nobody does anything: who is parked, ended or placed, and when. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..model import GpuSession, Lease, Node, SessionState
from .placement import Waiting, place
from .room import free, hold, used_of

#: In these a session waits for devices.
WAITING = frozenset({SessionState.QUEUED, SessionState.RESTORING})


class Rules(msgspec.Struct, frozen=True):
    """The settings that say when sessions are parked and ended; 0 means never."""

    park_idle_s: float
    park_for_waiting_s: float
    unattended_s: float


def parks_s(session: GpuSession, rules: Rules) -> float:
    """When it is parked because it has been idle; 0 where it is not."""
    if session.state is not SessionState.IDLE or session.lease is None or not session.since_s or not rules.park_idle_s:
        return 0.0
    return session.since_s + rules.park_idle_s


def ends_s(session: GpuSession, rules: Rules) -> float:
    """When it is ended because nobody is attached; 0 where somebody is."""
    there = session.lease is not None or session.state is SessionState.PARKED
    if session.clients or not session.unattended_since_s or not there:
        return 0.0
    return session.unattended_since_s + rules.unattended_s


def _frees_s(session: GpuSession, rules: Rules, now_s: float) -> float:
    """When it gives its devices back while others wait; 0 where nobody can tell."""
    times = [each for each in (parks_s(session, rules), ends_s(session, rules)) if each]
    if session.state is SessionState.IDLE and session.since_s and rules.park_for_waiting_s:
        times.append(session.since_s + rules.park_for_waiting_s)
    if session.state is SessionState.CLOSING:
        times.append(now_s)
    return max(now_s, min(times)) if times else 0.0


def starts_s(
    waiting: Sequence[GpuSession],
    holding: Sequence[GpuSession],
    nodes: Sequence[Node],
    leases: Sequence[Lease],
    rules: Rules,
    now_s: float,
) -> Mapping[str, float]:
    """When those who wait get devices, if those who are idle stay so: id -> time. Who is missing, nobody can tell.

    Parameters
    ----------
    waiting
        In the order of the queue.
    leases
        All that keep a device from them; what a standby holds does not.
    """
    taken = used_of(leases)
    times = [(_frees_s(each, rules, now_s), each.lease) for each in holding if each.lease is not None]
    coming = sorted(((at_s, lease) for at_s, lease in times if at_s), key=lambda each: each[0])
    found: dict[str, float] = {}
    time_s = now_s
    for session in waiting:
        placed = place([Waiting(session.id, session.request)], nodes, taken)
        while not placed and coming:
            time_s, lease = coming.pop(0)
            free(taken.setdefault(lease.node_id, {}), lease)
            placed = place([Waiting(session.id, session.request)], nodes, taken)
        if not placed:
            break  # nobody is overtaken, so nothing can be said of those behind it either
        (got,) = placed
        hold(taken.setdefault(got.node_id, {}), got)
        found[session.id] = time_s
    return found
