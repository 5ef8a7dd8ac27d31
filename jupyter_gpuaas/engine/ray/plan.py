"""Decisions of the Ray engine: which nodes are whose, what is free where, what to ask Ray for. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from jupyter_gpuaas.lifecycle.placement import Placement, Waiting, can_go_to, suitable
from jupyter_gpuaas.lifecycle.room import ATOM, Used, hold, opens, room, used_of
from jupyter_gpuaas.model import CUDA, Device, Lease, Node, NodeState, ResourceRequest

#: Label with which an operator names a node: `ray start --labels gpuaas.io/node=a`.
NAME_LABEL = "gpuaas.io/node"
#: Ray's own label of each node, by which a lease is brought to it.
RAY_NODE_LABEL = "ray.io/node-id"
LEASE_PREFIX = "lease-"

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")


class RayNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as Ray lists it."""

    ray_id: str
    alive: bool
    #: Address by which Ray knows it.
    address: str
    name: str
    gpus: float
    labels: dict[str, str] = msgspec.field(default_factory=dict)


def read_nodes(listed: Iterable[Mapping[str, Any]]) -> list[RayNode]:
    """Ray's list of nodes, those without a GPU and dead ones included."""
    found = []
    for each in listed:
        labels = dict(each.get("Labels") or {})
        address = str(each.get("NodeManagerAddress", ""))
        given = str(each.get("NodeName") or "")
        # Unless somebody gave it a name, that is its address, which says less than the machine's name.
        own = given if given and given != address else str(each.get("NodeManagerHostname") or address)
        found.append(
            RayNode(
                ray_id=str(each["NodeID"]),
                alive=bool(each.get("Alive")),
                address=address,
                name=_NOT_IN_IDS.sub("-", labels.get(NAME_LABEL) or own)[:48].strip("-") or "node",
                gpus=float((each.get("Resources") or {}).get("GPU", 0.0)),
                labels=labels,
            )
        )
    return found


def assign(
    known: Mapping[str, str], listed: Sequence[RayNode], replaced: frozenset[str] = frozenset()
) -> dict[str, RayNode]:
    """Our ids of the nodes that are there now and have GPUs.

    A raylet that was started again on its machine is a new node to Ray, and must be the old one to us: its agent and
    what that hosts are still there. Ray may take a while to see that the former raylet is gone.

    Parameters
    ----------
    known
        Our id -> id that Ray had for it, of all nodes that there ever were.
    replaced
        Ids in Ray of raylets in whose place others are.
    """
    alive = {node.ray_id: node for node in listed if node.alive and node.gpus > 0 and node.ray_id not in replaced}
    ours = {ray_id: name for name, ray_id in known.items()}
    found = {ours[ray_id]: node for ray_id, node in alive.items() if ray_id in ours}
    new: set[str] = set()
    for node in sorted(alive.values(), key=lambda each: each.ray_id):
        if node.ray_id in ours:
            continue
        name = node.name
        if name in found and (name in new or found[name].address != node.address):
            name = f"{node.name}-{node.ray_id[:8]}"  # of two machines, or both new
        found[name] = node
        new.add(name)
    return found


def state_of(*, in_ray: bool, answers: bool, silent: bool, cordoned: bool) -> NodeState:
    """A node's state.

    Parameters
    ----------
    in_ray
        Ray has it.
    answers
        Its agent does, as far as we see.
    silent
        Whoever keeps its lease says that it does not.
    cordoned
        It is to take no sessions, by request.
    """
    if silent or not answers:
        return NodeState.LOST
    # Without Ray nothing new comes there; what runs there goes on.
    return NodeState.CORDONED if cordoned or not in_ray else NodeState.UP


def usable(devices: Sequence[Device], gpus: float) -> tuple[Device, ...]:
    """Of a node's devices, those that Ray can hand out: an operator may give it fewer than there are."""
    return tuple(devices[: int(gpus)]) if gpus < len(devices) else tuple(devices)


def devices_of(ids: Sequence[str], devices: Sequence[Device]) -> tuple[str, ...]:
    """Our ids of the devices that Ray has handed out: by UUID as it comes (MIG slices too), else by number.

    Raises
    ------
    LookupError
        The node's agent has no such device.
    """
    found = []
    for each in ids:
        by_uuid = [d.id for d in devices if d.uuid and (d.uuid == each or (each.startswith("GPU-") and each in d.uuid))]
        by_number = [device.id for device in devices if device.id.partition(":")[2] == each]
        if not by_uuid and not by_number:
            raise LookupError(f"Ray has handed out GPU {each!r}, of which the agent of the node knows nothing")
        found.append((by_uuid or by_number)[0])
    return tuple(found)


def candidates(
    request: ResourceRequest,
    nodes: Sequence[Node],
    used: Used,
    unsettled: frozenset[str] = frozenset(),
    kept: Lease | None = None,
) -> list[str]:
    """Ids of the nodes that have room, as far as we know, the best first: as ``place`` has it.

    Parameters
    ----------
    unsettled
        Nodes where Ray does not know yet of all that is held.
    kept
        See ``LeaseMeta``.
    """
    found = []
    for node in nodes:
        if node.id in unsettled or not can_go_to(request, kept, node):
            continue
        on_node = used.get(node.id, {})
        devices = room(request, suitable(request, kept, node), on_node)
        if devices is not None:
            there = kept is not None and kept.node_id == node.id
            found.append((not there, opens(request, devices, on_node), sum(on_node.values()), node.id))
    return [each[-1] for each in sorted(found)]


def could_go(queue: Iterable[Waiting], nodes: Sequence[Node]) -> frozenset[str]:
    """Ids of the nodes that any of these could go to, whoever holds their devices now."""
    return frozenset(node.id for each in queue for node in nodes if can_go_to(each.request, each.kept, node))


def is_served(
    place: int,
    queue: Sequence[Waiting],
    nodes: Sequence[Node],
    held: Iterable[Lease],
    unsettled: frozenset[str] = frozenset(),
    stuck: Collection[int] = (),
) -> bool:
    """Whether there is room for the request at this place of the queue, behind all before it: as ``place`` has it.

    Parameters
    ----------
    stuck
        Places of those to whom Ray does not give what seems to be there.
    """
    used = used_of(held)
    closed: frozenset[str] = frozenset()
    for number, each in enumerate(queue[: place + 1]):
        there = [] if number in stuck else candidates(each.request, nodes, used, unsettled, each.kept)
        found = [node_id for node_id in there if node_id not in closed]
        if number == place:
            return bool(found)
        if not found:
            closed |= could_go([each], nodes)
            continue
        node = next(one for one in nodes if one.id == found[0])
        on_node = used.setdefault(node.id, {})
        chosen = room(each.request, suitable(each.request, each.kept, node), on_node)
        assert chosen is not None
        hold(on_node, Placement(each.session_id, node.id, chosen, each.request.share))
    return False


def does(request: ResourceRequest, kept: Lease | None, lease: Lease, nodes: Sequence[Node]) -> bool:
    """Whether what Ray has given are devices that the request is for: Ray knows only how many."""
    node = next((each for each in nodes if each.id == lease.node_id), None)
    return node is not None and {each.id for each in suitable(request, kept, node)}.issuperset(lease.device_ids)


def clashes(lease: Lease, held: Iterable[Lease]) -> bool:
    """Whether a lease has something that others hold: Ray did not know of them."""
    used = used_of(each for each in held if each.id != lease.id).get(lease.node_id, {})
    return any(used.get(device_id, 0.0) + lease.share > 1 + ATOM for device_id in lease.device_ids)


def gpus_of(request: ResourceRequest) -> float:
    """What Ray calls ``num_gpus``."""
    return request.share if request.share < 1 else float(request.devices)


def selector(ray_ids: Sequence[str]) -> dict[str, str]:
    """Ray's selector for these nodes."""
    return {RAY_NODE_LABEL: ray_ids[0] if len(ray_ids) == 1 else f"in({','.join(ray_ids)})"}


def demand(
    held: Iterable[Lease], waiting: Sequence[ResourceRequest], nodes: Sequence[Node]
) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """What Ray's autoscaler is asked for: bundles, and a selector of labels for each.

    It takes that for what the cluster should be able to hold in all, so what is held is part of it. Nothing waits that
    a new node could serve: nothing is asked for, and what is held keeps its nodes by itself.
    """
    kinds = {device.kind for node in nodes for device in node.devices}
    helped = [each for each in waiting if _could_help(each, kinds)]
    if not helped:
        return [], []
    bundles = [{"GPU": lease.share * len(lease.device_ids)} for lease in held]
    selectors: list[dict[str, str]] = [{} for _ in bundles]
    for request in helped:
        bundles.append({"GPU": gpus_of(request)})
        selectors.append(dict(request.labels))
    return bundles, selectors


def _could_help(request: ResourceRequest, kinds: Collection[str]) -> bool:
    """Whether a new node could serve a request, which is neither for one that is there nor for other than its GPUs."""
    return request.node is None and (request.kind in (None, CUDA) or request.kind in kinds)


def keepers_of(node_id: str, ray_id: str) -> str:
    """How the keepers of a node's agent are called, but for their ends: one a raylet, as a former one may be ending."""
    return f"agent-{node_id}-{ray_id[:12]}"


def keeper(node_id: str, ray_id: str, arguments: Sequence[Any], version: str) -> str:
    """The keeper that was made with these arguments by this version; it goes by them as long as it lives."""
    made_with = msgspec.json.encode([version, *arguments], order="deterministic")
    return f"{keepers_of(node_id, ray_id)}.{hashlib.blake2b(made_with, digest_size=6).hexdigest()}"


def in_the_clear(url: str) -> bool:
    """Whether what goes to this address can be read on its way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1")


def lease_of(actor: str) -> str:
    """The lease that a named actor holds; empty for other actors.

    An actor that holds it anew, as the first had got another device, is called the same with a number behind a dot.
    """
    return actor.removeprefix(LEASE_PREFIX).partition(".")[0] if actor.startswith(LEASE_PREFIX) else ""
