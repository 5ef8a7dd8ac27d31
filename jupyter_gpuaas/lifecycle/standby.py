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
from .placement import Placement, Taken, Waiting, can_go_to, place, suitable, targets
from .room import Held, used_of, who_goes

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
    request: ResourceRequest, own_node: str, nodes: Sequence[Node], taken: Taken, waiting: Sequence[Waiting]
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
    waiting: Sequence[Waiting], standbys: Mapping[str, Lease], nodes: Sequence[Node], taken: Sequence[Held]
) -> list[str]:
    """Sessions whose standbys are to go, so that those who wait are served; as few as that takes.

    Parameters
    ----------
    waiting
        In their order.
    standbys
        Leases of standbys by session, the oldest first: the newest goes first.
    taken
        What is held and not about to be given back, be it by others than us.
    """
    held = list(taken)
    given: list[str] = []
    for wait in waiting:
        if placed := _place(wait, nodes, held):
            held += placed
            continue
        best: list[tuple[str, Lease]] = []
        used, left = used_of(held), [each for each in standbys.items() if each[0] not in given]
        for node in nodes:
            if not can_go_to(wait.request, wait.kept, node):
                continue
            fits = suitable(wait.request, wait.kept, node)
            here = [each for each in reversed(left) if each[1].node_id == node.id]
            chosen = who_goes(wait.request, fits, used.get(node.id, {}), here, lambda each: each[1])
            if chosen and (not best or len(chosen) < len(best)):
                best = chosen
        if not best:
            break  # nobody behind it is served before it
        given += [session_id for session_id, _ in best]
        gone = [lease for _, lease in best]
        held = [each for each in held if each not in gone]
        held += _place(wait, nodes, held)
    return given


def _place(waiting: Waiting, nodes: Sequence[Node], taken: Sequence[Held]) -> list[Placement]:
    """What the one that waits would have; nothing where there is no room."""
    return place([waiting], nodes, used_of(taken))
