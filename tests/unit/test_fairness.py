"""Who is served next, and who makes room for whom."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.fairness import Asking, Holding, Outlook, Pool, Standing, make_room, push_out, serve
from jupyter_gpuaas.lifecycle.room import ATOM, amount, hold, used_of
from jupyter_gpuaas.model import Device, Lease, Limits, Node, NodeState, Reservation, ResourceRequest
from jupyter_gpuaas.model.session import parts


def node(name: str, devices: int = 1, state: NodeState = NodeState.UP, kind: str = "cuda") -> Node:
    return Node(name, state, tuple(Device(f"{kind}:{number}", kind, kind, 10) for number in range(devices)))


def asks(session: str, devices: int = 1, priority: int = 0, **request: Any) -> Asking:
    wanted = ResourceRequest(devices=devices, priority=priority, **request)
    return Asking(session_id=session, owner=session[0], request=wanted)


def holds(session: str, on: str, *devices: int, priority: int = 0, idle_s: float = 0.0, **more: Any) -> Holding:
    return Holding(
        session_id=session,
        owner=session[:1],
        node_id=on,
        device_ids=more.get("device_ids", tuple(f"cuda:{number}" for number in devices)),
        priority=priority,
        idle_s=idle_s,
        parkable=more.get("parkable", True),
        share=more.get("share", 1.0),
        standby=more.get("standby", False),
        foreign=more.get("foreign", False),
    )


def pool(nodes: Sequence[Node], *holdings: Holding, **more: Any) -> Pool:
    return Pool(nodes=nodes, holdings=holdings, **more)


def reserved(user: str, devices: int, **more: Any) -> Reservation:
    return Reservation(id=f"r-{user}", user=user, devices=devices, from_s=0, until_s=1, **more)


def placed(outlook: Outlook) -> list[str]:
    return [each.session_id for each in outlook.placements]


def test_one_user_is_served_in_the_order_of_coming() -> None:
    outlook = serve([asks("a1"), asks("a2"), asks("a3")], pool([node("n", 2)]))
    assert placed(outlook) == ["a1", "a2"]
    assert outlook.waiting == ("a3",)


def test_higher_priority_is_served_first() -> None:
    outlook = serve([asks("a1"), asks("b1", priority=1), asks("c1", priority=-1)], pool([node("n", 2)]))
    assert placed(outlook) == ["b1", "a1"]


def test_who_has_used_least_is_served_first_by_share() -> None:
    standings = {
        "a": Standing(remembered_s=100.0),
        "b": Standing(remembered_s=150.0, limits=Limits(share=2.0)),
        "c": Standing(remembered_s=90.0),
    }
    waiting = [asks("a1"), asks("b1"), asks("c1")]
    assert placed(serve(waiting, pool([node("n", 3)], standings=standings))) == ["b1", "c1", "a1"]


def test_what_is_held_counts_as_use_and_users_take_turns() -> None:
    held = [holds("a0", "m", 0)]
    waiting = [asks("a1"), asks("a2"), asks("b1"), asks("b2")]
    assert placed(serve(waiting, pool([node("m"), node("n", 3)], *held))) == ["b1", "a1", "b2"]


def test_quota_of_devices_keeps_one_waiting_and_nobody_else() -> None:
    standings = {"a": Standing(limits=Limits(devices=2))}
    outlook = serve(
        [asks("a1", 2), asks("a2"), asks("b1")], pool([node("n", 4)], holds("a0", "n", 0), standings=standings)
    )
    assert placed(outlook) == ["b1", "a2"]
    assert outlook.waiting == ("a1",)
    assert outlook.why["a1"] == "quota devices: a holds 1 of 2, and 2 more are wanted"


def test_standby_counts_against_no_quota_and_uses_up_no_reservation_of_its_owner() -> None:
    standings = {"a": Standing(limits=Limits(devices=2))}
    held = [holds("a0", "n", 0), holds("a0", "n", 1, standby=True)]
    outlook = serve([asks("a1"), asks("a2")], pool([node("n", 4)], *held, standings=standings))
    assert placed(outlook) == ["a1"]
    assert outlook.why == {"a2": "quota devices: a holds 2 of 2, and 1 more are wanted"}
    # With no device free, it waits for one like others, for whom standbys give way.
    outlook = serve([asks("a1")], pool([node("n", 2)], *held, standings=standings))
    assert (outlook.waiting, outlook.why) == (("a1",), {})
    running = {"reservations": [reserved("a", 2)]}
    assert placed(serve([asks("b1", priority=5), asks("a1")], pool([node("n", 3)], *held, **running))) == ["a1"]


def test_quota_of_device_hours_keeps_waiting() -> None:
    standings = {"a": Standing(limits=Limits(device_hours=1.0), used_s=3600.0)}
    outlook = serve([asks("a1")], pool([node("n")], standings=standings))
    assert outlook.why == {"a1": "quota device_hours: a has used 1.00 of 1"}
    assert not outlook.placements


def test_who_wants_many_is_not_starved_by_who_wants_one() -> None:
    nodes = [node("m", 2), node("n", 2)]
    held = [holds("x1", "m", 0), holds("x2", "n", 0, 1)]
    waiting = [asks("a1", 2), asks("b1")]
    # What is free on m is claimed by the one who wants two of a node.
    assert placed(serve(waiting, pool(nodes, *held))) == []
    # Where another node has room, nobody has to wait for him.
    assert placed(serve(waiting, pool([*nodes, node("o")], *held))) == ["b1"]
    # Nor for what others than our sessions have, of whom nobody knows when they give it back.
    theirs = [holds("", "m", 0, foreign=True, parkable=False), held[1]]
    assert placed(serve(waiting, pool(nodes, *theirs))) == ["b1"]


def test_reservation_keeps_devices_free_and_comes_first() -> None:
    running = {"reservations": [reserved("a", 2)]}
    outlook = serve([asks("b1", priority=100), asks("b2")], pool([node("n", 3)], **running))
    assert placed(outlook) == ["b1"]
    assert outlook.why == {"b2": "what is free is reserved for a"}
    outlook = serve([asks("b1", priority=100), asks("a1", 2)], pool([node("n", 2)], **running))
    assert placed(outlook) == ["a1"]
    # One that is used up gives no more right than others have.
    outlook = serve([asks("b1"), asks("a1")], pool([node("n", 3)], holds("a0", "n", 0, 1), **running))
    assert placed(outlook) == ["b1"]


def test_reservation_of_a_node_leaves_the_others_alone() -> None:
    running = {"reservations": [reserved("a", 1, node="m")]}
    assert placed(serve([asks("b1"), asks("b2")], pool([node("m"), node("n")], **running))) == ["b1"]
    assert serve([asks("b1")], pool([node("m"), node("n")], **running)).placements[0].node_id == "n"


def test_pack_takes_the_fullest_node_and_spread_the_emptiest() -> None:
    nodes, held = [node("m", 4), node("n", 4)], holds("x", "n", 0)
    assert serve([asks("a1")], pool(nodes, held)).placements[0].node_id == "m"
    assert serve([asks("a1")], pool(nodes, held, pack=True)).placements[0].node_id == "n"


def test_labels_and_nodes_to_avoid_are_heeded() -> None:
    nodes = [
        msgspec.structs.replace(node("m"), labels={"gpu": "a"}),
        msgspec.structs.replace(node("n"), labels={"gpu": "b"}),
    ]
    assert serve([asks("a1", labels={"gpu": "b"})], pool(nodes)).placements[0].node_id == "n"
    assert serve([asks("a1", avoid=("m",))], pool(nodes)).placements[0].node_id == "n"
    assert not serve([asks("a1", labels={"gpu": "c"})], pool(nodes)).placements


def test_parts_of_a_device_are_given_until_it_is_whole() -> None:
    half = holds("x", "n", 0, share=0.5)
    outlook = serve(
        [asks("a1", share=0.25), asks("b1", share=0.25), asks("c1", share=0.25)], pool([node("n", 2)], half)
    )
    assert [each.device_ids for each in outlook.placements] == [("cuda:0",), ("cuda:0",), ("cuda:1",)]
    assert not serve([asks("a1"), asks("b1", share=0.6)], pool([node("n")], half)).placements


def test_the_fullest_device_is_filled_first_wherever_it_is() -> None:
    held = [holds("x", "m", 0, share=0.25), holds("y", "n", 1, share=0.5)]
    (found,) = serve([asks("a1", share=0.5)], pool([node("m", 2), node("n", 2)], *held)).placements
    assert (found.node_id, found.device_ids, found.share) == ("n", ("cuda:1",), 0.5)


def test_who_wants_the_whole_is_not_starved_by_who_wants_parts() -> None:
    half, waiting = holds("x", "n", 0, share=0.5), [asks("a1"), asks("b1", share=0.25)]
    assert not serve(waiting, pool([node("n")], half)).placements
    # What he could not have had anyway, others may have.
    elsewhere = [asks("a1", node="m"), asks("b1", share=0.25)]
    held = [half, holds("y", "m", 0)]
    assert placed(serve(elsewhere, pool([node("m"), node("n")], *held))) == ["b1"]


def test_part_counts_as_a_part_of_quota_and_reservation() -> None:
    standings = {"a": Standing(limits=Limits(devices=1))}
    waiting = [asks("a1", share=0.5), asks("a2", share=0.5), asks("a3", share=0.5)]
    outlook = serve(waiting, pool([node("n", 3)], standings=standings))
    assert placed(outlook) == ["a1", "a2"]
    assert outlook.why["a3"] == "quota devices: a holds 1 of 1, and 0.5 more are wanted"
    # Of two devices one is reserved: its user's first half is there; the second is before everybody.
    running = {"reservations": [reserved("a", 1)]}
    held = holds("a0", "n", 0, share=0.5)
    asking = [asks("b1"), asks("b2", share=0.75), asks("a1", share=0.5)]
    assert placed(serve(asking, pool([node("n", 2)], held, **running))) == ["a1", "b1"]


def test_holders_of_parts_make_room_together_or_not_at_all() -> None:
    held = [holds(f"x{number}", "n", number // 2, priority=-1, share=0.5, idle_s=number) for number in range(4)]
    found = [session for session, _ in push_out(asks("a1"), pool([node("n", 2)], *held))]
    assert found in (["x3", "x2"], ["x2", "x3"])
    assert [session for session, _ in push_out(asks("a1", share=0.5), pool([node("n", 2)], *held))] == ["x3"]
    held[3] = holds("y", "n", 1, share=0.5)  # of no lower priority
    assert {session for session, _ in push_out(asks("a1"), pool([node("n", 2)], *held))} == {"x0", "x1"}


def test_nodes_that_are_not_up_get_nobody() -> None:
    assert not serve([asks("a1")], pool([node("n", 1, NodeState.CORDONED), node("m", 1, NodeState.LOST)])).placements


@pytest.mark.parametrize(
    ("holdings", "out"),
    [
        ([holds("x", "n", 0)], []),
        ([holds("x", "n", 0, priority=-1)], ["x"]),
        ([holds("x", "n", 0, priority=-1, parkable=False)], []),
        ([holds("x", "m", 0, priority=-1), holds("y", "n", 0, priority=-2)], ["y"]),
        ([holds("x", "m", 0, priority=-1), holds("y", "n", 0, priority=-1, idle_s=5)], ["y"]),
        ([holds("x", "m", 0, priority=-1, idle_s=9), holds("y", "n", 0, priority=-1, idle_s=5)], ["x"]),
    ],
)
def test_lowest_and_longest_idle_makes_room(holdings: list[Holding], out: list[str]) -> None:
    nodes = [node("m"), node("n")] if any(each.node_id == "m" for each in holdings) else [node("n")]
    found = push_out(asks("a1"), pool(nodes, *holdings))
    assert [session for session, _ in found] == out


def test_as_few_as_it_takes_make_room_on_one_node() -> None:
    nodes = [node("m", 4), node("n", 4)]
    held = [holds(f"x{number}", "m", number, priority=-1, idle_s=100) for number in range(4)]
    held += [holds("y1", "n", 0, 1, priority=-1, idle_s=1), holds("y2", "n", 2, priority=-1, idle_s=2)]
    found = push_out(asks("a1", 3), pool(nodes, *held))
    assert {session for session, _ in found} <= {"y1", "y2"}
    assert "priority 0" in found[0][1]


def test_reservation_pushes_out_and_is_not_pushed_out() -> None:
    running = {"reservations": [reserved("a", 1)]}
    assert push_out(asks("a1"), pool([node("n")], holds("b1", "n", 0, priority=50), **running))
    assert not push_out(asks("b1", priority=100), pool([node("n")], holds("a1", "n", 0), **running))


def test_reservation_of_a_node_or_kind_parks_only_who_holds_that() -> None:
    nodes = [node("m"), node("n", 2)]
    held = [holds("x", "m", 0), holds("y", "n", 0, idle_s=90), holds("z", "n", 1, idle_s=90)]
    here = {"reservations": [reserved("a", 1, node="m")]}
    assert [session for session, _ in push_out(asks("a1"), pool(nodes, *held, **here))] == ["x"]
    assert not push_out(asks("a1", node="n"), pool(nodes, *held, **here))
    # Nor is anything else made room on for it, by parking idle ones or by standbys that give way.
    wants = serve([asks("a1"), asks("b1")], pool(nodes, *held, **here)).wants
    assert wants == {"a1": ResourceRequest(devices=1, node="m")}
    nodes = [node("m"), node("n", kind="cpu")]
    held = [holds("x", "m", 0), holds("y", "n", idle_s=90, device_ids=("cpu:0",))]
    gpus = {"reservations": [reserved("a", 1, kind="cuda")]}
    assert [session for session, _ in push_out(asks("a1"), pool(nodes, *held, **gpus))] == ["x"]
    assert not push_out(asks("a1", kind="cpu"), pool(nodes, *held, **gpus))


def test_reservation_is_used_where_it_is_and_by_what_it_is_for() -> None:
    nodes = [node("m", 2, kind="cpu"), node("n")]
    gpus = {"reservations": [reserved("a", 1, kind="cuda")]}
    (found,) = serve([asks("a1")], pool(nodes, **gpus)).placements
    assert found.node_id == "n"
    # What runs on another kind of device leaves the reserved one to its user.
    outlook = serve([asks("a1", kind="cpu"), asks("b1", kind="cuda"), asks("b2", kind="cpu")], pool(nodes, **gpus))
    assert placed(outlook) == ["a1", "b2"]
    assert outlook.why == {"b1": "what is free is reserved for a"}


def test_reservation_that_cannot_serve_a_session_neither_helps_nor_binds_it() -> None:
    here = {"reservations": [reserved("a", 1, node="m")]}
    waiting = [asks("a1", avoid=("m",)), asks("b1", priority=1)]
    assert placed(serve(waiting, pool([node("m"), node("n")], **here))) == ["b1"]
    gone = [node("m", 1, NodeState.LOST), node("n")]
    assert placed(serve([asks("a1")], pool(gone, **here))) == ["a1"]


def test_reservation_that_is_used_up_meanwhile_lets_nobody_pass() -> None:
    running = {"reservations": [reserved("a", 1)]}
    waiting = [asks("a1"), asks("a2", priority=1), asks("b1", priority=1)]
    standings = {"b": Standing(), "a": Standing(remembered_s=9.0)}
    outlook = serve(waiting, pool([node("n", 2)], standings=standings, **running))
    assert placed(outlook) == ["a2", "b1"]
    assert outlook.waiting == ("a1",)


def test_two_reservations_do_not_wait_for_each_other() -> None:
    running = {"reservations": [reserved("a", 1), reserved("b", 1)]}
    waiting, held = [asks("a1"), asks("b1")], holds("x", "n", 1)
    outlook = serve(waiting, pool([node("n", 2)], held, **running))
    assert (placed(outlook), outlook.waiting, outlook.why) == (["a1"], ("b1",), {})
    after = pool([node("n", 2)], held, holds("a1", "n", 0), **running)
    assert [session for session, _ in push_out(waiting[1], after)] == ["x"]
    # Where only one node would do for the other, it is left to him, and room is made elsewhere.
    running = {"reservations": [reserved("a", 1), reserved("b", 1, node="m")]}
    held = holds("x", "n", 0)
    outlook = serve(waiting[:1], pool([node("m"), node("n")], held, **running))
    assert (placed(outlook), outlook.waiting, outlook.why) == ([], ("a1",), {})
    assert [session for session, _ in push_out(waiting[0], pool([node("m"), node("n")], held, **running))] == ["x"]


def test_nobody_is_parked_for_who_could_not_have_what_is_reserved_for_another() -> None:
    running = {"reservations": [reserved("a", 1)]}
    assert not push_out(asks("b1", priority=5), pool([node("n")], holds("x", "n", 0), **running))
    assert push_out(asks("b1", priority=5), pool([node("n")], holds("x", "n", 0)))


def had(*devices: int, on: str = "n") -> Lease:
    return Lease("l", "a1", on, tuple(f"cuda:{number}" for number in devices), 1)


def test_one_whose_memory_was_on_a_device_gets_that_or_waits() -> None:
    home = msgspec.structs.replace(asks("a1", node="n"), kept=had(0))
    (found,) = serve([home], pool([node("n", 2)])).placements
    assert found.device_ids == ("cuda:0",)
    assert placed(serve([home, asks("b1")], pool([node("n", 2)], holds("c1", "n", 0)))) == ["b1"]
    (found,) = serve([msgspec.structs.replace(home, kept=had(1))], pool([node("n", 2)])).placements
    assert found.device_ids == ("cuda:1",)
    # What has no memory of its own does beside any.
    cpus = node("n", 2, kind="cpu")
    held = holds("c1", "n", device_ids=("cpu:0",))
    assert placed(serve([home], pool([cpus], held))) == ["a1"]


def test_one_whose_memory_was_on_several_devices_claims_these_and_no_others() -> None:
    home = msgspec.structs.replace(asks("a1", 2, node="n"), kept=had(0, 1))
    outlook = serve([home, asks("b1"), asks("b2"), asks("b3")], pool([node("n", 4)], holds("c1", "n", 1)))
    assert [each.device_ids for each in outlook.placements] == [("cuda:2",), ("cuda:3",)]


def test_part_of_the_device_that_its_memory_was_on_or_none() -> None:
    home = msgspec.structs.replace(asks("a1", share=0.5, node="n"), kept=had(1))
    held = [holds("x", "n", 0, share=0.5), holds("y", "n", 1, share=0.75)]
    outlook = serve([home, asks("b1", share=0.25), asks("b2", share=0.25)], pool([node("n", 2)], *held))
    # Nor does anybody behind it get the rest of that one.
    assert [each.device_ids for each in outlook.placements] == [("cuda:0",), ("cuda:0",)]


def test_holder_of_the_device_that_its_memory_was_on_makes_room_and_no_other() -> None:
    held = [holds("x", "n", 0, priority=-2, idle_s=9), holds("y", "n", 1, priority=-1)]
    home = msgspec.structs.replace(asks("a1", node="n"), kept=had(1))
    assert [session for session, _ in push_out(asks("a1"), pool([node("n", 2)], *held))] == ["x"]
    assert [session for session, _ in push_out(home, pool([node("n", 2)], *held))] == ["y"]
    cordoned = pool([node("n", 2, NodeState.CORDONED)], *held)
    assert [session for session, _ in push_out(home, cordoned)] == ["y"]
    assert not push_out(asks("a1"), cordoned)


def test_one_whom_parking_does_not_help_keeps_others_from_no_other_node() -> None:
    nodes = [node("m", 2), node("n")]
    held = [holds("x", "m", 0, 1, priority=-1), holds("y", "n", 0, priority=1)]
    stuck, behind = asks("a1", node="n"), asks("b1")
    assert [session for session, _ in make_room([stuck, behind], pool(nodes, *held))] == ["x"]
    assert not make_room([stuck, asks("b1", node="n")], pool(nodes, *held))
    # What it makes do with on the other node is not for those behind it.
    assert not make_room([asks("a1", 2), behind], pool(nodes, holds("x", "m", 0, priority=-1), holds("z", "m", 1)))


names = st.sampled_from(["a", "b", "c"])
kinds = st.sampled_from([None, "cuda", "cpu"])
requests = st.builds(
    lambda count, **more: ResourceRequest(devices=parts(count)[0], share=parts(count)[1], **more),
    st.sampled_from([0.25, 0.5, 1, 2, 3]),
    kind=kinds,
    node=st.sampled_from([None, "n0", "n1", "n9"]),
    priority=st.integers(-1, 1),
)
queues = st.lists(st.tuples(names, requests), max_size=8).map(
    lambda found: [Asking(session_id=f"{owner}{n}", owner=owner, request=r) for n, (owner, r) in enumerate(found)]
)
places = st.sampled_from([None, "n0", "n1"])
idle = st.sampled_from([0.0, 5.0])
reservations = st.lists(st.builds(reserved, names, st.integers(1, 3), kind=kinds, node=places), max_size=3).map(
    lambda found: [msgspec.structs.replace(each, id=str(number)) for number, each in enumerate(found)]
)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    nodes = [
        node(
            f"n{number}",
            draw(st.integers(1, 3)),
            draw(st.sampled_from(list(NodeState))),
            draw(st.sampled_from(["cuda", "cpu"])),
        )
        for number in range(draw(st.integers(0, 3)))
    ]
    holdings = []
    for each in nodes:
        taken = draw(st.lists(st.sampled_from(each.devices), unique=True, max_size=2))
        for device in taken:
            owner = draw(names)
            holdings.append(
                Holding(
                    session_id=f"{owner}-{each.id}-{device.id}",
                    owner=owner,
                    node_id=each.id,
                    device_ids=(device.id,),
                    priority=draw(st.integers(-2, 1)),
                    parkable=draw(st.booleans()),
                    idle_s=draw(idle),
                    share=draw(st.sampled_from([0.5, 1.0])),
                )
            )
    limits = st.builds(Limits, devices=st.sampled_from([None, 1, 2]), share=st.sampled_from([None, 2.0]))
    standings = {name: Standing(limits=draw(limits), remembered_s=draw(st.floats(0, 1e5))) for name in "abc"}
    return Pool(
        nodes=nodes,
        holdings=holdings,
        standings=standings,
        reservations=draw(reservations),
        pack=draw(st.booleans()),
    )


@given(queues, pools())
def test_served_is_free_fits_and_is_nobody_elses(queue: list[Asking], drawn: Pool) -> None:
    outlook = serve(queue, drawn)
    by_id = {each.session_id: each for each in queue}
    assert sorted([*placed(outlook), *outlook.waiting]) == sorted(by_id)
    taken = used_of(drawn.holdings)
    held = {name: sum(len(e.device_ids) * e.share for e in drawn.holdings if e.owner == name) for name in "abc"}
    nodes = {each.id: each for each in drawn.nodes}
    for each in outlook.placements:
        request, owner = by_id[each.session_id].request, by_id[each.session_id].owner
        assert nodes[each.node_id].state is NodeState.UP
        assert request.node in (None, each.node_id)
        assert len(set(each.device_ids)) == request.devices
        kinds = {device.kind for device in nodes[each.node_id].devices if device.id in each.device_ids}
        assert request.kind is None or kinds == {request.kind}
        hold(taken.setdefault(each.node_id, {}), each)
        assert all(part <= 1 + ATOM for part in taken[each.node_id].values())
        held[owner] += amount(request)
        limit = drawn.standings[owner].limits.devices
        assert limit is None or held[owner] <= limit + ATOM


@given(queues, pools())
def test_nobody_of_lower_priority_passes_the_same_request_of_the_same_user(queue: list[Asking], drawn: Pool) -> None:
    served = set(placed(serve(queue, drawn)))
    for one in queue:
        for other in queue:
            same = msgspec.structs.replace(one.request, priority=0) == msgspec.structs.replace(
                other.request, priority=0
            )
            if one.owner == other.owner and same and one.request.priority > other.request.priority:
                assert not (other.session_id in served and one.session_id not in served)


@st.composite
def reserving(draw: st.DrawFn) -> Pool:
    """A pool of which two users have reserved no more than there is; others hold what they hold, and may be parked."""
    nodes = [
        node(f"n{number}", draw(st.integers(1, 3)), kind=draw(st.sampled_from(["cuda", "cpu"])))
        for number in range(draw(st.integers(1, 3)))
    ]
    devices = [(each.id, device) for each in nodes for device in each.devices]
    made = [reserved(user, draw(st.integers(1, 3)), kind=draw(kinds), node=draw(places)) for user in "ab"]
    would_do = [
        {(on, device.id) for on, device in devices if each.node in (None, on) and each.kind in (None, device.kind)}
        for each in made
    ]
    assume(all(len(those) >= each.devices for those, each in zip(would_do, made, strict=True)))
    assume(len(would_do[0] | would_do[1]) >= made[0].devices + made[1].devices)
    some = st.lists(st.sampled_from(devices), unique_by=lambda one: (one[0], one[1].id), max_size=len(devices))
    taken = draw(st.one_of(st.just(devices), some))
    holdings = [
        holds(f"x{n}", on, priority=draw(st.integers(-1, 9)), idle_s=draw(idle), device_ids=(device.id,))
        for n, (on, device) in enumerate(taken)
    ]
    return Pool(nodes=nodes, holdings=holdings, reservations=made)


plain = st.builds(asks, st.sampled_from(["a1", "b1", "c1"]), st.integers(1, 2), priority=st.integers(0, 9))


@settings(max_examples=200)
@given(st.one_of(queues.filter(bool).map(lambda queue: queue[0]), plain), st.one_of(pools(), reserving()))
def test_who_is_pushed_out_is_lower_and_makes_room_enough(first: Asking, drawn: Pool) -> None:
    out = {session for session, _ in push_out(first, drawn)}
    gone = [each for each in drawn.holdings if each.session_id in out]
    for each in gone:
        assert each.parkable
        assert each.priority < first.request.priority or drawn.reservations
    if out:
        left = [each for each in drawn.holdings if each.session_id not in out]
        without = {name: Standing() for name in "abc"}
        after = msgspec.structs.replace(drawn, holdings=left, standings=without)
        assert placed(serve([first], after)) == [first.session_id]


@given(reserving(), st.randoms())
def test_whoever_has_reserved_gets_all_of_it_in_the_end(drawn: Pool, random: Random) -> None:
    waiting = [asks(f"{each.user}{n}") for each in drawn.reservations for n in range(each.devices)]
    waiting += [asks(f"c{n}", priority=9) for n in range(2)]
    random.shuffle(waiting)
    while any(each.owner != "c" for each in waiting):
        outlook = serve(waiting, drawn)
        held = [
            holds(each.session_id, each.node_id, priority=0, device_ids=each.device_ids) for each in outlook.placements
        ]
        waiting = [next(each for each in waiting if each.session_id == one) for one in outlook.waiting]
        drawn = msgspec.structs.replace(drawn, holdings=[*drawn.holdings, *held])
        first = next((each for each in waiting if each.session_id not in outlook.why), None)
        if first is None or first.owner == "c":
            break
        out = {session for session, _ in push_out(first, drawn)}
        assert out and all(session[0] in "xc" for session in out)
        drawn = msgspec.structs.replace(drawn, holdings=[e for e in drawn.holdings if e.session_id not in out])
    assert {each.owner for each in waiting} <= {"c"}
