"""Whose turn on a device is over: case by case, and over long times, where nobody may be passed over."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.placement import Waiting, place
from jupyter_gpuaas.lifecycle.room import Used, used_of
from jupyter_gpuaas.lifecycle.turns import (
    SHORT_REST_S,
    Holds,
    Limits,
    Over,
    Waits,
    keeps_process,
    over,
    place_words,
    room_to_keep,
)
from jupyter_gpuaas.model import CPU, CUDA, Device, Lease, Node, NodeState, ResourceRequest

GIB = 1024**3
TURN_S, REST_S = 30.0, 60.0
LIMITS = Limits(TURN_S, REST_S)


def node(name: str, devices: int = 1, *, kind: str = CPU, state: NodeState = NodeState.UP) -> Node:
    made = tuple(Device(f"{kind}:{number}", kind, kind, GIB) for number in range(devices))
    return Node(name, state, made)


def lease(session: str, on: str = "a", *devices: str) -> Lease:
    return Lease(f"l-{session}", session, on, devices or ("cpu:0",), 1)


def holds(
    session: str, held_s: float, idle_s: float | None = None, *devices: str, on: str = "a", stuck: str = ""
) -> Holds:
    return Holds(session_id=session, lease=lease(session, on, *devices), held_s=held_s, idle_s=idle_s, stuck=stuck)


def waits(session: str, waited_s: float, **more: object) -> Waits:
    request = more.pop("request", ResourceRequest())
    return Waits(session_id=session, request=request, waited_s=waited_s, **more)  # type: ignore[arg-type]


def ask(waiting: list[Waits], holding: list[Holds], nodes: list[Node], limits: Limits = LIMITS) -> list[Over]:
    return over(waiting, holding, nodes, used_of(each.lease for each in holding), limits)


@pytest.mark.parametrize(
    ("holder", "waiter", "given_up"),
    [
        # In its cell: when both the one has had its turn and the other has waited for as long.
        (holds("h", 30), waits("w", 30), "in cell"),
        (holds("h", 3000), waits("w", 29), ""),
        (holds("h", 29), waits("w", 3000), ""),
        (holds("h", 3000, stuck="no driver"), waits("w", 3000), ""),
        # Between two cells: after its rest, or when its turn is over; at once where somebody's cell stands still.
        (holds("h", 5, 60), waits("w", 0), "parked"),
        (holds("h", 5, 59), waits("w", 3000), ""),
        (holds("h", 30, 0), waits("w", 30), "parked"),
        (holds("h", 30, 0, stuck="no driver"), waits("w", 30), "parked"),
        (holds("h", 5, SHORT_REST_S), waits("w", 0, in_cell=True), "parked"),
        (holds("h", 5, SHORT_REST_S / 2), waits("w", 0, in_cell=True), ""),
        # Not for what its device is no use to.
        (holds("h", 3000), waits("w", 3000, request=ResourceRequest(devices=2)), ""),
        (holds("h", 3000), waits("w", 3000, request=ResourceRequest(node="b")), ""),
    ],
)
def test_turn_of_one_that_holds_for_one_that_waits(holder: Holds, waiter: Waits, given_up: str) -> None:
    found = ask([waiter], [holder], [node("a"), node("b", 0)])
    assert [("in cell" if each.in_cell else "parked") for each in found] == ([given_up] if given_up else [])
    assert all(each.why for each in found)


def test_turn_nobody_waits_nobody_gives_anything_up() -> None:
    assert ask([], [holds("h", 1e9), holds("i", 1e9, 1e9)], [node("a", 2)]) == []


def test_turn_settings_of_zero_mean_never() -> None:
    never = Limits(0, 0)
    assert ask([waits("w", 1e9, in_cell=True)], [holds("h", 1e9), holds("i", 1e9, 1e9)], [node("a", 2)], never) == []


def test_turn_what_is_free_or_about_to_be_is_enough() -> None:
    busy = holds("h", 1e9, None, "cpu:0")
    assert over([waits("w", 1e9)], [busy], [node("a", 2)], {"a": {"cpu:0": 1.0}}, LIMITS) == []
    # One device is free: the second one that waits needs that of the holder.
    (given_up,) = over([waits("w", 1e9), waits("x", 1e9)], [busy], [node("a", 2)], {"a": {"cpu:0": 1.0}}, LIMITS)
    assert given_up.session_id == "h"


def test_turn_those_that_rest_go_first_and_then_who_has_had_its_devices_longest() -> None:
    present = [holds("x", 50, None, "cpu:0"), holds("y", 90, None, "cpu:1"), holds("z", 40, 1, "cpu:2")]
    found = ask([waits("w", 99), waits("v", 99)], present, [node("a", 3)])
    assert [(each.session_id, each.in_cell) for each in found] == [("z", False), ("y", True)]


def test_turn_as_few_as_it_takes_on_one_node() -> None:
    pair = ResourceRequest(devices=2)
    present = [
        holds("x", 50, None, "cpu:0"),
        holds("y", 50, None, "cpu:1"),
        holds("z", 50, None, "cpu:0", "cpu:1", on="b"),
    ]
    assert [each.session_id for each in ask([waits("w", 99, request=pair)], present, [node("a", 2), node("b", 2)])] == [
        "z"
    ]


def test_turn_nobody_behind_one_that_cannot_be_served_yet_takes_what_it_could_have() -> None:
    first = waits("first", 5)
    second = waits("second", 99)
    assert ask([first, second], [holds("h", 99)], [node("a")]) == []
    # But where the first one could never go, the second one may.
    bound = waits("bound", 5, request=ResourceRequest(node="b"), kept=lease("bound", "b"), in_cell=True)
    (given_up,) = ask([bound, second], [holds("h", 99), holds("g", 1, on="b")], [node("a"), node("b")])
    assert given_up.session_id == "h"


def test_turn_one_that_is_kept_on_a_cordoned_node_has_its_turn_there_and_a_new_one_has_none() -> None:
    nodes = [node("a", state=NodeState.CORDONED)]
    kept = waits("w", 99, request=ResourceRequest(node="a"), kept=lease("w"), in_cell=True)
    assert [each.session_id for each in ask([kept], [holds("h", 99)], nodes)] == ["h"]
    assert ask([waits("w", 99)], [holds("h", 99)], nodes) == []


def test_turn_memory_of_an_accelerator_goes_back_to_that_one_only() -> None:
    nodes = [node("a", 2, kind=CUDA)]
    kept = Waits(
        session_id="w",
        request=ResourceRequest(node="a"),
        waited_s=99,
        kept=lease("w", "a", "cuda:0"),
        in_cell=True,
    )
    present = [holds("g", 40, None, "cuda:0"), holds("h", 90, None, "cuda:1")]
    assert [each.session_id for each in ask([kept], present, nodes)] == ["g"]
    assert place([Waiting("w", kept.request, kept.kept)], nodes, {"a": {"cuda:0": 1.0}}) == []
    (placed,) = place([Waiting("w", kept.request, kept.kept)], nodes, {"a": {"cuda:1": 1.0}})
    assert placed.device_ids == ("cuda:0",)


def test_room_to_keep_counts_those_that_are_there() -> None:
    assert room_to_keep(GIB, GIB, 2 * GIB) == ""
    assert "kept_bytes" in room_to_keep(GIB, GIB + 1, 2 * GIB)


@pytest.mark.parametrize(
    ("nodes", "more", "stuck", "keeps"),
    [
        ([], {}, "", True),
        ([], {}, "no driver", False),
        ([node("b")], {}, "", False),
        ([node("b")], {"node": "a"}, "", True),
        ([node("b")], {"kind": CUDA}, "", True),
        ([node("b", state=NodeState.CORDONED)], {}, "", True),
    ],
)
def test_parked_with_its_process_where_no_other_node_could_take_it(
    nodes: list[Node], more: dict[str, str], stuck: str, keeps: bool
) -> None:
    request = ResourceRequest(**more)  # type: ignore[arg-type]
    assert keeps_process(request, lease("s"), [node("a"), *nodes], stuck) is keeps


def test_place_words_count_those_before() -> None:
    assert place_words(1) == "its turn comes next"
    assert "after that of 2 other" in place_words(3)


# -- over long times -----------------------------------------------------------------------------------------


@dataclass
class Simulated:
    """One session: it computes for so long in each cell, and rests between two."""

    name: str
    cell_s: int
    pause_s: int
    node: str = ""
    device: str = ""
    kept: Lease | None = None
    since_s: int = 0
    left_s: int = 0
    idle_since_s: int = 0
    computed_s: int = 0
    #: When it has last computed, or had nothing to compute.
    content_s: int = 0
    longest_wait_s: int = 0


@dataclass
class Pool:
    """Sessions that take turns as the service lets them: it looks once a second; what is decided is done at once."""

    nodes: list[Node]
    sessions: list[Simulated]
    queue: list[Simulated] = field(default_factory=list)
    now_s: int = 0

    def run(self, seconds: int) -> None:
        for each in self.sessions:
            each.left_s = each.cell_s
            self._wait(each)
        for _ in range(seconds):
            self._serve()
            self._compute()
            self.now_s += 1
            self._look()

    def _wait(self, each: Simulated) -> None:
        each.node = each.device = ""
        each.since_s = self.now_s
        self.queue.append(each)

    def _taken(self) -> Used:
        found = used_of(Lease("", each.name, each.node, (each.device,), 1) for each in self.sessions if each.node)
        assert all(part == 1 for used in found.values() for part in used.values()), "two on one device"
        return found

    def _serve(self) -> None:
        by_name = {each.name: each for each in self.queue}
        waiting = [Waiting(each.name, self._request(each), each.kept) for each in self.queue]
        for placed in place(waiting, self.nodes, self._taken()):
            each = by_name[placed.session_id]
            each.node, (each.device,), each.kept = placed.node_id, placed.device_ids, None
            each.since_s = each.idle_since_s = self.now_s
            self.queue.remove(each)

    @staticmethod
    def _request(each: Simulated) -> ResourceRequest:
        return ResourceRequest(node=each.kept.node_id if each.kept is not None else None)

    def _compute(self) -> None:
        for each in self.sessions:
            if each.node and each.left_s:
                each.left_s -= 1
                each.computed_s += 1
                each.content_s = self.now_s
                if not each.left_s:
                    each.idle_since_s = self.now_s + 1
            elif not each.left_s:
                each.content_s = self.now_s
                if self.now_s - each.idle_since_s >= each.pause_s:
                    each.left_s = each.cell_s
                    if not each.node:
                        self._wait(each)
            each.longest_wait_s = max(each.longest_wait_s, self.now_s - each.content_s)

    def _look(self) -> None:
        waiting = [
            Waits(
                session_id=each.name,
                request=self._request(each),
                waited_s=self.now_s - each.since_s,
                kept=each.kept,
                in_cell=each.kept is not None,
            )
            for each in self.queue
        ]
        holding = [
            Holds(
                session_id=each.name,
                lease=Lease("", each.name, each.node, (each.device,), 1),
                held_s=self.now_s - each.since_s,
                idle_s=None if each.left_s else self.now_s - each.idle_since_s,
            )
            for each in self.sessions
            if each.node
        ]
        by_name = {each.name: each for each in self.sessions}
        for done in over(waiting, holding, self.nodes, self._taken(), LIMITS):
            each = by_name[done.session_id]
            if done.in_cell:
                each.kept = Lease("", each.name, each.node, (each.device,), 1)
                self._wait(each)
            else:
                each.node = each.device = ""


def test_ten_that_compute_all_the_time_share_one_device_equally() -> None:
    pool = Pool([node("a")], [Simulated(f"s{number}", 10**9, 0) for number in range(10)])
    pool.run(3000)
    computed = [each.computed_s for each in pool.sessions]
    assert sum(computed) == 3000  # somebody computes at any time
    assert max(computed) - min(computed) <= TURN_S
    assert max(each.longest_wait_s for each in pool.sessions) <= 9 * (TURN_S + 1)


def test_one_whose_cells_are_short_waits_for_a_turn_and_not_for_the_end_of_a_long_cell() -> None:
    pool = Pool([node("a")], [Simulated("long", 10**9, 0), Simulated("short", 5, 20)])
    pool.run(3000)
    long, short = pool.sessions
    assert short.longest_wait_s <= TURN_S + 1
    assert long.longest_wait_s <= 5 + SHORT_REST_S + 1
    assert short.computed_s > 3000 / (TURN_S + 5 + 20 + 5) * 5 * 0.8
    assert long.computed_s > 1500


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 90)), min_size=1, max_size=8),
    st.lists(st.integers(1, 2), min_size=1, max_size=2),
)
def test_nobody_waits_for_longer_than_the_turns_of_all_others(
    shapes: list[tuple[int, int]], devices: list[int]
) -> None:
    nodes = [node(f"n{number}", count) for number, count in enumerate(devices)]
    sessions = [Simulated(f"s{number}", *shape) for number, shape in enumerate(shapes)]
    pool = Pool(nodes, sessions)
    pool.run(2000)
    # At worst all others are before it, one after the other.
    most_s = (len(sessions) - 1) * (TURN_S + 2) + 1
    assert max(each.longest_wait_s for each in sessions) <= most_s
    assert all(each.computed_s for each in sessions)
