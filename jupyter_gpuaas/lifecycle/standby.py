"""A host on a second node that follows a session's checkpoints: when there is one, where, and for whom it goes. Pure.

A standby has devices of its own, so that it can take the session over at once. It has them only while nobody else wants
them: it is made where there is room to spare, and dropped for whoever waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..model import Lease, Node, NodeState, ResourceRequest, SessionState
from ..model._compat import StrEnum
from .fairness import Standing, beyond_quota
from .placement import Taken, Waiting, fitting, place, targets
from .room import used_of

S = SessionState


class Step(StrEnum):
    """What is to be done about a session's standby."""

    REST = "rest"
    MAKE = "make"
    FOLLOW = "follow"
    DROP = "drop"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a session, and of its standby if it has one."""

    wanted: bool
    state: SessionState
    #: Of the session, and of its standby; 0 where it has none.
    epoch: int
    standby_epoch: int = 0
    #: Of the standby's node; None where the node is not known any more, or was silent for too long.
    node: NodeState | None = None
    #: Whether the session is being moved.
    moving: bool = False
    #: The newest checkpoint, and the one that the standby has.
    newest: str = ""
    followed: str = ""


#: States in which a standby has something to wait for.
_WORTH = frozenset({S.STARTING, S.IDLE, S.BUSY, S.SUSPENDED, S.MIGRATING, S.LOST})


def decide(facts: Facts) -> tuple[Step, str]:
    """The next step, and why, in words."""
    if not facts.standby_epoch:
        runs = facts.state in (S.IDLE, S.BUSY) and not facts.moving
        return (Step.MAKE if facts.wanted and runs else Step.REST), ""
    if not facts.wanted and facts.state is not S.LOST:
        return Step.DROP, "it is not wanted any more"
    if facts.state not in _WORTH:
        return Step.DROP, f"the session is {facts.state}"
    if facts.standby_epoch < facts.epoch:
        return Step.DROP, "the session is on another node since"
    if facts.node is None:
        return Step.DROP, "its node is lost"
    if facts.node is NodeState.CORDONED:
        return Step.DROP, "its node takes no sessions any more"
    runs = facts.state in (S.IDLE, S.BUSY) and facts.node is NodeState.UP
    return (Step.FOLLOW if runs and facts.newest and facts.newest != facts.followed else Step.REST), ""


def where(
    request: ResourceRequest, own_node: str, nodes: Sequence[Node], taken: Taken, waiting: Sequence[ResourceRequest]
) -> tuple[str | None, str]:
    """The node for a standby of a session on ``own_node``; None, and why, where there is none now."""
    if request.node is not None:
        return None, f"the session wants node {request.node} and no other"
    if waiting:
        return None, "another session waits for a device"
    found = [node_id for node_id in targets(request, nodes, taken) if node_id != own_node]
    return (found[0], "") if found else (None, "no other node has a device to spare")


def beyond_quotas(
    standbys: Sequence[tuple[str, Lease]], held: Mapping[str, float], standings: Mapping[str, Standing]
) -> list[tuple[int, str]]:
    """Standbys that are to go because they take their users beyond a quota, by their places, and why.

    Parameters
    ----------
    standbys
        Owner and lease, the oldest first: the newest goes first.
    held
        By owner, devices of all sessions and standbys.
    """
    left, gone = dict(held), []
    for place_, (owner, lease) in reversed(list(enumerate(standbys))):
        why = beyond_quota(owner, standings[owner], held=left[owner], more=0)
        if why:
            left[owner] -= len(lease.device_ids) * lease.share
            gone.append((place_, why))
    return gone


def who_gives_way(
    waiting: Sequence[ResourceRequest], standbys: Mapping[str, Lease], nodes: Sequence[Node], leases: Sequence[Lease]
) -> list[str]:
    """Sessions whose standbys are to go, so that those who wait are served; as few as that takes.

    Parameters
    ----------
    waiting
        In their order.
    standbys
        Leases of standbys by session, the oldest first: the newest goes first.
    leases
        Those that are held and not about to be given back.
    """
    held = list(leases)
    given: list[str] = []
    for request in waiting:
        if _place(request, nodes, held):
            held.append(_place(request, nodes, held)[0])
            continue
        best: list[str] | None = None
        for node in nodes:
            if node.state is not NodeState.UP or not fitting(request, node):
                continue
            chosen: list[str] = []
            left = list(held)
            for session_id, lease in reversed(list(standbys.items())):
                if lease.node_id != node.id or session_id in given or _place(request, [node], left):
                    continue
                chosen.append(session_id)
                left = [each for each in left if each.id != lease.id]
            if chosen and _place(request, [node], left) and (best is None or len(chosen) < len(best)):
                best = chosen
        if best is None:
            break  # nobody behind it is served before it
        given += best
        gone = {standbys[session_id].id for session_id in best}
        held = [each for each in held if each.id not in gone]
        held += _place(request, nodes, held)
    return given


def _place(request: ResourceRequest, nodes: Sequence[Node], leases: Sequence[Lease]) -> list[Lease]:
    """The lease that the request would have; none where there is no room."""
    return [
        Lease(f"for {len(leases)}", placed.session_id, placed.node_id, placed.device_ids, 0, placed.share)
        for placed in place([Waiting("", request)], nodes, used_of(leases))
    ]
