"""When a session has a standby, where, and for whom it goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.fairness import Standing
from jupyter_gpuaas.lifecycle.others import Foreign
from jupyter_gpuaas.lifecycle.placement import Waiting, place
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.lifecycle.standby import Facts, Step, beyond_quotas, decide, where, who_gives_way
from jupyter_gpuaas.model import Device, Lease, Limits, Node, NodeState, ResourceRequest, SessionState

S, N = SessionState, NodeState
STANDING: dict[str, Any] = {
    "wanted": True,
    "state": S.IDLE,
    "epoch": 1,
    "standby_epoch": 2,
    "node": N.UP,
    "newest": "b",
    "followed": "a",
}


def node(name: str, devices: int = 1, state: NodeState = N.UP) -> Node:
    return Node(name, state, tuple(Device(f"cpu:{number}", "cpu", "", 10) for number in range(devices)))


def lease(session: str, on: str, *devices: int, epoch: int = 1) -> Lease:
    return Lease(f"{session}-{on}-{epoch}", session, on, tuple(f"cpu:{number}" for number in devices), epoch)


def waits(devices: int = 1, kept: Lease | None = None, **request: Any) -> Waiting:
    return Waiting("", ResourceRequest(devices=devices, **request), kept)


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_standby_is_made_for_a_session_that_runs_and_rests_where_it_is(state: S, moving: bool, wanted: bool) -> None:
    step, _ = decide(Facts(wanted=wanted, state=state, epoch=1, moving=moving, newest="a"))
    made = wanted and not moving and state in (S.IDLE, S.BUSY)
    assert step is (Step.MAKE if made else Step.REST)


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, Step.FOLLOW),
        ({"state": S.BUSY}, Step.FOLLOW),
        ({"followed": "b"}, Step.REST),
        ({"newest": ""}, Step.REST),
        ({"wanted": False}, Step.DROP),
        # A host that was started ahead for a session whose node is waited for.
        ({"wanted": False, "state": S.LOST}, Step.REST),
        ({"epoch": 3}, Step.DROP),
        ({"node": None}, Step.DROP),
        ({"node": N.CORDONED}, Step.DROP),
        # Its agent is gone, and is started again: it may still be there.
        ({"node": N.LOST}, Step.REST),
        *(({"state": state}, Step.REST) for state in (S.STARTING, S.SUSPENDED, S.MIGRATING, S.LOST)),
        *(({"state": state}, Step.DROP) for state in (S.QUEUED, S.PARKED, S.RESTORING, S.CLOSING, S.CLOSED, S.FAILED)),
    ],
)
def test_standby_follows_goes_or_rests(changes: dict[str, Any], step: Step) -> None:
    found, why = decide(Facts(**(STANDING | changes)))
    assert found is step
    assert bool(why) is (step is Step.DROP)


def test_place_of_a_standby() -> None:
    request = ResourceRequest(standby=1)
    nodes = [node("one"), node("two"), node("three", 2)]
    taken = {"one": {"cpu:0": 1.0}}
    assert where(request, "one", nodes, taken, []) == ("three", "")
    assert where(request, "one", nodes, taken, [waits()])[0] is None
    full = taken | {"two": {"cpu:0": 1.0}, "three": {"cpu:0": 1.0, "cpu:1": 1.0}}
    assert where(request, "one", nodes, full, []) == (None, "no other node has a device to spare")
    assert where(request, "two", [node("one", state=N.CORDONED), node("two")], {}, [])[0] is None
    assert where(ResourceRequest(standby=1, node="two"), "two", nodes, taken, [])[0] is None


def test_standby_gives_way_only_to_who_cannot_be_served_otherwise() -> None:
    nodes = [node("one"), node("two"), node("three")]
    own, beside = lease("a", "one", 0), lease("a", "two", 0, epoch=2)
    assert who_gives_way([waits()], {"a": beside}, nodes, [own, beside]) == []
    assert who_gives_way([waits()] * 2, {"a": beside}, nodes, [own, beside]) == ["a"]
    assert who_gives_way([waits(node="two")], {"a": beside}, nodes, [own, beside]) == ["a"]
    assert who_gives_way([waits(node="one")], {"a": beside}, nodes, [own, beside]) == []


def test_newest_standby_goes_first_and_as_few_as_needed() -> None:
    nodes = [node("one", 3), node("two", 2)]
    standbys = {"a": lease("a", "one", 0), "b": lease("b", "one", 1), "c": lease("c", "one", 2)}
    held = [*standbys.values(), lease("x", "two", 0), lease("y", "two", 1)]
    assert who_gives_way([waits()], standbys, nodes, held) == ["c"]
    assert who_gives_way([waits(2)], standbys, nodes, held) == ["c", "b"]
    assert who_gives_way([waits(2), waits()], standbys, nodes, held) == ["c", "b", "a"]
    assert who_gives_way([waits(4)], standbys, nodes, held) == []


def test_standby_on_the_device_that_holds_a_sessions_memory_gives_way_and_no_other() -> None:
    gpus = tuple(Device(f"cuda:{number}", "cuda", "", 10) for number in range(3))
    standbys = {f"s{number}": Lease(f"l{number}", f"s{number}", "one", (f"cuda:{number}",), 1) for number in range(2)}
    kept = Lease("k", "a", "one", ("cuda:0",), 1)
    nodes, held = [Node("one", N.UP, gpus)], list(standbys.values())
    assert who_gives_way([waits(kept=kept)], standbys, nodes, held) == ["s0"]
    assert who_gives_way([waits()], standbys, nodes, held) == []


def test_standby_gives_way_where_others_use_what_seems_to_be_free() -> None:
    nodes, beside = [node("one"), node("two")], lease("a", "two", 0, epoch=2)
    assert who_gives_way([waits()], {"a": beside}, nodes, [beside]) == []
    assert who_gives_way([waits()], {"a": beside}, nodes, [beside, Foreign("one", ("cpu:0",), 1.0)]) == ["a"]


def test_standbys_beyond_a_quota_go_the_newest_first_and_no_more_than_that() -> None:
    standbys = [("ann", lease("a", "one", 0)), ("bob", lease("b", "two", 0)), ("ann", lease("c", "three", 0, 1))]
    standings = {"ann": Standing(limits=Limits(devices=4)), "bob": Standing()}

    def gone(anns: float) -> list[int]:
        return [place for place, _ in beyond_quotas(standbys, {"ann": anns, "bob": 99.0}, standings)]

    assert [gone(held) for held in (4, 5, 6, 7)] == [[], [2], [2], [2, 0]]
    assert beyond_quotas(standbys, {"ann": 5.0, "bob": 99.0}, standings)[0][1].startswith(
        "quota devices: ann holds 5 of 4"
    )
    used_up = standings | {"bob": Standing(limits=Limits(device_hours=1.0), used_s=3600.0)}
    assert [place for place, _ in beyond_quotas(standbys, {"ann": 4.0, "bob": 2.0}, used_up)] == [1]


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=8, unique=True),
    st.integers(1, 3),
)
def test_whoever_waits_first_is_served_if_standbys_alone_keep_it_from_that(
    sizes: list[int], held: list[tuple[int, int]], wanted: int
) -> None:
    nodes = [node(f"n{index}", size) for index, size in enumerate(sizes)]
    fits = [(at, device) for at, device in held if at < len(sizes) and device < sizes[at]]
    standbys = {f"s{index}": lease(f"s{index}", f"n{at}", device) for index, (at, device) in enumerate(fits)}
    request = ResourceRequest(devices=wanted)
    given_way = who_gives_way([Waiting("", request)], standbys, nodes, list(standbys.values()))
    left = used_of(each for session, each in standbys.items() if session not in given_way)
    assert bool(place([Waiting("", request)], nodes, left)) is (max(sizes) >= wanted)
    if given_way:
        fewer = used_of(each for session, each in standbys.items() if session not in given_way[1:])
        assert not place([Waiting("", request)], [n for n in nodes if n.id == standbys[given_way[0]].node_id], fewer)
