"""When sessions are going to be parked, ended and placed."""

from __future__ import annotations

from jupyter_gpuaas.lifecycle.outlook import Rules, ends_s, parks_s, starts_s
from jupyter_gpuaas.model import Device, GpuSession, Lease, Node, NodeState, ResourceRequest, SessionState

S = SessionState
RULES = Rules(park_idle_s=0.0, park_for_waiting_s=30.0, unattended_s=3600.0)
NOW_S = 1000.0


def node(name: str, devices: int = 1, state: NodeState = NodeState.UP) -> Node:
    return Node(name, state, tuple(Device(f"cuda:{index}", "cuda", "H200", 1) for index in range(devices)))


def held(
    name: str, on: str, state: S = S.IDLE, *, device: int = 0, since_s: float = 990.0, **facts: object
) -> GpuSession:
    lease = Lease(name, name, on, (f"cuda:{device}",), 1)
    return session(name, state, lease=lease, since_s=since_s, **facts)


def session(name: str, state: S, **facts: object) -> GpuSession:
    known: dict[str, object] = {"request": ResourceRequest(), "clients": 1, **facts}
    return GpuSession(id=name, name=name, owner="ann", state=state, epoch=1, created_s=0.0, **known)  # type: ignore[arg-type]


def starts(
    waiting: list[GpuSession], holding: list[GpuSession], nodes: list[Node], rules: Rules = RULES
) -> dict[str, float]:
    leases = [each.lease for each in holding if each.lease is not None]
    return dict(starts_s(waiting, holding, nodes, leases, rules, NOW_S))


def test_an_idle_session_gives_its_device_up_when_it_has_been_idle_for_long_enough() -> None:
    assert starts([session("w", S.QUEUED)], [held("a", "n")], [node("n")]) == {"w": 1020.0}


def test_of_a_session_whose_cell_runs_nobody_can_tell() -> None:
    assert starts([session("w", S.QUEUED)], [held("a", "n", S.BUSY)], [node("n")]) == {}


def test_nothing_is_told_where_sessions_are_not_parked_for_others() -> None:
    assert starts([session("w", S.QUEUED)], [held("a", "n")], [node("n")], Rules(0.0, 0.0, 3600.0)) == {}


def test_one_that_has_been_idle_for_longer_comes_at_once() -> None:
    assert starts([session("w", S.QUEUED)], [held("a", "n", since_s=1.0)], [node("n")]) == {"w": NOW_S}


def test_the_second_in_the_queue_waits_for_the_second_device() -> None:
    holding = [held("a", "n", since_s=985.0), held("b", "m", since_s=995.0)]
    waiting = [session("w", S.QUEUED), session("v", S.RESTORING)]

    assert starts(waiting, holding, [node("n"), node("m")]) == {"w": 1015.0, "v": 1025.0}


def test_behind_one_of_whom_nobody_can_tell_nobody_can_tell_either() -> None:
    waiting = [session("w", S.QUEUED, request=ResourceRequest(node="m")), session("v", S.QUEUED)]

    assert starts(waiting, [held("a", "n"), held("b", "m", S.BUSY)], [node("n"), node("m")]) == {}


def test_a_device_that_is_free_is_had_now_but_not_on_a_node_that_takes_nobody() -> None:
    waiting = [session("w", S.QUEUED)]

    assert starts(waiting, [], [node("n")]) == {"w": NOW_S}
    assert starts(waiting, [], [node("n", state=NodeState.CORDONED)]) == {}


def test_two_devices_are_waited_for_until_both_are_free() -> None:
    holding = [held("a", "n", since_s=985.0), held("b", "n", device=1, since_s=998.0)]

    assert starts([session("w", S.QUEUED, request=ResourceRequest(devices=2))], holding, [node("n", 2)]) == {
        "w": 1028.0
    }


def test_only_an_idle_session_is_parked_by_itself_and_only_where_it_is_set() -> None:
    rules = Rules(600.0, 30.0, 3600.0)

    assert parks_s(held("a", "n"), rules) == 1590.0
    assert parks_s(held("a", "n", S.BUSY), rules) == 0.0
    assert parks_s(held("a", "n"), RULES) == 0.0


def test_a_session_is_ended_when_nobody_has_been_attached_for_long_enough() -> None:
    assert ends_s(held("a", "n", clients=0, unattended_since_s=500.0), RULES) == 4100.0
    assert ends_s(held("a", "n"), RULES) == 0.0
    assert ends_s(session("a", S.PARKED, clients=0, unattended_since_s=500.0), RULES) == 4100.0
    assert ends_s(session("a", S.QUEUED, clients=0, unattended_since_s=500.0), RULES) == 0.0
