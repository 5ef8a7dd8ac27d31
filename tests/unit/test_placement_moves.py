"""Who is parked for whom, who leaves a node first, and which moves make room."""

from __future__ import annotations

from typing import Any

import msgspec

from jupyter_gpuaas.lifecycle.placement import (
    Idle,
    Leaving,
    Waiting,
    leaving_order,
    room_for,
    targets,
    whom_to_park,
)
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import Device, GpuSession, Lease, Node, NodeState, ResourceRequest, SessionState

GIB = 1024**3


def node(name: str, devices: int = 1, state: NodeState = NodeState.UP) -> Node:
    made = tuple(Device(id=f"cpu:{number}", kind="cpu", label="CPU", memory_bytes=GIB) for number in range(devices))
    return Node(name, state, made)


def lease(session: str, on: str, *devices: str) -> Lease:
    return Lease(f"l-{session}", session, on, devices or ("cpu:0",), 1)


def idle(session: str, on: str, seconds: float, *devices: str) -> Idle:
    return Idle(session, lease(session, on, *devices), seconds)


def session(
    name: str, on: str = "", *devices: str, state: SessionState = SessionState.IDLE, wants: int = 1
) -> GpuSession:
    return GpuSession(
        id=name,
        name=name,
        owner="o",
        state=state,
        epoch=1,
        request=ResourceRequest(devices=wants),
        created_s=0.0,
        lease=lease(name, on, *devices) if on else None,
    )


NODES = [node("a"), node("b", 2)]


def test_targets_full_cordoned_and_lost_nodes_are_none() -> None:
    nodes = [node("a"), node("b", 2), node("c", state=NodeState.CORDONED), node("d", state=NodeState.LOST), node("e")]
    taken = {"a": {"cpu:0": 1.0}, "b": {"cpu:0": 1.0}}
    assert targets(ResourceRequest(), nodes, taken) == ["e", "b"]
    assert targets(ResourceRequest(node="b"), nodes, taken) == ["b"]
    assert targets(ResourceRequest(devices=2), nodes, taken) == []


def test_park_nobody_waits_only_the_long_idle_ones() -> None:
    found = park([], [idle("x", "a", 50), idle("y", "b", 5)], idle_s=10, waiting_s=1)
    assert [each for each, _ in found] == ["x"]
    assert "park_idle_s" in found[0][1]


def test_park_zero_means_never() -> None:
    assert park([waits("w")], [idle("x", "a", 1e9)], idle_s=0, waiting_s=0) == []


def park(
    waiting: list[Waiting], present: list[Idle], nodes: list[Node] = NODES, **more: float
) -> list[tuple[str, str]]:
    return whom_to_park(waiting, present, nodes, used_of(each.lease for each in present), **more)


def test_park_for_who_waits_the_longest_idle_one_and_no_more() -> None:
    present = [idle("x", "a", 40), idle("y", "b", 90, "cpu:0"), idle("z", "b", 60, "cpu:1")]
    found = park([waits("w")], present, idle_s=0, waiting_s=30)
    assert len(found) == 1
    assert "park_for_waiting_s" in found[0][1]


def test_park_for_who_waits_as_many_as_it_needs_on_one_node() -> None:
    present = [idle("x", "a", 40), idle("y", "b", 90, "cpu:0"), idle("z", "b", 60, "cpu:1")]
    found = park([waits("w", 2)], present, idle_s=0, waiting_s=30)
    assert sorted(each for each, _ in found) == ["y", "z"]


def test_park_who_would_not_help_is_left_alone() -> None:
    present = [idle("x", "a", 40)]
    assert park([waits("w", node="b")], present, idle_s=0, waiting_s=30) == []
    assert park([waits("w", 2)], present, idle_s=0, waiting_s=30) == []
    assert park([waits("w")], [idle("x", "a", 20)], idle_s=0, waiting_s=30) == []


def test_park_for_one_that_has_memory_on_a_device_who_holds_that() -> None:
    gpus = [Node("a", NodeState.UP, tuple(Device(f"cuda:{number}", "cuda", "GPU", GIB) for number in range(2)))]
    present = [idle("x", "a", 90, "cuda:0"), idle("y", "a", 40, "cuda:1")]
    home = waits("w", node="a", kept=lease("w", "a", "cuda:1"))
    assert [each for each, _ in park([home], present, gpus, idle_s=0, waiting_s=30)] == ["y"]
    assert [each for each, _ in park([waits("w")], present, gpus, idle_s=0, waiting_s=30)] == ["x"]
    cordoned = [msgspec.structs.replace(gpus[0], state=NodeState.CORDONED)]
    assert [each for each, _ in park([home], present, cordoned, idle_s=0, waiting_s=30)] == ["y"]
    assert not park([waits("w")], present, cordoned, idle_s=0, waiting_s=30)


def test_park_for_the_first_whom_it_helps_and_not_where_one_before_could_go() -> None:
    present = [idle("x", "b", 90, "cpu:0"), idle("y", "b", 60, "cpu:1")]
    found = park([waits("v", node="a"), waits("w")], present, idle_s=0, waiting_s=30)
    assert [each for each, _ in found] == ["x"]
    assert not park([waits("v", 3), waits("w", 2, kind="cuda")], present, idle_s=0, waiting_s=30)
    busy_one = [present[0]]  # v has to wait for the other one of b
    assert not park([waits("v", 2), waits("w")], busy_one, idle_s=0, waiting_s=30)


def test_leaving_idle_ones_first_and_of_either_kind_the_large_ones() -> None:
    sessions = [Leaving("small", 1, False), Leaving("busy", 9, True), Leaving("large", 8, False), Leaving("b", 2, True)]
    assert leaving_order(sessions) == ["large", "small", "busy", "b"]


def waits(name: str, wants: int = 1, kept: Lease | None = None, **more: Any) -> Waiting:
    return Waiting(name, ResourceRequest(devices=wants, **more), kept, name)


def proposed(
    queue: list[Waiting], held: list[GpuSession], nodes: list[Node] = NODES
) -> list[tuple[str, str, str, str]]:
    found = room_for(queue, held, nodes, used_of(each.lease for each in held if each.lease))
    return [(each.session_id, each.source, each.target, each.makes_room_for) for each in found]


def test_room_nobody_waits_nothing_is_proposed() -> None:
    assert proposed([], [session("x", "a")]) == []


def test_room_one_move_makes_it_for_two_devices_on_one_node() -> None:
    assert proposed([waits("w", 2)], [session("x", "b", "cpu:0")]) == [("x", "b", "a", "w")]


def test_room_moves_that_cannot_help_are_not_proposed() -> None:
    assert proposed([waits("w", 2)], [session("x", "b", "cpu:0"), session("y", "a")]) == []


def test_room_is_made_for_the_first_of_the_queue_and_not_for_who_came_first() -> None:
    nodes = [node("a", 2), node("b", 2)]
    held = [session("x", "b", "cpu:0"), session("y", "a", "cpu:0")]
    assert {each[3] for each in proposed([waits("second", 2), waits("first", 2)], held, nodes)} == {"second"}


def test_room_on_its_own_node_for_one_that_can_only_go_home() -> None:
    nodes = [node("a", 1), node("b", 1), node("c", 1)]
    held = [session("x", "a"), session("y", "b")]
    home = waits("w", node="b", kept=lease("w", "b"))
    assert proposed([home], held, nodes) == [("y", "b", "c", "w")]


def test_room_for_one_that_has_memory_on_a_device_is_made_on_that_device() -> None:
    gpus = tuple(Device(id=f"gpu:{number}", kind="cuda", label="GPU", memory_bytes=GIB) for number in range(2))
    nodes = [Node("a", NodeState.UP, gpus), Node("b", NodeState.UP, gpus)]
    held = [session("x", "a", "gpu:0"), session("y", "a", "gpu:1")]
    home = waits("w", node="a", kept=lease("w", "a", "gpu:1"))
    assert proposed([home], held, nodes) == [("y", "a", "b", "w")]


def test_room_behind_one_whom_moves_do_not_help_only_where_it_is_not_overtaken() -> None:
    nodes = [node("a", 2), node("b", 2)]
    held = [session("x", "a", "cpu:0"), session("y", "b", "cpu:0"), session("z", "b", "cpu:1", wants=1)]
    stuck = waits("stuck", 2, node="b")  # where one has to go, and there is room for one only
    behind = waits("behind", 1, node="b")
    assert proposed([stuck, behind], held, nodes) == []
    assert proposed([behind], held, nodes) != []
    elsewhere = [node("a", 1), node("b", 2), node("c", 1)]
    held = [session("x", "a"), session("y", "b", "cpu:0"), session("z", "b", "cpu:1")]
    assert proposed([stuck, waits("other", 1, node="a")], held, elsewhere) == [("x", "a", "c", "other")]
