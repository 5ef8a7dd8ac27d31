"""How long sessions wait, and what the pool is used for, under the rules of fair use and under plainer ones.

A made trace of sessions is replayed over a pool that does not exist, by the very functions that the service asks
(``lifecycle/fairness.py``, ``lifecycle/placement.py``). Nothing is measured on hardware: the figures are of the rules.

    python benchmarks/scheduling.py [--quick] [--json] [--sessions N] [--nodes N]

Shaped by published figures:

- devices of a session (1: 70 %, 2: 10 %, 4: 15 %, 8: 5 %) and the time for which it computes (80 %: 10^U(1.5, 3)
  minutes, 20 %: 10^U(3, 4) minutes): the generator of Gavel (Narayanan et al., OSDI 2020), which follows Microsoft's
  Philly trace (Jeon et al., ATC 2019);
- how much of its time a session idles between its cells (49 % of short ones, 25 % of those above 24 hours; 37 %
  between, which is ours): affinode's analysis of the same trace (93,451 jobs, idle where all GPUs of a job are at 0 %).

- nodes with 8 devices and nodes with 2, as in the Philly clusters; that one in four has 8 is ours.

Ours, as no trace tells it: users (200, of whom the busiest has most sessions, by 1/rank), priorities (1: 20 %, 0: 60 %,
-1: 20 %), stretches of computing of 2 hours on average, 20 s to park and 20 s to come back, and an offered load of 1.2
times the pool. While somebody waits, the rules are asked every 15 minutes only, which is how exact waits are.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hardware import describe

from jupyter_gpuaas.lifecycle.fairness import Asking, Holding, Outlook, Pool, Standing, push_out, serve
from jupyter_gpuaas.lifecycle.placement import Idle, Placement, Waiting, place, whom_to_park
from jupyter_gpuaas.lifecycle.room import Used, free, hold, used_of
from jupyter_gpuaas.model import Device, Lease, Node, NodeState, ResourceRequest

#: Devices of the nodes, by turns.
DEVICES = (8, 2, 2, 2)
TICK_S = 900.0  # how often the rules are asked while somebody waits: the service does each second
PARK_FOR_WAITING_S = 30.0
PATIENCE_S = 30.0
MOVE_S = 20.0
STRETCH_S = 2 * 3600.0
LOAD = 1.2
PARKS_A_TICK = 24
HALF_LIFE_S = 86400.0


@dataclass
class Session:
    """One session of the trace, and what has become of it."""

    id: str
    owner: str
    request: ResourceRequest
    arrives_s: float
    #: Seconds of computing and of idling, by turns.
    stretches: list[float]
    at: int = 0
    begun_s: float = -1.0
    wait_s: float = 0.0
    asks_since_s: float = 0.0
    woken_waits_s: list[float] = field(default_factory=list)
    lease: Lease | None = None
    #: When what it does now ends, and since when it does it.
    until_s: float = 0.0
    since_s: float = 0.0
    held_s: float = 0.0
    held_since_s: float = 0.0
    parks: int = 0
    #: The node that it was on last, and how often it came back on another one.
    node_id: str = ""
    moves: int = 0
    #: Counts its changes, so that an old entry of the calendar is known for one.
    number: int = 0

    @property
    def idles(self) -> bool:
        return self.at % 2 == 1

    def wanted_s(self, until_s: float) -> float:
        """Device-seconds that it would have had by a time, had it never waited."""
        return self.request.devices * max(0.0, min(until_s - self.arrives_s, sum(self.stretches)))


def trace(count: int, nodes: int, seed: int) -> list[Session]:
    """The sessions, in the order in which they come."""
    rng = random.Random(seed)
    made = []
    users = [f"user{number}" for number in range(200)]
    weights = [1 / (rank + 1) for rank in range(len(users))]
    for number in range(count):
        long = rng.random() >= 0.8
        computes_s = 60 * 10 ** (rng.uniform(3, 4) if long else rng.uniform(1.5, 3))
        idle = 0.49 if computes_s < 6 * 3600 else 0.25 if computes_s > 24 * 3600 else 0.37
        stretches: list[float] = []
        left_s = computes_s
        while left_s > 0:
            one_s = min(left_s, rng.expovariate(1 / STRETCH_S))
            stretches.append(one_s)
            left_s -= one_s
            if left_s > 0:
                stretches.append(one_s * idle / (1 - idle))
        request = ResourceRequest(
            devices=rng.choices((1, 2, 4, 8), (70, 10, 15, 5))[0], priority=rng.choices((1, 0, -1), (20, 60, 20))[0]
        )
        owner = rng.choices(users, weights)[0]
        made.append(Session(f"s{number:05}", owner, request, 0.0, stretches))
    capacity = sum(DEVICES[number % len(DEVICES)] for number in range(nodes))
    moments = [rng.random() for _ in made]
    low_s, high_s = 0.0, 365 * 86400.0
    while high_s - low_s > 60:
        # What could be used within the window, had nobody to wait; a longer window has less of it in an hour.
        window_s = (low_s + high_s) / 2
        for each, moment in zip(made, moments, strict=True):
            each.arrives_s = moment * window_s
        offered = sum(each.wanted_s(window_s) for each in made) / (capacity * window_s)
        low_s, high_s = (window_s, high_s) if offered > LOAD else (low_s, window_s)
    return sorted(made, key=lambda each: each.arrives_s)


Rule = Callable[["Simulation"], Outlook]


class Simulation:
    """The pool, and a calendar of what happens."""

    def __init__(self, sessions: Sequence[Session], nodes: int, rule: Rule, *, parks: bool) -> None:
        self.sessions = {each.id: dataclasses.replace(each, woken_waits_s=[]) for each in sessions}
        devices = tuple(Device(f"cuda:{number}", "cuda", "GPU", 1) for number in range(max(DEVICES)))
        self.nodes = [
            Node(f"n{number:04}", NodeState.UP, devices[: DEVICES[number % len(DEVICES)]]) for number in range(nodes)
        ]
        self.rule = rule
        self.parks = parks
        self.now_s = 0.0
        self.end_s = sessions[-1].arrives_s
        self.waiting: dict[str, Session] = {}
        self.holding: dict[str, Session] = {}
        self.remembered: dict[str, tuple[float, float]] = {}
        self.computed_s = 0.0
        self.held_s = 0.0
        self.got: dict[str, float] = {}
        self._calendar: list[tuple[float, int, str, int]] = []
        self._turn = 0
        self._asked_s = -TICK_S

    def run(self) -> None:
        """Until all have begun, and the window is over."""
        for each in self.sessions.values():
            self._note(each.arrives_s, each)
        left = len(self.sessions)
        while self._calendar and (left or self.now_s < self.end_s):
            at_s = self._calendar[0][0]
            if self.waiting and at_s > self._asked_s + TICK_S:
                self.now_s = self._asked_s + TICK_S
                left -= self._ask()
                continue
            self.now_s, _, session_id, number = heapq.heappop(self._calendar)
            session = self.sessions[session_id]
            if number == session.number:
                was_idle = not self.waiting
                self._happens(session)
                if was_idle and self.waiting:
                    left -= self._ask()

    def _note(self, at_s: float, session: Session) -> None:
        self._turn += 1
        heapq.heappush(self._calendar, (at_s, self._turn, session.id, session.number))

    def _happens(self, session: Session) -> None:
        if session.lease is None:
            session.asks_since_s = self.now_s
            self.waiting[session.id] = session
            return
        self._count(session)
        session.at += 1
        if session.at >= len(session.stretches):
            self._free(session)
            session.number += 1
            return
        self._go_on(session, session.stretches[session.at])

    def _go_on(self, session: Session, length_s: float) -> None:
        session.number += 1
        session.since_s, session.until_s = self.now_s, self.now_s + length_s
        self._note(session.until_s, session)

    def _count(self, session: Session) -> None:
        """What the stretch that ends now was used for, as far as it is in the window."""
        devices = session.request.devices
        spent_s = max(0.0, min(self.now_s, self.end_s) - session.since_s)
        if not session.idles:
            self.computed_s += devices * spent_s

    def _free(self, session: Session) -> None:
        spent_s = session.request.devices * (self.now_s - session.held_since_s)
        in_window_s = session.request.devices * max(0.0, min(self.now_s, self.end_s) - session.held_since_s)
        self.held_s += in_window_s
        self.got[session.owner] = self.got.get(session.owner, 0.0) + in_window_s
        before_s, at_s = self.remembered.get(session.owner, (0.0, self.now_s))
        self.remembered[session.owner] = (before_s * 0.5 ** ((self.now_s - at_s) / HALF_LIFE_S) + spent_s, self.now_s)
        session.lease = None
        del self.holding[session.id]

    def _park(self, session: Session) -> None:
        """Its devices are free when it is in the store; it asks again at its next cell."""
        self._count(session)
        left_s = session.until_s - self.now_s
        session.parks += 1
        if not session.idles:  # a cell that was about to end
            self.computed_s += session.request.devices * left_s
            session.at += 1
            left_s = session.stretches[session.at] if session.at < len(session.stretches) else 0.0
        self._free(session)
        session.number += 1
        if session.at >= len(session.stretches):
            return
        session.at += 1
        self._note(self.now_s + max(left_s, MOVE_S), session)

    def _ask(self) -> int:
        """Serve who can be served, and make room; how many have begun."""
        self._asked_s = self.now_s
        begun = self._serve()
        if self.parks and self.waiting and self._make_room():
            begun += self._serve()
        return begun

    def _serve(self) -> int:
        begun = 0
        outlook = self.rule(self)
        for placed in outlook.placements:
            session = self.waiting.pop(placed.session_id)
            session.lease = Lease(session.id, session.id, placed.node_id, placed.device_ids, 1)
            session.moves += session.node_id not in ("", placed.node_id)
            session.node_id = placed.node_id
            session.held_since_s = self.now_s
            self.holding[session.id] = session
            waited_s = self.now_s - session.asks_since_s
            if session.begun_s < 0:
                session.begun_s, session.wait_s = self.now_s, waited_s
                begun += 1
                self._go_on(session, session.stretches[0])
            else:
                session.woken_waits_s.append(waited_s)
                self._go_on(session, session.stretches[session.at] + MOVE_S)
        self.order = outlook.waiting
        return begun

    def _make_room(self) -> bool:
        parked = False
        idle = {
            each.id: Idle(each.id, each.lease, self.now_s - each.since_s)
            for each in self.holding.values()
            if each.idles and each.lease is not None
        }
        taken = self.taken()
        for session_id in self.order[:PARKS_A_TICK]:
            request = self.waiting[session_id].request
            found = whom_to_park(
                [Waiting(session_id, request)],
                list(idle.values()),
                self.nodes,
                taken,
                idle_s=0.0,
                waiting_s=PARK_FOR_WAITING_S,
            )
            if not found and self._lower(request.priority):
                out = push_out(_asking(self.waiting[session_id]), self.pool())
                found = [each for each in out if each[0] in self.holding]
            for each, _ in found:
                idle.pop(each, None)
                lease = self.holding[each].lease
                assert lease is not None
                free(taken[lease.node_id], lease)
                self._park(self.holding[each])
                parked = True
        return parked

    def _lower(self, priority: int) -> bool:
        """Whether the rules could find somebody of lower priority who was not found idle already."""
        return any(
            each.request.priority < priority and each.until_s - self.now_s <= PATIENCE_S
            if not each.idles
            else each.request.priority < priority and self.now_s - each.since_s < PARK_FOR_WAITING_S
            for each in self.holding.values()
        )

    def pool(self) -> Pool:
        """As the service would put it."""
        holdings = []
        for each in self.holding.values():
            assert each.lease is not None
            soon = each.until_s - self.now_s <= PATIENCE_S
            holdings.append(
                Holding(
                    session_id=each.id,
                    owner=each.owner,
                    node_id=each.lease.node_id,
                    device_ids=each.lease.device_ids,
                    priority=each.request.priority,
                    parkable=each.idles or soon,
                    idle_s=self.now_s - each.since_s if each.idles else 0.0,
                )
            )
        standings = {}
        for owner in {each.owner for each in self.waiting.values()}:
            used_s, at_s = self.remembered.get(owner, (0.0, self.now_s))
            standings[owner] = Standing(remembered_s=used_s * 0.5 ** ((self.now_s - at_s) / HALF_LIFE_S))
        return Pool(nodes=self.nodes, holdings=holdings, standings=standings)

    def taken(self) -> Used:
        """Devices that are held, by node."""
        return used_of(each.lease for each in self.holding.values() if each.lease is not None)

    def close(self) -> None:
        """Count what is held at the end."""
        for each in list(self.holding.values()):
            self._count(each)
            self._free(each)


def _asking(session: Session) -> Asking:
    return Asking(session_id=session.id, owner=session.owner, request=session.request)


def fifo(simulation: Simulation) -> Outlook:
    """First come, first served: whoever does not fit holds up all behind him."""
    queue = [Waiting(each.id, each.request) for each in simulation.waiting.values()]
    found = place(queue, simulation.nodes, simulation.taken())
    return Outlook(placements=tuple(found), waiting=())


def first_fit(simulation: Simulation) -> Outlook:
    """A first-come queue for each number of devices, none of which waits for another (as Ray's scheduling classes)."""
    taken, found = simulation.taken(), list[Placement]()
    lines: dict[int, list[Waiting]] = {}
    for each in simulation.waiting.values():
        lines.setdefault(each.request.devices, []).append(Waiting(each.id, each.request))
    for _, line in sorted(lines.items()):
        for placed in place(line, simulation.nodes, taken):
            hold(taken.setdefault(placed.node_id, {}), placed)
            found.append(placed)
    return Outlook(placements=tuple(found), waiting=())


def fair(simulation: Simulation) -> Outlook:
    """The rules of this service; emptiest node first."""
    return serve([_asking(each) for each in simulation.waiting.values()], simulation.pool())


def fair_packed(simulation: Simulation) -> Outlook:
    """The same; fullest node first."""
    pool = simulation.pool()
    pool = Pool(nodes=pool.nodes, holdings=pool.holdings, standings=pool.standings, pack=True)
    return serve([_asking(each) for each in simulation.waiting.values()], pool)


RULES: dict[str, tuple[Rule, bool]] = {
    "FIFO": (fifo, False),
    "FIFO a size": (first_fit, False),
    "fair, no parking": (fair, False),
    "fair": (fair, True),
    "fair, packed": (fair_packed, True),
}


def percentile(values: Sequence[float], share: float) -> float:
    """Of the values, in hours."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 3600 if ordered else 0.0


def figures(simulation: Simulation) -> dict[str, object]:
    """What one run gave."""
    sessions = list(simulation.sessions.values())
    waits = [each.wait_s for each in sessions]
    woken = [wait_s for each in sessions for wait_s in each.woken_waits_s]
    capacity_s = sum(len(node.devices) for node in simulation.nodes) * simulation.end_s
    wanted: dict[str, float] = {}
    for each in sessions:
        wanted[each.owner] = wanted.get(each.owner, 0.0) + each.wanted_s(simulation.end_s)
    shares = [simulation.got.get(owner, 0.0) / amount for owner, amount in wanted.items() if amount]
    jain = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
    return {
        "wait_mean_h": sum(waits) / len(waits) / 3600,
        "wait_p50_h": percentile(waits, 0.5),
        "wait_p95_h": percentile(waits, 0.95),
        "wait_p99_h": percentile(waits, 0.99),
        "wait_p95_high_h": percentile([each.wait_s for each in sessions if each.request.priority > 0], 0.95),
        "wait_p95_low_h": percentile([each.wait_s for each in sessions if each.request.priority < 0], 0.95),
        "wait_p95_8_devices_h": percentile([each.wait_s for each in sessions if each.request.devices == 8], 0.95),
        "woken_wait_p50_h": percentile(woken, 0.5),
        "woken_wait_p95_h": percentile(woken, 0.95),
        "held": simulation.held_s / capacity_s,
        "computing": simulation.computed_s / capacity_s,
        "fairness": jain,
        "parkings": sum(each.parks for each in sessions),
        "moves": sum(each.moves for each in sessions),
    }


LINES = (
    ("wait_mean_h", "wait for the first device, mean, h", "{:.2f}"),
    ("wait_p50_h", "the same, median", "{:.2f}"),
    ("wait_p95_h", "the same, p95", "{:.2f}"),
    ("wait_p99_h", "the same, p99", "{:.2f}"),
    ("wait_p95_high_h", "p95 of high priority", "{:.2f}"),
    ("wait_p95_low_h", "p95 of low priority", "{:.2f}"),
    ("wait_p95_8_devices_h", "p95 of those with 8 devices", "{:.2f}"),
    ("woken_wait_p50_h", "wait of a parked one's next cell, median, h", "{:.2f}"),
    ("woken_wait_p95_h", "the same, p95", "{:.2f}"),
    ("held", "devices held, share of the pool", "{:.3f}"),
    ("computing", "devices that compute, share of the pool", "{:.3f}"),
    ("fairness", "fairness between users (Jain)", "{:.3f}"),
    ("parkings", "parkings", "{:,}"),
    ("moves", "of these, back on another node", "{:,}"),
)


def table(results: dict[str, dict[str, object]]) -> Iterator[str]:
    """The figures side by side."""
    rows = [
        ["", *results],
        *([words, *(form.format(each[key]) for each in results.values())] for key, words, form in LINES),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def main() -> None:
    """Replay the trace under each rule."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rule", action="append", choices=RULES, help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="300 sessions over 30 nodes")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    count, nodes = (300, 30) if given.quick else (given.sessions, given.nodes)
    sessions = trace(count, nodes, given.seed)
    results: dict[str, dict[str, object]] = {}
    for name in given.rule or RULES:
        rule, parks = RULES[name]
        simulation, begun_s = Simulation(sessions, nodes, rule, parks=parks), time.perf_counter()
        simulation.run()
        simulation.close()
        results[name] = figures(simulation) | {"simulated_in_s": round(time.perf_counter() - begun_s, 1)}
    about = {
        "sessions": count,
        "nodes": nodes,
        "devices": sum(DEVICES[number % len(DEVICES)] for number in range(nodes)),
        "users": len({each.owner for each in sessions}),
        "arrivals_h": sessions[-1].arrives_s / 3600,
        "offered_load": LOAD,
        "seed": given.seed,
    }
    if given.json:
        print(json.dumps({"about": about, "hardware": describe(), "results": results}, indent=2))
        return
    print(
        ", ".join(
            f"{key}: {value:,.4g}" if isinstance(value, float) else f"{key}: {value}" for key, value in about.items()
        )
    )
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
