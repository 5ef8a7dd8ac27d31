"""Who gets which devices next: first come, first served. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..model import CUDA, Device, GpuSession, Lease, Node, NodeState, Proposal, ResourceRequest
from .labels import selects
from .room import hold, opens, room, who_goes


class Waiting(msgspec.Struct, frozen=True):
    """One session in the queue."""

    session_id: str
    request: ResourceRequest
    #: What its host had, which is there still, without devices: best on that node again.
    kept: Lease | None = None
    #: What its user calls it; for words only.
    name: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Devices for one session."""

    session_id: str
    node_id: str
    device_ids: tuple[str, ...]
    #: How much of each.
    share: float = 1.0


Taken = Mapping[str, Mapping[str, float]]  # node id -> device id -> how much of it is held


def fitting(request: ResourceRequest, node: Node) -> list[Device]:
    """Devices of the node that would do, leased or not, best first: accelerators, then the least memory."""
    if request.node not in (None, node.id) or node.id in request.avoid or not selects(request.labels, node.labels):
        return []
    found = [
        device
        for device in node.devices
        if (request.kind is None or device.kind == request.kind) and device.memory_bytes >= request.memory_bytes
    ]
    return sorted(found, key=lambda device: (device.kind != CUDA, device.memory_bytes, device.id))


def suitable(request: ResourceRequest, kept: Lease | None, node: Node) -> list[Device]:
    """Devices of the node that would do for a session whose host, perhaps, is there already, best first.

    Memory that was on an accelerator goes back to that one; what has none of its own goes on beside any.
    """
    found = fitting(request, node)
    if kept is None or kept.node_id != node.id:
        return found
    return [device for device in found if device.kind != CUDA or device.id in kept.device_ids]


def can_go_to(request: ResourceRequest, kept: Lease | None, node: Node) -> bool:
    """Whether the session can be placed there, when devices are free: it has enough, and takes sessions.

    One that is there already is taken by a cordoned node, too.
    """
    there = kept is not None and kept.node_id == node.id and node.state is NodeState.CORDONED
    return (node.state is NodeState.UP or there) and len(suitable(request, kept, node)) >= request.devices


def why_odd(request: ResourceRequest) -> str:
    """Reason why no node at all could serve the request; empty where one could."""
    if request.devices < 1:
        return f"request.devices: {request.devices} is not at least 1"
    if not 0 < request.share <= 1 or (request.share < 1 and request.devices != 1):
        return f"request.share: {request.share:g} of {request.devices} devices is not a part of one device"
    return ""


def why_never(request: ResourceRequest, nodes: Sequence[Node]) -> str:
    """Reason why no node of the pool could ever serve the request; empty where one could."""
    if odd := why_odd(request):
        return odd
    if request.node is not None and all(node.id != request.node for node in nodes):
        known = ", ".join(node.id for node in nodes) or "none"
        return f"request.node: there is no node {request.node!r} (nodes: {known})"
    most = max((len(fitting(request, node)) for node in nodes), default=0)
    if most >= request.devices:
        return ""
    wanted = request.kind or "any kind"
    memory = f" with {request.memory_bytes} bytes" if request.memory_bytes else ""
    where = "".join(f", {key} {selector}" for key, selector in request.labels.items())
    return (
        f"request.devices: {request.devices} of {wanted}{memory} on one node{where}, "
        f"but no node has {f'more than {most}' if most else 'any'}"
    )


def targets(request: ResourceRequest, nodes: Sequence[Node], taken: Taken) -> list[str]:
    """Ids of the nodes that could serve the request now, best first, as ``place`` has it."""
    found: list[tuple[bool, float, str]] = []
    for node in nodes:
        used = taken.get(node.id, {})
        devices = room(request, fitting(request, node), used) if node.state is NodeState.UP else None
        if devices is not None:
            found.append((opens(request, devices, used), sum(used.values()), node.id))
    return [node_id for _, _, node_id in sorted(found)]


def place(queue: Iterable[Waiting], nodes: Sequence[Node], taken: Taken) -> list[Placement]:
    """Serve the queue in order. Where one must wait, nobody behind it gets what is free on a node that it could go to,
    so that nobody is overtaken.

    The emptiest node is taken first, so that sessions spread over the pool; a part of a device, where others are held
    in part already.
    """
    used = {node.id: dict(taken.get(node.id, {})) for node in nodes}
    placements: list[Placement] = []
    closed: set[str] = set()
    for waiting in queue:
        request = waiting.request
        best: tuple[bool, bool, float, str, tuple[str, ...]] | None = None
        rooms = [node for node in nodes if node.id not in closed and can_go_to(request, waiting.kept, node)]
        for node in rooms:
            there = waiting.kept is not None and waiting.kept.node_id == node.id
            on_node = used[node.id]
            chosen = room(request, suitable(request, waiting.kept, node), on_node)
            if chosen is None:
                continue
            candidate = (not there, opens(request, chosen, on_node), sum(on_node.values()), node.id, chosen)
            best = candidate if best is None else min(best, candidate)
        if best is None:
            closed |= {node.id for node in rooms}
            continue
        placed = Placement(waiting.session_id, best[3], best[4], request.share)
        hold(used[placed.node_id], placed)
        placements.append(placed)
    return placements


class Idle(msgspec.Struct, frozen=True):
    """A session that holds devices and runs no cell."""

    session_id: str
    lease: Lease
    idle_s: float


def whom_to_park(
    waiting: Sequence[Waiting],
    idle: Sequence[Idle],
    nodes: Sequence[Node],
    taken: Taken,
    *,
    idle_s: float,
    waiting_s: float,
) -> list[tuple[str, str]]:
    """Sessions to park now, each with the reason in words.

    Those that have been idle for ``idle_s``; if there are none, for the first of those who wait whom it helps, as few
    as it needs of those idle for ``waiting_s``, the longest idle first. 0 seconds mean never.
    """
    parked = {
        each.session_id: f"idle for {each.idle_s:.0f} s (setting park_idle_s)"
        for each in idle
        if idle_s and each.idle_s >= idle_s
    }
    rested = [each for each in idle if waiting_s and each.idle_s >= waiting_s]
    if not parked:
        parked = {
            each.session_id: f"idle for {each.idle_s:.0f} s while another session waits for a device "
            "(setting park_for_waiting_s)"
            for each in _who_rests_for(waiting, rested, nodes, taken)
        }
    return list(parked.items())


def _who_rests_for(
    waiting: Iterable[Waiting], rested: Sequence[Idle], nodes: Sequence[Node], taken: Taken
) -> list[Idle]:
    """Those whose devices serve the first whom they could serve; nobody behind one gets a node that it could go to."""
    by_node: dict[str, list[Idle]] = {}
    for each in sorted(rested, key=lambda each: -each.idle_s):
        by_node.setdefault(each.lease.node_id, []).append(each)
    left = [node for node in nodes if node.id in by_node]
    for wait in waiting:
        best: list[Idle] = []
        rooms = [node for node in left if can_go_to(wait.request, wait.kept, node)]
        for node in rooms:
            here = by_node[node.id]
            theirs = {device_id for each in here for device_id in each.lease.device_ids}
            fits = [device for device in suitable(wait.request, wait.kept, node) if device.id in theirs]
            chosen = who_goes(wait.request, fits, taken.get(node.id, {}), here, lambda each: each.lease)
            if chosen and (not best or len(chosen) < len(best)):
                best = chosen
        left = [node for node in left if node not in rooms]
        if best or not left:
            return best
    return []


class Leaving(msgspec.Struct, frozen=True):
    """A session on a node that is to be emptied."""

    session_id: str
    state_bytes: int
    busy: bool


def leaving_order(sessions: Iterable[Leaving]) -> list[str]:
    """Ids in the order in which to move them: those that can leave at once before those that run a cell, as these may
    hold their room elsewhere for as long as it runs; of either the largest first, as they take longest.
    """
    ordered = sorted(sessions, key=lambda each: (each.busy, -each.state_bytes, each.session_id))
    return [each.session_id for each in ordered]


def room_for(
    queue: Iterable[Waiting], held: Sequence[GpuSession], nodes: Sequence[Node], taken: Taken
) -> list[Proposal]:
    """The fewest moves after which one that waits could be placed: the first of the queue whom moves help.

    As in ``place``, nobody gets room on a node that somebody before it could go to.
    """
    closed: set[str] = set()
    for waiting in queue:
        rooms = [node for node in nodes if node.id not in closed and can_go_to(waiting.request, waiting.kept, node)]
        best: list[Proposal] = []
        for node in rooms:
            moves = _moves_off(node, waiting, held, nodes, taken)
            if moves and (not best or len(moves) < len(best)):
                best = moves
        if best:
            return best
        closed |= {node.id for node in rooms}
    return []


def _moves_off(
    node: Node, waiting: Waiting, held: Sequence[GpuSession], nodes: Sequence[Node], taken: Taken
) -> list[Proposal]:
    """Moves off one node after which there is room on it; none where there is already, or moves do not help."""
    fits = suitable(waiting.request, waiting.kept, node)
    ids = {device.id for device in fits}
    here = [each for each in held if each.lease is not None and each.lease.node_id == node.id]
    # Who frees most first, so that few have to move.
    here.sort(key=lambda each: -len(ids & set(_lease(each).device_ids)))
    others = [other for other in nodes if other.id != node.id]
    while (going := who_goes(waiting.request, fits, taken.get(node.id, {}), here, _lease)) is not None:
        homes, stays = _homes(going, others, taken)
        if stays is None:
            return [
                Proposal(
                    session_id=each.id,
                    session_name=each.name,
                    source=node.id,
                    target=target,
                    makes_room_for=waiting.session_id,
                    why=f"frees {', '.join(_lease(each).device_ids)} of {node.id} for {waiting.name!r}, which waits",
                )
                for each, target in zip(going, homes, strict=True)
            ]
        here.remove(stays)
    return []


def _lease(session: GpuSession) -> Lease:
    assert session.lease is not None
    return session.lease


def _homes(going: Sequence[GpuSession], nodes: Sequence[Node], taken: Taken) -> tuple[list[str], GpuSession | None]:
    """Where these could go, all of them together; and who could not."""
    then = {node.id: dict(taken.get(node.id, {})) for node in nodes}
    homes = []
    for session in going:
        request = msgspec.structs.replace(session.request, node=None)
        found = targets(request, nodes, then)
        if not found:
            return [], session
        target = next(node for node in nodes if node.id == found[0])
        chosen = room(request, fitting(request, target), then[target.id])
        assert chosen is not None
        hold(then[target.id], Placement(session.id, target.id, chosen, request.share))
        homes.append(target.id)
    return homes, None
