"""Who gets which devices next: first come, first served, devices exclusive. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..model import CUDA, Device, GpuSession, Lease, Node, NodeState, Proposal, ResourceRequest
from .labels import selects


class Waiting(msgspec.Struct, frozen=True):
    """One session in the queue."""

    session_id: str
    request: ResourceRequest
    #: What its host had, which is there still, without devices: best on that node again.
    kept: Lease | None = None


class Placement(msgspec.Struct, frozen=True):
    """Devices for one session."""

    session_id: str
    node_id: str
    device_ids: tuple[str, ...]


Taken = Mapping[str, frozenset[str]]  # node id -> ids of its leased devices


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


def why_never(request: ResourceRequest, nodes: Sequence[Node]) -> str:
    """Reason why no node of the pool could ever serve the request; empty where one could."""
    if request.devices < 1:
        return f"request.devices: {request.devices} is not at least 1"
    if not 0 < request.share <= 1 or (request.share < 1 and request.devices != 1):
        return f"request.share: {request.share:g} of {request.devices} devices is not a part of one device"
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
    """Ids of the nodes that could serve the request now, best first: the emptiest, as ``place`` has it."""
    found: list[tuple[int, str]] = []
    for node in nodes:
        used = taken.get(node.id, frozenset())
        free = [device for device in fitting(request, node) if device.id not in used]
        if node.state is NodeState.UP and len(free) >= request.devices:
            found.append((len(used), node.id))
    return [node_id for _, node_id in sorted(found)]


def place(queue: Iterable[Waiting], nodes: Sequence[Node], taken: Taken) -> list[Placement]:
    """Serve the queue in order. Where one must wait, nobody behind it gets what is free on a node that it could go to,
    so that nobody is overtaken.

    The emptiest node is taken first, so that sessions spread over the pool.
    """
    used = {node.id: set(taken.get(node.id, ())) for node in nodes}
    placements: list[Placement] = []
    closed: set[str] = set()
    for waiting in queue:
        best: tuple[bool, int, str, tuple[str, ...]] | None = None
        rooms = [node for node in nodes if node.id not in closed and can_go_to(waiting.request, waiting.kept, node)]
        for node in rooms:
            there = waiting.kept is not None and waiting.kept.node_id == node.id
            found = suitable(waiting.request, waiting.kept, node)
            free = [device for device in found if device.id not in used[node.id]]
            if len(free) < waiting.request.devices:
                continue
            chosen = tuple(device.id for device in free[: waiting.request.devices])
            candidate = (not there, len(used[node.id]), node.id, chosen)
            best = candidate if best is None else min(best, candidate)
        if best is None:
            closed |= {node.id for node in rooms}
            continue
        _, _, node_id, device_ids = best
        used[node_id].update(device_ids)
        placements.append(Placement(waiting.session_id, node_id, device_ids))
    return placements


class Idle(msgspec.Struct, frozen=True):
    """A session that holds devices and runs no cell."""

    session_id: str
    lease: Lease
    idle_s: float


def whom_to_park(
    waiting: Sequence[ResourceRequest],
    idle: Sequence[Idle],
    nodes: Sequence[Node],
    *,
    idle_s: float,
    waiting_s: float,
) -> list[tuple[str, str]]:
    """Sessions to park now, each with the reason in words.

    Those that have been idle for ``idle_s``, and, for the first request that waits, as few as it needs of those idle
    for ``waiting_s``, the longest idle first. 0 seconds mean never.
    """
    parked = {
        each.session_id: f"idle for {each.idle_s:.0f} s (setting park_idle_s)"
        for each in idle
        if idle_s and each.idle_s >= idle_s
    }
    if waiting and waiting_s and not parked:
        request = waiting[0]
        rested = sorted((each for each in idle if each.idle_s >= waiting_s), key=lambda each: -each.idle_s)
        best: list[Idle] = []
        by_node: dict[str, list[Idle]] = {}
        for each in rested:
            by_node.setdefault(each.lease.node_id, []).append(each)
        for node in nodes:
            if node.id not in by_node:
                continue
            fits = {device.id for device in fitting(request, node)}
            chosen: list[Idle] = []
            freed: set[str] = set()
            for each in by_node[node.id]:
                if len(freed) < request.devices and fits & set(each.lease.device_ids):
                    chosen.append(each)
                    freed |= fits & set(each.lease.device_ids)
            if freed and len(freed) >= request.devices and (not best or len(chosen) < len(best)):
                best = chosen
        for each in best:
            parked[each.session_id] = (
                f"idle for {each.idle_s:.0f} s while another session waits for a device (setting park_for_waiting_s)"
            )
    return list(parked.items())


class Leaving(msgspec.Struct, frozen=True):
    """A session on a node that is to be emptied."""

    session_id: str
    state_bytes: int
    busy: bool


def leaving_order(sessions: Iterable[Leaving]) -> list[str]:
    """Ids in the order in which to move them: the largest first, as they take longest; of these the idle ones first."""
    ordered = sorted(sessions, key=lambda each: (-each.state_bytes, each.busy, each.session_id))
    return [each.session_id for each in ordered]


def room_for(
    waiting: Sequence[GpuSession], held: Sequence[GpuSession], nodes: Sequence[Node], leases: Sequence[Lease]
) -> list[Proposal]:
    """The fewest moves after which the first session that waits could be placed; none where moves do not help."""
    if not waiting:
        return []
    first = waiting[0]
    taken: dict[str, frozenset[str]] = {}
    for lease in leases:
        taken[lease.node_id] = taken.get(lease.node_id, frozenset()) | set(lease.device_ids)
    best: list[Proposal] | None = None
    for node in nodes:
        fits = {device.id for device in fitting(first.request, node)}
        if node.state is not NodeState.UP or len(fits) < first.request.devices:
            continue
        free = fits - taken.get(node.id, frozenset())
        moves: list[Proposal] = []
        then = dict(taken)
        # Who frees most first, so that few have to move.
        here = [each for each in held if each.lease is not None and each.lease.node_id == node.id]
        for session in sorted(here, key=lambda each: -len(fits & set(each.lease.device_ids if each.lease else ()))):
            if len(free) >= first.request.devices:
                break
            assert session.lease is not None
            request = msgspec.structs.replace(session.request, node=None)
            others = [other for other in nodes if other.id != node.id]
            found = targets(request, others, then)
            if not found or not fits & set(session.lease.device_ids):
                continue
            target = next(other for other in others if other.id == found[0])
            used = then.get(target.id, frozenset())
            chosen = [device.id for device in fitting(request, target) if device.id not in used][: request.devices]
            then[target.id] = used | set(chosen)
            free |= fits & set(session.lease.device_ids)
            moves.append(
                Proposal(
                    session_id=session.id,
                    session_name=session.name,
                    source=node.id,
                    target=target.id,
                    makes_room_for=first.id,
                    why=f"frees {', '.join(session.lease.device_ids)} of {node.id} for {first.name!r}, which waits",
                )
            )
        if len(free) >= first.request.devices and moves and (best is None or len(moves) < len(best)):
            best = moves
    return best or []
