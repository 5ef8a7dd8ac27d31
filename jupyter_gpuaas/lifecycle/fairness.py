"""Who of those who wait is served next, and who makes room for whom. Pure.

In this order:

1. A session whose owner has a reservation that runs and is not used up.
2. Higher priority.
3. Within a priority, the user who has used least, measured by the share that the user has a right to. What was used
   long ago counts less, and what is held now counts as if it went on for ``HORIZON_S``.
4. Who came first.

A session that would take its owner beyond a quota waits aside and keeps nobody else waiting. Nobody is overtaken for
the devices that he waits for: one who wants several devices of a node claims the node that will soonest have them, and
those behind him get what is free on the others. Nor does anybody behind him get the rest of a device of which he could
have had the whole, or a larger part, in time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product

import msgspec

from ..model import Device, Lease, Limits, Node, NodeState, Reservation, ResourceRequest
from .placement import Placement, can_go_to, fitting, suitable
from .room import ATOM, amount, free, opens, room, used_of, who_goes

#: For how long what is held now is expected to be held.
HORIZON_S = 3600.0
#: Nodes that are kept free for those who want several devices of one node.
CLAIMS = 16
#: What counts as priority of a session that has a reservation: above all that can be asked for.
RESERVED = 1000


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """A session that waits for devices."""

    session_id: str
    owner: str
    request: ResourceRequest
    #: What its host had, which is there still, without devices: see ``suitable``.
    kept: Lease | None = None


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that are held, by a session or for one (its standby, the target of its move), or by others than us."""

    session_id: str
    owner: str
    node_id: str
    device_ids: tuple[str, ...]
    priority: int = 0
    #: Whether the session could be parked now.
    parkable: bool = False
    #: For how long it has run no cell; 0 while it runs one.
    idle_s: float = 0.0
    #: How much of each device.
    share: float = 1.0
    #: For a standby, which gives way to whoever wants a device: it keeps no other session of its owner waiting.
    standby: bool = False
    #: Others than our sessions have it: when they give it back, nobody can tell.
    foreign: bool = False


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a user stands."""

    #: With the settings' words filled in.
    limits: Limits = Limits()
    #: Device-seconds within the window of the quota.
    used_s: float = 0.0
    #: Device-seconds, of which those of long ago count less.
    remembered_s: float = 0.0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """What there is, who holds it, and by which rules it is given."""

    nodes: Sequence[Node]
    holdings: Sequence[Holding]
    standings: Mapping[str, Standing] = msgspec.field(default_factory=dict)
    #: Those that run now.
    reservations: Sequence[Reservation] = ()
    #: The fullest node that has room, not the emptiest: leaves room for who wants many devices of one node.
    pack: bool = False


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of those who wait."""

    placements: tuple[Placement, ...] = ()
    #: Ids of those who go on waiting, in the order in which they are served.
    waiting: tuple[str, ...] = ()
    #: Why some of these are not served although there may be room.
    why: Mapping[str, str] = msgspec.field(default_factory=dict)
    #: What those of these wait for who have reserved it: of what they ask for, that which is reserved.
    wants: Mapping[str, ResourceRequest] = msgspec.field(default_factory=dict)


def beyond_quota(owner: str, standing: Standing, *, held: float, more: float) -> str:
    """The quota beyond which more devices would take an owner who holds so many, and its use; else empty."""
    limits = standing.limits
    if limits.devices is not None and held + more > limits.devices + ATOM:
        return f"quota devices: {owner} holds {held:g} of {limits.devices}, and {more:g} more are wanted"
    if limits.device_hours is not None and standing.used_s >= limits.device_hours * 3600.0:
        return f"quota device_hours: {owner} has used {standing.used_s / 3600:.2f} of {limits.device_hours:g}"
    return ""


def serve(asking: Iterable[Asking], pool: Pool) -> Outlook:
    """Who gets which devices now, and in which order the others wait.

    Parameters
    ----------
    asking
        In the order in which they came.
    """
    space = _Room(pool)
    queue = _Queue(asking, pool, space)
    placements: list[Placement] = []
    waiting: list[str] = []
    why: dict[str, str] = {}
    wants: dict[str, ResourceRequest] = {}
    aside: list[str] = []
    while (each := queue.next()) is not None:
        request, standing = each.request, pool.standings.get(each.owner, Standing())
        beyond = beyond_quota(each.owner, standing, held=space.held(each.owner), more=amount(request))
        if beyond:
            why[each.session_id] = beyond
            aside.append(each.session_id)
            continue
        found, reason = space.find(each)
        if found is None:
            waiting.append(each.session_id)
            if reason:
                why[each.session_id] = reason
            if claims := space.claims(each):
                wants[each.session_id] = claims[0]
            continue
        space.take(each.owner, found)
        queue.served(each)
        placements.append(found)
    return Outlook(placements=tuple(placements), waiting=(*waiting, *aside), why=why, wants=wants)


def push_out(first: Asking, pool: Pool) -> list[tuple[str, str]]:
    """Sessions to park so that the first of those who wait is served, each with the reason; as few as that takes.

    Only those of lower priority, the lowest first, of these the longest idle, and those that run a cell last.
    """
    space = _Room(pool)
    claims = space.claims(first)
    mine = RESERVED if claims else first.request.priority
    kept = space.kept(first.owner, reserves=bool(claims))
    ranks = space.ranks()
    best: list[Holding] = []
    best_cost: tuple[int, int, int, float] | None = None
    by_node: dict[str, list[Holding]] = {}
    for number, each in enumerate(pool.holdings):
        if each.parkable and ranks[number] < mine:
            by_node.setdefault(each.node_id, []).append(each)
    for lower in by_node.values():
        lower.sort(key=lambda each: (each.priority, each.idle_s == 0.0, -each.idle_s, each.session_id))
    for request, node in product(claims or [first.request], pool.nodes):
        if node.id not in by_node or not can_go_to(request, first.kept, node):
            continue
        fits, used = suitable(request, first.kept, node), space.used(node)
        chosen = who_goes(request, fits, used, by_node[node.id], lambda each: each)
        # What they leave must be for this one, and not for another's reservation.
        if not chosen or not space.would_serve(request, fits, node, chosen, kept, reserves=bool(claims)):
            continue
        busy = sum(each.idle_s == 0.0 for each in chosen)
        idle_s = min(each.idle_s for each in chosen)
        cost = (max(each.priority for each in chosen), busy, len(chosen), -idle_s)
        if best_cost is None or cost < best_cost:
            best, best_cost = chosen, cost
    claim = "with a reservation" if claims else f"of priority {mine}"
    return [(each.session_id, f"makes room for a session {claim} (its own is {each.priority})") for each in best]


def make_room(waiting: Iterable[Asking], pool: Pool) -> list[tuple[str, str]]:
    """As ``push_out``, for the first of those who wait whom it helps.

    Nobody behind one has room made on a node that it could go to.
    """
    nodes = list(pool.nodes)
    for each in waiting:
        out = push_out(each, msgspec.structs.replace(pool, nodes=nodes))
        nodes = [node for node in nodes if not can_go_to(each.request, each.kept, node)]
        if out or not nodes:
            return out
    return []


class _Room:
    """Free devices, and what is kept of them for whom."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._used = used_of(pool.holdings)
        self._held: dict[str, float] = {}
        #: By node, what others than our sessions have.
        self._foreign: dict[str, set[str]] = {}
        for each in pool.holdings:
            if each.foreign:
                self._foreign.setdefault(each.node_id, set()).update(each.device_ids)
            if each.foreign or each.standby:
                continue
            self._held[each.owner] = self._held.get(each.owner, 0.0) + len(each.device_ids) * each.share
        nothing: dict[str, float] = {}
        #: Devices of which a part is held, and how much.
        self._parts: dict[str, dict[str, float]] = {}
        self._free: dict[str, list[Device]] = {}
        for node in pool.nodes:
            if node.state is NodeState.UP:
                taken = self._used.get(node.id, nothing)
                self._free[node.id] = [device for device in node.devices if device.id not in taken]
                parts = {device_id: part for device_id, part in taken.items() if part < 1 - ATOM}
                if parts:
                    self._parts[node.id] = parts
        self._nodes = {node.id: node for node in pool.nodes}
        #: Nodes that somebody further to the front waits for.
        self._claimed: set[str] = set()
        #: Requests that nothing was found for; what is free only becomes less.
        self._hopeless: set[bytes] = set()
        #: What of each reservation is not in use yet.
        self._unused = {each.id: float(each.devices) for each in pool.reservations}
        #: By node, devices that are in use of a reservation: nobody is parked for others there.
        self._firm: dict[str, set[str]] = {}
        self._ranks = [self._rank(each) for each in pool.holdings] if pool.reservations else []

    def held(self, owner: str) -> float:
        return self._held.get(owner, 0.0)

    def used(self, node: Node) -> Mapping[str, float]:
        """What was held of a node's devices at first."""
        return self._used.get(node.id, {})

    # -- reservations ----------------------------------------------------------------------------------------

    def _rank(self, holding: Holding) -> int:
        """The priority of what is held, which uses up its owner's reservation, unless it is a standby's."""
        if holding.standby:
            return holding.priority
        reserved = self._use_up(holding.owner, holding.node_id, holding.device_ids, holding.share)
        return RESERVED if reserved else holding.priority

    def _use_up(self, owner: str, node_id: str, device_ids: Collection[str], share: float) -> bool:
        """Count what an owner holds as use of his reservation, if he has one that these devices would do for."""
        node = self._nodes.get(node_id)
        for each in self._pool.reservations:
            left = self._unused[each.id]
            if each.user != owner or left <= ATOM or node is None:
                continue
            count = sum(device.id in device_ids for device in fitting(_request(each), node))
            if count:
                self._unused[each.id] = max(0.0, left - count * share)
                self._firm.setdefault(node_id, set()).update(device_ids)
                return True
        return False

    def ranks(self) -> list[int]:
        return self._ranks or [each.priority for each in self._pool.holdings]

    def priority(self, asking: Asking) -> int:
        """The priority that counts."""
        return RESERVED if self.claims(asking) else asking.request.priority

    def claims(self, asking: Asking) -> list[ResourceRequest]:
        """What is asked for, narrowed to what is reserved for its owner and not used up; empty where nothing is.

        A reservation of one node or kind gives no right to others.
        """
        found = []
        for each in self._pool.reservations:
            if each.user == asking.owner and self._unused[each.id] >= amount(asking.request) - ATOM:
                within = _within(asking.request, each)
                if within is not None and any(
                    len(suitable(within, asking.kept, self._nodes[node_id])) >= within.devices for node_id in self._free
                ):
                    found.append(within)
        return found

    def kept(self, owner: str, *, reserves: bool) -> list[tuple[Reservation, int]]:
        """What others have reserved and do not use yet, and how many more than that there are for it.

        Parameters
        ----------
        reserves
            Whether the owner asks by a reservation, too. Then these are not only those that are free: whoever has the
            others without a reservation is parked for it. Else two reservations would wait for each other.
        """
        found = []
        for each in self._pool.reservations:
            unused = math.ceil(self._unused[each.id] - ATOM)
            if each.user != owner and unused:
                there = sum(self._there(_request(each), node_id, reserves) for node_id in self._free)
                found.append((each, there - unused))
        return found

    def _there(self, request: ResourceRequest, node_id: str, reserves: bool) -> int:
        if not reserves:
            return len(self._fits(request, node_id))
        firm = self._firm.get(node_id, ())
        return sum(device.id not in firm for device in fitting(request, self._nodes[node_id]))

    def would_serve(
        self,
        request: ResourceRequest,
        fits: Sequence[Device],
        node: Node,
        going: Iterable[Holding],
        kept: Sequence[tuple[Reservation, int]],
        *,
        reserves: bool,
    ) -> bool:
        """Whether a request is served by a node that these have left.

        Parameters
        ----------
        fits
            Those of its devices that would do.
        kept, reserves
            As in ``kept``.
        """
        before, used = self.used(node), dict(self.used(node))
        for each in going:
            free(used, each)
        chosen = room(request, fits, used)
        if chosen is None:
            return False
        if not opens(request, chosen, used) and request.share < 1:
            return True  # nobody else could have had the device as a whole
        those = [device for device in node.devices if device.id in chosen]
        freed = [device for device in node.devices if device.id in before and device.id not in used]
        for other, spare in kept:
            more = 0 if reserves else _touch(other, freed, node.id)
            if _touch(other, those, node.id) > max(0, spare + more):
                return False
        return True

    # -- devices ---------------------------------------------------------------------------------------------

    def _fits(self, request: ResourceRequest, node_id: str, there: Lease | None = None) -> list[Device]:
        """Devices that are free and would do; ``there`` is what a host on a node had."""
        free = self._free[node_id]
        if request.node not in (None, node_id) or not free:
            return []
        plain = request.kind is None and not request.memory_bytes and not request.labels and not request.avoid
        if plain and there is None and len({(each.kind, each.memory_bytes) for each in free}) == 1:
            return free
        node = self._nodes[node_id]
        ids = {device.id for device in free}
        return [device for device in suitable(request, there, node) if device.id in ids]

    def find(self, asking: Asking) -> tuple[Placement | None, str]:
        """Devices for a session, or why there are none."""
        claims = self.claims(asking)
        if not claims:
            return self._find(asking, asking.request, reserves=False)
        for request in claims:
            found, _ = self._find(asking, request, reserves=True)
            if found is not None:
                return found, ""
        return None, ""  # it waits for others to go, not for what is free

    def _find(self, asking: Asking, request: ResourceRequest, *, reserves: bool) -> tuple[Placement | None, str]:
        if request.share < 1 and (part := self._part(request, asking.kept)) is not None:
            return Placement(asking.session_id, part[0], (part[1],), request.share), ""
        plain = msgspec.structs.replace(request, priority=0, standby=0, on_node_loss="")
        shape = msgspec.msgpack.encode((plain, asking.kept))
        if shape in self._hopeless:
            return None, ""
        kept = self.kept(asking.owner, reserves=reserves) if self._pool.reservations else []
        best: tuple[int, str] | None = None
        chosen: list[Device] = []
        reason = ""
        for node_id in self._free if request.node is None else (request.node,):
            if node_id not in self._free or node_id in self._claimed:
                continue
            count = len(self._free[node_id])
            rank = count if self._pool.pack else -count
            if count < request.devices or (best is not None and (rank, node_id) >= best):
                continue
            free = self._fits(request, node_id, asking.kept)
            if len(free) < request.devices:
                continue
            those = free[: request.devices]
            keeper = next((each for each, spare in kept if _touch(each, those, node_id) > max(0, spare)), None)
            if keeper is not None:
                reason = f"what is free is reserved for {keeper.user}"
                continue
            best, chosen = (rank, node_id), those
        if best is None:
            if not reason:
                self._hopeless.add(shape)
            self._claim(request, asking.kept)
            self._close_parts(request, asking.kept)
            return None, reason
        return Placement(asking.session_id, best[1], tuple(device.id for device in chosen), request.share), ""

    def _part(self, request: ResourceRequest, there: Lease | None) -> tuple[str, str] | None:
        """A device that is held in part already, with room for a part more: the fullest one."""
        best: tuple[float, str, str] | None = None
        for node_id, parts in self._parts.items():
            if request.node not in (None, node_id) or node_id in self._claimed:
                continue
            for device in suitable(request, there, self._nodes[node_id]):
                part = parts.get(device.id, 1.0)
                if part + request.share <= 1 + ATOM and (best is None or (-part, node_id, device.id) < best):
                    best = -part, node_id, device.id
        return None if best is None else best[1:]

    def _close_parts(self, request: ResourceRequest, there: Lease | None) -> None:
        """What is left of devices that one waits for goes to nobody behind him."""
        for node_id, parts in self._parts.items():
            for device in suitable(request, there, self._nodes[node_id]):
                parts.pop(device.id, None)

    def _claim(self, request: ResourceRequest, there: Lease | None) -> None:
        if request.devices < 2 or len(self._claimed) >= CLAIMS:
            return
        best: tuple[int, str] | None = None
        for node_id in self._free:
            if node_id in self._claimed:
                continue
            foreign = self._foreign.get(node_id, ())
            could = sum(device.id not in foreign for device in suitable(request, there, self._nodes[node_id]))
            if could < request.devices:
                continue
            candidate = (-len(self._fits(request, node_id, there)), node_id)
            best = candidate if best is None else min(best, candidate)
        if best is None:
            return
        node_id = best[1]
        only = {device.id for device in suitable(request, there, self._nodes[node_id])}
        if len(only) == request.devices:
            # It wants these and no others, so the rest of the node is for those behind it.
            self._free[node_id] = [device for device in self._free[node_id] if device.id not in only]
        else:
            self._claimed.add(node_id)

    def take(self, owner: str, placement: Placement) -> None:
        ids, share = set(placement.device_ids), placement.share
        if share < 1:
            parts = self._parts.setdefault(placement.node_id, {})
            for device_id in ids:
                parts[device_id] = parts.get(device_id, 0.0) + share
        self._free[placement.node_id] = [each for each in self._free[placement.node_id] if each.id not in ids]
        self._held[owner] = self.held(owner) + len(ids) * share
        self._use_up(owner, placement.node_id, ids, share)


class _Queue:
    """Those who ask, in the order of service; with each one served, his owner goes back."""

    def __init__(self, asking: Iterable[Asking], pool: Pool, room: _Room) -> None:
        self._pool = pool
        self._room = room
        self._lines: dict[str, list[tuple[int, int, int, Asking]]] = {}
        for number, each in enumerate(asking):
            # Of one owner's with a reservation, too, those of higher priority have it first.
            place = (-room.priority(each), -each.request.priority, number, each)
            self._lines.setdefault(each.owner, []).append(place)
        for line in self._lines.values():
            _sort(line)
        self._heap = [self._entry(owner) for owner in self._lines]
        heapq.heapify(self._heap)

    def _entry(self, owner: str) -> tuple[int, float, int, str]:
        priority, _, number, _ = self._lines[owner][-1]
        standing = self._pool.standings.get(owner, Standing())
        share = standing.limits.share or 1.0
        used_s = standing.remembered_s + HORIZON_S * self._room.held(owner)
        return priority, used_s / share, number, owner

    def next(self) -> Asking | None:
        while self._heap:
            owner = heapq.heappop(self._heap)[3]
            line = self._lines[owner]
            priority, own, number, found = line.pop()
            now = -self._room.priority(found)
            if now != priority:  # others have used up what was reserved
                line.append((now, own, number, found))
                _sort(line)
            if line:
                heapq.heappush(self._heap, self._entry(owner))
            if now == priority:
                return found
        return None

    def served(self, asking: Asking) -> None:
        """His owner holds more now."""
        for position, entry in enumerate(self._heap):
            if entry[3] == asking.owner:
                self._heap[position] = self._entry(asking.owner)
                heapq.heapify(self._heap)
                return


def _sort(line: list[tuple[int, int, int, Asking]]) -> None:
    """The first one last."""
    line.sort(key=lambda entry: entry[:3], reverse=True)


def _request(reservation: Reservation) -> ResourceRequest:
    return ResourceRequest(devices=reservation.devices, kind=reservation.kind, node=reservation.node)


def _within(request: ResourceRequest, reservation: Reservation) -> ResourceRequest | None:
    """The request for devices of a reservation, as far as that says which; None where it wants others."""
    kinds, nodes = {request.kind, reservation.kind} - {None}, {request.node, reservation.node} - {None}
    if len(kinds) > 1 or len(nodes) > 1:
        return None
    return msgspec.structs.replace(
        request, kind=request.kind or reservation.kind, node=request.node or reservation.node
    )


def _touch(reservation: Reservation, devices: Sequence[Device], node_id: str) -> int:
    """How many of these devices would do for a reservation."""
    if reservation.node not in (None, node_id):
        return 0
    return sum(reservation.kind in (None, device.kind) for device in devices)
