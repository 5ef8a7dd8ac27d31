"""Who gets which devices next: first come, first served, devices exclusive. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..model import CUDA, Device, Node, NodeState, ResourceRequest


class Waiting(msgspec.Struct, frozen=True):
    """One session in the queue."""

    session_id: str
    request: ResourceRequest


class Placement(msgspec.Struct, frozen=True):
    """Devices for one session."""

    session_id: str
    node_id: str
    device_ids: tuple[str, ...]


Taken = Mapping[str, frozenset[str]]  # node id -> ids of its leased devices


def fitting(request: ResourceRequest, node: Node) -> list[Device]:
    """Devices of the node that would do, leased or not, best first: accelerators, then the least memory."""
    if request.node is not None and request.node != node.id:
        return []
    found = [
        device
        for device in node.devices
        if (request.kind is None or device.kind == request.kind) and device.memory_bytes >= request.memory_bytes
    ]
    return sorted(found, key=lambda device: (device.kind != CUDA, device.memory_bytes, device.id))


def why_never(request: ResourceRequest, nodes: Sequence[Node]) -> str:
    """Reason why no node of the pool could ever serve the request; empty where one could."""
    if request.devices < 1:
        return f"request.devices: {request.devices} is not at least 1"
    if request.node is not None and all(node.id != request.node for node in nodes):
        known = ", ".join(node.id for node in nodes) or "none"
        return f"request.node: there is no node {request.node!r} (nodes: {known})"
    most = max((len(fitting(request, node)) for node in nodes), default=0)
    if most >= request.devices:
        return ""
    wanted = request.kind or "any kind"
    return (
        f"request.devices: {request.devices} of {wanted} with {request.memory_bytes} bytes on one node, "
        f"but no node has more than {most}"
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
    """Serve the queue in order and stop at the first that must wait, so that nobody is overtaken.

    The emptiest node is taken first, so that sessions spread over the pool.
    """
    used = {node.id: set(taken.get(node.id, ())) for node in nodes}
    placements: list[Placement] = []
    for waiting in queue:
        best: tuple[int, str, tuple[str, ...]] | None = None
        for node in nodes:
            if node.state is not NodeState.UP:
                continue
            free = [device for device in fitting(waiting.request, node) if device.id not in used[node.id]]
            if len(free) < waiting.request.devices:
                continue
            chosen = tuple(device.id for device in free[: waiting.request.devices])
            candidate = (len(used[node.id]), node.id, chosen)
            best = candidate if best is None else min(best, candidate)
        if best is None:
            break
        _, node_id, device_ids = best
        used[node_id].update(device_ids)
        placements.append(Placement(waiting.session_id, node_id, device_ids))
    return placements
