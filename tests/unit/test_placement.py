"""Who gets which devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.placement import Waiting, can_go_to, fitting, place, why_never
from jupyter_gpuaas.lifecycle.room import ATOM, Used, hold
from jupyter_gpuaas.model import CPU, CUDA, Device, Lease, Node, NodeState, ResourceRequest
from jupyter_gpuaas.model.session import parts

GIB = 1024**3


def node(name: str, *kinds: str, state: NodeState = NodeState.UP, memory: int = 8 * GIB) -> Node:
    devices = tuple(Device(f"{kind}:{number}", kind, kind, memory) for number, kind in enumerate(kinds))
    return Node(name, state, devices)


def waiting(name: str, **request: object) -> Waiting:
    return Waiting(name, ResourceRequest(**request))  # type: ignore[arg-type]


nodes = st.lists(
    st.builds(
        node,
        st.sampled_from(["n0", "n1", "n2"]),
        *[st.sampled_from([CPU, CUDA])] * 2,
        state=st.sampled_from(list(NodeState)),
        memory=st.sampled_from([GIB, 4 * GIB]),
    ),
    max_size=3,
    unique_by=lambda each: each.id,
)
requests = st.builds(
    lambda amount, **more: ResourceRequest(*parts(amount)[:1], share=parts(amount)[1], **more),
    st.sampled_from([0.25, 0.5, 1, 2, 3]),
    kind=st.sampled_from([None, CPU, CUDA]),
    memory_bytes=st.sampled_from([0, 2 * GIB]),
    node=st.sampled_from([None, "n0", "n9"]),
)
queues = st.lists(requests, max_size=6).map(
    lambda found: [Waiting(f"s{number}", request) for number, request in enumerate(found)]
)


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Node], Used]:
    pool, parts = draw(nodes), st.sampled_from([0.25, 0.5, 1.0])
    taken = {
        each.id: draw(st.dictionaries(st.sampled_from([device.id for device in each.devices]), parts)) for each in pool
    }
    return pool, taken


@given(queues, pools())
def test_place_nobody_is_overtaken(queue: list[Waiting], drawn: tuple[list[Node], Used]) -> None:
    """Whoever waits could not have had more if those that were placed behind it had not been there."""
    pool, taken = drawn
    placements = place(queue, pool, taken)
    placed = {placement.session_id for placement in placements}
    order = [each.session_id for each in queue]
    assert [placement.session_id for placement in placements] == [each for each in order if each in placed]
    for at, waits in enumerate(queue):
        if waits.session_id in placed:
            continue
        could_be = {each.id for each in pool if can_go_to(waits.request, None, each)}
        assert not could_be & {each.node_id for each in placements if order.index(each.session_id) > at}


@given(queues, pools())
def test_place_never_more_than_a_device_and_only_what_was_asked_for(
    queue: list[Waiting], drawn: tuple[list[Node], Used]
) -> None:
    pool, taken = drawn
    used = {name: dict(parts) for name, parts in taken.items()}
    by_id = {each.id: each for each in pool}
    requests_of = {each.session_id: each.request for each in queue}
    for placement in place(queue, pool, taken):
        target, request = by_id[placement.node_id], requests_of[placement.session_id]
        assert target.state is NodeState.UP
        assert request.node in (None, target.id)
        assert len(placement.device_ids) == request.devices
        known = {device.id: device for device in target.devices}
        for device_id in placement.device_ids:
            on_node = used[target.id]
            on_node[device_id] = on_node.get(device_id, 0.0) + request.share
            assert on_node[device_id] <= 1 + ATOM
            assert request.kind in (None, known[device_id].kind)
            assert known[device_id].memory_bytes >= request.memory_bytes


@given(queues, pools())
def test_place_stops_only_at_one_that_really_cannot_be_served(
    queue: list[Waiting], drawn: tuple[list[Node], Used]
) -> None:
    pool, taken = drawn
    placements = place(queue, pool, taken)
    placed = {placement.session_id for placement in placements}
    first = next((each for each in queue if each.session_id not in placed), None)
    if first is None:
        return
    used = {name: dict(parts) for name, parts in taken.items()}
    for placement in placements:
        hold(used[placement.node_id], placement)
    for each in pool:
        left = [
            device
            for device in fitting(first.request, each)
            if used[each.id].get(device.id, 0.0) + first.request.share <= 1 + ATOM
        ]
        assert each.state is not NodeState.UP or len(left) < first.request.devices


@given(requests, nodes)
def test_why_never_is_empty_exactly_when_an_empty_pool_would_serve_it(
    request: ResourceRequest, pool: list[Node]
) -> None:
    up = [Node(each.id, NodeState.UP, each.devices) for each in pool]
    served = place([Waiting("s", request)], up, {})
    assert (why_never(request, pool) == "") == bool(served)


def test_place_accelerator_is_taken_before_cpu() -> None:
    assert place([waiting("a")], [node("n0", CPU, CUDA)], {})[0].device_ids == ("cuda:1",)


def test_place_sessions_spread_over_nodes() -> None:
    pool = [node("n0", CPU, CPU), node("n1", CPU, CPU)]
    placed = place([waiting("a"), waiting("b")], pool, {})
    assert {placement.node_id for placement in placed} == {"n0", "n1"}


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"devices": 0}, "request.devices"),
        ({"devices": 3}, "request.devices"),
        ({"kind": "cuda"}, "cuda"),
        ({"memory_bytes": 9 * GIB}, str(9 * GIB)),
        ({"node": "moon"}, "request.node"),
    ],
)
def test_why_never_names_what_is_wrong(request_: dict[str, object], named: str) -> None:
    assert named in why_never(waiting("a", **request_).request, [node("n0", CPU, CPU)])


def test_place_cordoned_node_takes_nothing_but_does_not_make_it_impossible() -> None:
    pool = [node("n0", CPU, state=NodeState.CORDONED)]
    assert place([waiting("a")], pool, {}) == []
    assert why_never(ResourceRequest(), pool) == ""


def test_place_one_that_waits_for_its_node_holds_nobody_up_elsewhere() -> None:
    pool = [node("n0", CPU), node("n1", CPU)]
    (placed,) = place([waiting("bound", node="n0"), waiting("free")], pool, {"n0": {"cpu:0": 1.0}})
    assert (placed.session_id, placed.node_id) == ("free", "n1")
    assert place([waiting("any"), waiting("bound", node="n1")], [node("n1", CPU)], {"n1": {"cpu:0": 1.0}}) == []


def test_place_one_whose_host_is_there_goes_back_to_it_though_another_node_is_emptier() -> None:
    pool = [node("n0", CPU, CPU, state=NodeState.CORDONED), node("n1", CPU)]
    kept = Lease("l", "a", "n0", ("cpu:1",), 3)
    taken = {"n0": {"cpu:1": 1.0}}
    assert place([Waiting("a", ResourceRequest(), kept)], pool, taken)[0].node_id == "n0"
    taken = {"n0": {"cpu:0": 1.0, "cpu:1": 1.0}}
    assert place([Waiting("a", ResourceRequest(), kept)], pool, taken)[0].node_id == "n1"
