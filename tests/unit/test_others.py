"""What refusals tell of others who use the same nodes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.others import (
    FIRST_S,
    MOST_S,
    Foreign,
    Refusal,
    held_by_others,
    refused,
    why_others,
)
from jupyter_gpuaas.lifecycle.placement import Waiting, place
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import Device, Lease, Node, NodeState, ResourceRequest


def node(name: str = "a", devices: int = 1) -> Node:
    return Node(name, NodeState.UP, tuple(Device(f"cuda:{n}", "cuda", "GPU", 10) for n in range(devices)))


def waits(devices: int = 1, kept: Lease | None = None, **request: Any) -> Waiting:
    return Waiting("w", ResourceRequest(devices=devices, **request), kept)


def theirs(known: Refusal, now_s: float = 0.0, used: dict[str, float] | None = None) -> dict[str, float]:
    return used_of(held_by_others([known], {"a": used or {}}, now_s)).get("a", {})


def test_refusal_leaves_one_device_less_than_was_asked_for() -> None:
    assert len(theirs(refused(None, waits(1), node(devices=4), {}, 0.0))) == 4
    known = refused(None, waits(3), node(devices=4), {}, 0.0)
    assert len(theirs(known)) == 2
    # A smaller request that is refused, too, tells more.
    known = refused(known, waits(2), node(devices=4), theirs(known), 1.0)
    assert len(theirs(known, 1.0)) == 3


def test_refusal_of_a_certain_device_says_nothing_of_the_others() -> None:
    kept = Lease("l", "w", "a", ("cuda:1",), 1)
    known = refused(None, waits(kept=kept), node(devices=2), {}, 0.0)
    assert theirs(known) == {"cuda:1": 1.0}
    assert why_others(waits(kept=kept), [node(devices=2)], {"a": known}, 0.0) == (
        "node a: its devices are used by others"
    )
    assert why_others(waits(), [node(devices=2)], {"a": known}, 0.0) == "node a: 1 of its devices is used by others"


def test_refusal_of_a_part_takes_what_is_left_of_devices_that_have_so_much() -> None:
    known = refused(None, waits(share=0.5), node(devices=3), {"cuda:0": 0.25, "cuda:1": 0.75}, 0.0)
    assert theirs(known, used={"cuda:0": 0.25, "cuda:1": 0.75}) == {"cuda:0": 0.75, "cuda:2": 1.0}


def test_what_ours_hold_of_it_is_not_theirs_and_what_ours_give_back_is_free() -> None:
    known = refused(None, waits(), node(devices=2), {"cuda:0": 1.0}, 0.0)
    assert held_by_others([known], {}, 0.0) == [Foreign("a", ("cuda:1",), 1.0)]
    assert held_by_others([known], {"a": {"cuda:1": 1.0}}, 0.0) == []


def test_pause_grows_while_it_is_refused_and_begins_anew_when_it_was_not_for_long() -> None:
    known, now_s, pauses = None, 0.0, []
    for _ in range(5):
        known = refused(known, waits(), node(), {}, now_s)
        pauses.append(known.pause_s)
        assert theirs(known, known.until_s - 0.1) and not theirs(known, known.until_s)
        now_s = known.until_s
    assert pauses == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, MOST_S, MOST_S]
    assert known is not None
    # Several that are refused at about the same time are one refusal.
    assert refused(known, waits(), node(), {}, known.until_s - 1.0).pause_s == MOST_S
    assert refused(known, waits(), node(), {}, known.until_s + MOST_S).pause_s == FIRST_S


def test_why_is_told_while_it_is_tried_again_and_only_of_nodes_that_would_do() -> None:
    nodes = [node(f"n{number}") for number in range(5)]
    known = {each.id: refused(None, waits(), each, {}, 0.0) for each in nodes}
    assert why_others(waits(node="n1"), nodes, known, FIRST_S) == "node n1: its devices are used by others"
    assert why_others(waits(node="n1"), nodes, known, FIRST_S + MOST_S) == ""
    assert why_others(waits(kind="cpu"), nodes, known, 0.0) == ""
    assert why_others(waits(), nodes, known, 0.0).endswith("; and 2 more nodes")


@given(
    st.integers(1, 4),
    st.sampled_from([(1, 0.25), (1, 0.5), (1, 1.0), (2, 1.0), (3, 1.0)]),
    st.dictionaries(st.sampled_from([f"cuda:{n}" for n in range(4)]), st.sampled_from([0.25, 0.5, 1.0])),
)
def test_the_same_request_is_not_placed_there_again_and_a_smaller_one_may_be(
    devices: int, wants: tuple[int, float], used: dict[str, float]
) -> None:
    on, request = node(devices=devices), waits(wants[0], share=wants[1])
    known = refused(None, request, on, used, 0.0)
    foreign = held_by_others([known], {"a": used}, 0.0)
    both = used_of([*(Foreign("a", (device_id,), part) for device_id, part in used.items()), *foreign])
    assert not place([request], [on], both)
    before = place([waits(wants[0] - 1)], [on], {"a": used}) if wants[0] > 1 else []
    assert bool(before) is bool(before and place([waits(wants[0] - 1)], [on], both))
