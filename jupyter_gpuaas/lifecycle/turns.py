"""Whose turn on a device is over, where more sessions want devices than there are. Pure: times are arguments.

While nobody waits, nobody gives anything up. While somebody waits who could have its devices, a session

- that computes nothing gives them up after a rest, the sooner if somebody waits in the middle of a cell;
- gives them up, whatever it does, when it has had them for a turn while the other has waited for as long.

Those who wait are served in their order, and who gives its devices up goes to the end. So with ``n`` sessions on one
device, each gets it again after at most ``n - 1`` turns, and none gets two turns while another gets none.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..model import Lease, Node, ResourceRequest
from .placement import Placement, Taken, can_go_to, suitable
from .room import free, hold, room, who_goes

#: A session that computes nothing for this long gives way to one that was suspended in the middle of its cell.
SHORT_REST_S = 2.0


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """A session that waits for devices."""

    session_id: str
    request: ResourceRequest
    waited_s: float
    #: What its host had, which is there still, without devices.
    kept: Lease | None = None
    #: It was suspended in the middle of a cell.
    in_cell: bool = False


class Holds(msgspec.Struct, frozen=True, kw_only=True):
    """A session that holds devices."""

    session_id: str
    lease: Lease
    #: Since it got them.
    held_s: float
    #: Since it has run no cell; None while it runs one.
    idle_s: float | None
    #: Why it cannot be suspended in its cell; empty if it can.
    stuck: str = ""


class Limits(msgspec.Struct, frozen=True):
    """The settings of these names; 0 means never."""

    turn_s: float
    park_for_waiting_s: float


class Over(msgspec.Struct, frozen=True):
    """A session that is to give its devices up."""

    session_id: str
    #: In words for its user.
    why: str
    #: In the middle of its cell.
    in_cell: bool


def over(
    waiting: Sequence[Waits], holding: Sequence[Holds], nodes: Sequence[Node], taken: Taken, limits: Limits
) -> list[Over]:
    """Sessions whose turn is over, as few as those who wait need.

    Parameters
    ----------
    waiting
        In the order in which they are served.
    taken
        What is leased, that of ``holding`` included; not what is about to be given back.
    """
    used = {node.id: dict(taken.get(node.id, {})) for node in nodes}
    left = list(holding)
    given: list[Over] = []
    closed: set[str] = set()
    for wait in waiting:
        rooms = [node for node in nodes if node.id not in closed and can_go_to(wait.request, wait.kept, node)]
        best: tuple[int, Node, list[Holds]] | None = None
        for node in rooms:
            fits, order = suitable(wait.request, wait.kept, node), _first_to_go(left, node.id, wait, limits)
            chosen = who_goes(wait.request, fits, used[node.id], order, lambda holder: holder.lease)
            if chosen is not None and (best is None or len(chosen) < best[0]):
                best = len(chosen), node, chosen
        if best is None:
            # Whatever becomes free where it could go is for it, and for nobody behind it.
            closed |= {node.id for node in rooms}
            continue
        _, node, chosen = best
        on_node = used[node.id]
        for holder in chosen:
            free(on_node, holder.lease)
            left.remove(holder)
            given.append(Over(holder.session_id, _why(holder, wait, limits), holder.idle_s is None))
        devices = room(wait.request, suitable(wait.request, wait.kept, node), on_node)
        assert devices is not None
        hold(on_node, Placement(wait.session_id, node.id, devices, wait.request.share))
    return given


def _first_to_go(holding: Sequence[Holds], node_id: str, wait: Waits, limits: Limits) -> list[Holds]:
    """Who may have to give its devices on this node to the one that waits: those that rest, the longest first; then
    those that have had theirs the longest."""
    found = [holder for holder in holding if holder.lease.node_id == node_id and _why(holder, wait, limits)]
    return sorted(found, key=lambda holder: (holder.idle_s is None, -(holder.idle_s or holder.held_s)))


def _why(holder: Holds, wait: Waits, limits: Limits) -> str:
    """Why the turn of one is over for the other; empty while it is not."""
    if holder.idle_s is not None:
        if limits.park_for_waiting_s and holder.idle_s >= limits.park_for_waiting_s:
            setting = "(setting park_for_waiting_s)"
            return f"idle for {holder.idle_s:.0f} s while another session waits for a device {setting}"
        if wait.in_cell and limits.turn_s and holder.idle_s >= SHORT_REST_S:
            return f"idle for {holder.idle_s:.0f} s while another session waits in the middle of its cell"
    elif holder.stuck:
        return ""
    if limits.turn_s and min(holder.held_s, wait.waited_s) >= limits.turn_s:
        told = f"while another session waited for {wait.waited_s:.0f} s"
        return f"had its turn of {limits.turn_s:g} s (setting turn_s) {told}"
    return ""


def room_to_keep(kept_bytes: int, wants_bytes: int, most_bytes: int) -> str:
    """Why a session cannot stay in its node's memory without devices; empty if it can.

    Parameters
    ----------
    kept_bytes
        Of the sessions that stay there so already.
    """
    if kept_bytes + wants_bytes <= most_bytes:
        return ""
    gib = 1024**3
    return (
        f"it has {wants_bytes / gib:.2f} GiB, and sessions without devices may have {most_bytes / gib:.2f} GiB of the "
        f"node's memory, of which {kept_bytes / gib:.2f} are used (setting kept_bytes)"
    )


def keeps_process(request: ResourceRequest, lease: Lease, nodes: Sequence[Node], stuck: str) -> bool:
    """Whether a session is parked with its process, which stays in its node's memory and goes on there; else it is a
    checkpoint, and goes on wherever there is room.

    With its process where no other node could take it: it would have to wait for this one anyway.

    Parameters
    ----------
    stuck
        Why its processes cannot be without their devices; empty if they can.
    """
    others = [node for node in nodes if node.id != lease.node_id]
    return not stuck and not any(can_go_to(request, None, node) for node in others)


def place_words(place: int) -> str:
    """When the turn of a suspended session comes, in words."""
    return "its turn comes next" if place <= 1 else f"its turn comes after that of {place - 1} other session(s)"
