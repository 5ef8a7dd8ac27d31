"""Decisions of the Ray engine; none of these needs Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.engine.base import AgentEndpoint
from jupyter_gpuaas.engine.ray import members as members_module
from jupyter_gpuaas.engine.ray import plan
from jupyter_gpuaas.engine.ray.detached import clean, visible_devices
from jupyter_gpuaas.engine.ray.members import Members
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.lifecycle.labels import parse, selects
from jupyter_gpuaas.lifecycle.placement import Waiting, why_never
from jupyter_gpuaas.lifecycle.room import ATOM, room, used_of
from jupyter_gpuaas.model import CUDA, Device, Lease, Node, NodeState, ResourceRequest
from tests.service import eventually

GIB = 1024**3


def gpu(number: int, uuid: str = "") -> Device:
    return Device(f"cuda:{number}", CUDA, "GPU", 8 * GIB, uuid)


def node(name: str, gpus: int = 2, state: NodeState = NodeState.UP, **labels: str) -> Node:
    return Node(name, state, tuple(gpu(number) for number in range(gpus)), labels=labels)


def lease(name: str, on: str, *devices: str, share: float = 1.0) -> Lease:
    return Lease(name, name, on, devices, 1, share)


def listed(ray_id: str, *, alive: bool = True, gpus: float = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "NodeID": ray_id,
        "Alive": alive,
        "NodeManagerAddress": "10.0.0.1",
        "NodeManagerHostname": "box.example",
        "NodeName": "10.0.0.1",
        "Resources": {"GPU": gpus, "CPU": 2.0} if gpus else {"CPU": 2.0},
        "Labels": {},
        **more,
    }


# -- which node is which -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "name"),
    [
        ({}, "box-example"),
        ({"NodeName": "worker_7"}, "worker_7"),
        ({"NodeName": "worker_7", "Labels": {plan.NAME_LABEL: "a/b"}}, "a-b"),
        ({"NodeManagerHostname": "", "NodeName": ""}, "10-0-0-1"),
        ({"NodeManagerHostname": "...", "NodeName": ""}, "node"),
    ],
)
def test_read_nodes_name_is_one_that_an_agent_takes(given_: dict[str, Any], name: str) -> None:
    (found,) = plan.read_nodes([listed("r1", **given_)])
    assert (found.name, found.gpus, found.alive) == (name, 1.0, True)


def test_assign_only_living_nodes_with_gpus_count() -> None:
    found = plan.assign({}, plan.read_nodes([listed("r1"), listed("r2", gpus=0.0), listed("r3", alive=False)]))
    assert {name: each.ray_id for name, each in found.items()} == {"box-example": "r1"}


def test_assign_raylet_that_was_started_again_is_the_same_node() -> None:
    found = plan.assign({"box-example": "r1"}, plan.read_nodes([listed("r1", alive=False), listed("r2")]))
    assert {name: each.ray_id for name, each in found.items()} == {"box-example": "r2"}


def test_assign_raylet_that_was_started_again_while_ray_still_has_the_former() -> None:
    nodes = plan.read_nodes([listed("r1"), listed("r2")])
    found = plan.assign({"box-example": "r2"}, nodes)
    assert {name: each.ray_id for name, each in found.items()} == {"box-example": "r1"}
    # The former one does not come back in its turn.
    assert plan.assign({"box-example": "r1"}, nodes, frozenset({"r2"})) == found


def test_assign_two_machines_of_one_name_are_two_nodes_and_stay_so() -> None:
    nodes = plan.read_nodes([listed("r1abcdefgh", NodeManagerAddress="10.0.0.2", NodeName=""), listed("r2abcdefgh")])
    found = plan.assign({"box-example": "r2abcdefgh"}, nodes)
    assert {name: each.ray_id for name, each in found.items()} == {
        "box-example": "r2abcdefgh",
        "box-example-r1abcdef": "r1abcdefgh",
    }
    known = {name: each.ray_id for name, each in found.items()}
    assert plan.assign(known, nodes) == found
    assert list(plan.assign(known, nodes[:1])) == ["box-example-r1abcdef"]


def test_assign_two_new_raylets_of_one_machine_are_two_nodes() -> None:
    found = plan.assign({}, plan.read_nodes([listed("r1abcdefgh"), listed("r2abcdefgh")]))
    assert {name: each.ray_id for name, each in found.items()} == {
        "box-example": "r1abcdefgh",
        "box-example-r2abcdef": "r2abcdefgh",
    }


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ("in_ray answers", NodeState.UP),
        ("in_ray answers cordoned", NodeState.CORDONED),
        ("answers", NodeState.CORDONED),
        ("in_ray", NodeState.LOST),
        ("in_ray answers silent", NodeState.LOST),
        ("", NodeState.LOST),
        ("in_ray cordoned", NodeState.LOST),
    ],
)
def test_state_of_each_case(facts: str, state: NodeState) -> None:
    true = set(facts.split())
    given_ = {name: name in true for name in ("in_ray", "answers", "silent", "cordoned")}
    assert plan.state_of(**given_) is state


# -- which devices -------------------------------------------------------------------------------------------


def test_devices_of_numbers_uuids_and_slices() -> None:
    slice_ = Device("cuda:MIG-7", CUDA, "slice", GIB, "MIG-7")
    devices = (gpu(0, "GPU-aaaa"), gpu(1, "GPU-bbbb"), slice_)
    assert plan.devices_of(["1", "0"], devices) == ("cuda:1", "cuda:0")
    assert plan.devices_of(["GPU-bbbb"], devices) == ("cuda:1",)
    assert plan.devices_of(["GPU-aa"], devices) == ("cuda:0",)
    assert plan.devices_of(["MIG-7"], devices) == ("cuda:MIG-7",)
    with pytest.raises(LookupError, match="MIG-8"):
        plan.devices_of(["MIG-8"], devices)
    with pytest.raises(LookupError):
        plan.devices_of(["2"], devices)


def test_devices_of_cpu_devices_stand_in_for_invented_gpus() -> None:
    devices = tuple(Device(f"cpu:{number}", "cpu", "CPU", GIB) for number in range(2))
    assert plan.devices_of(["1"], devices) == ("cpu:1",)


def test_usable_is_what_ray_can_hand_out() -> None:
    devices = (gpu(0), gpu(1), gpu(2))
    assert plan.usable(devices, 2.0) == devices[:2]
    assert plan.usable(devices, 4.0) == devices


# -- where there is room -------------------------------------------------------------------------------------


def test_candidates_emptiest_first_and_only_nodes_that_are_up() -> None:
    pool = [node("a"), node("b"), node("c", state=NodeState.CORDONED), node("d")]
    used = used_of([lease("1", "a", "cuda:0"), lease("2", "d", "cuda:0"), lease("3", "d", "cuda:1")])
    assert plan.candidates(ResourceRequest(), pool, used) == ["b", "a"]
    assert plan.candidates(ResourceRequest(devices=2), pool, used) == ["b"]
    assert plan.candidates(ResourceRequest(), pool, used, frozenset({"b"})) == ["a"]
    assert plan.candidates(ResourceRequest(avoid=("b",)), pool, used) == ["a"]
    assert plan.candidates(ResourceRequest(node="d"), pool, used) == []


def test_candidates_shares_fill_a_device_before_the_next() -> None:
    pool = [node("a", 2)]
    half = ResourceRequest(share=0.5)
    assert room(half, pool[0].devices, {"cuda:1": 0.5}) == ("cuda:1",)
    assert room(half, pool[0].devices, {"cuda:0": 1.0, "cuda:1": 0.75}) is None
    assert room(ResourceRequest(), pool[0].devices, {"cuda:0": 0.5, "cuda:1": 0.5}) is None


def waiting(*requests: ResourceRequest) -> list[Waiting]:
    return [Waiting(f"s{number}", request) for number, request in enumerate(requests)]


def test_candidates_of_one_whose_host_is_there() -> None:
    pool = [msgspec.structs.replace(node("a"), state=NodeState.CORDONED), node("b")]
    kept = lease("1", "a", "cuda:1")
    assert plan.candidates(ResourceRequest(), pool, {}, kept=kept) == ["a", "b"]
    assert plan.candidates(ResourceRequest(), pool, {"a": {"cuda:1": 0.5}}, kept=kept) == ["b"]
    # Its memory goes back to the device that it was on, and Ray does not know which that is.
    assert plan.does(ResourceRequest(), kept, lease("2", "a", "cuda:1"), pool)
    assert not plan.does(ResourceRequest(), kept, lease("2", "a", "cuda:0"), pool)
    assert plan.does(ResourceRequest(), kept, lease("2", "b", "cuda:0"), pool)


def test_is_served_counts_who_stands_before() -> None:
    pool = [node("a", 1), node("b", 1)]
    queue = waiting(ResourceRequest(), ResourceRequest(node="a"), ResourceRequest())
    held_a = [lease("1", "a", "cuda:0")]
    assert plan.is_served(0, queue, pool, [])
    assert not plan.is_served(1, queue, pool, [])  # the first takes a
    assert plan.is_served(2, queue, pool, [])  # behind one that waits, and could not go to b
    assert not plan.is_served(2, waiting(*(ResourceRequest(),) * 3), pool, [])
    assert not plan.is_served(1, waiting(ResourceRequest(devices=2), ResourceRequest()), [node("a", 2)], held_a)
    # Whom Ray does not give what seems to be there, others do not pass, where they could go to the same node.
    assert not plan.is_served(2, queue, pool, [], stuck={0})
    pinned = waiting(ResourceRequest(node="a"), ResourceRequest(node="b"))
    assert plan.is_served(1, pinned, pool, [], stuck={0}) and not plan.is_served(0, pinned, pool, [], stuck={0})
    assert plan.could_go(pinned[:1], pool) == {"a"}
    assert plan.is_served(1, waiting(ResourceRequest(), ResourceRequest()), pool, [])
    assert not plan.is_served(0, queue, pool, [lease("1", "a", "cuda:0"), lease("2", "b", "cuda:0")])


@given(
    st.lists(
        st.builds(
            ResourceRequest,
            devices=st.integers(1, 2),
            share=st.sampled_from([1.0]),
            node=st.sampled_from([None, "a", "b"]),
        )
        | st.builds(ResourceRequest, share=st.sampled_from([0.25, 0.5, 0.9])),
        max_size=8,
    )
)
def test_nothing_is_ever_given_twice(requests: list[ResourceRequest]) -> None:
    pool = [node("a"), node("b")]
    held: list[Lease] = []
    for number, request in enumerate(requests):
        found = plan.candidates(request, pool, used_of(held))
        assert plan.is_served(0, waiting(request), pool, held) == bool(found)
        if found:
            where = next(each for each in pool if each.id == found[0])
            devices = room(request, where.devices, used_of(held).get(where.id, {}))
            assert devices is not None
            mine = lease(str(number), where.id, *devices, share=request.share)
            assert not plan.clashes(mine, held)
            held.append(mine)
    assert all(total <= 1 + ATOM for on in used_of(held).values() for total in on.values())


def test_clashes_tells_what_ray_did_not_know() -> None:
    held = [lease("1", "a", "cuda:0"), lease("2", "a", "cuda:1", share=0.5)]
    assert plan.clashes(lease("3", "a", "cuda:0"), held)
    assert not plan.clashes(lease("3", "b", "cuda:0"), held)
    assert not plan.clashes(lease("3", "a", "cuda:1", share=0.5), held)
    assert plan.clashes(lease("3", "a", "cuda:1", share=0.75), held)
    assert not plan.clashes(held[0], held)


# -- words for Ray -------------------------------------------------------------------------------------------


def test_selector_names_nodes() -> None:
    assert plan.selector(["x"]) == {"ray.io/node-id": "x"}
    assert plan.selector(["x", "y"]) == {"ray.io/node-id": "in(x,y)"}


def test_demand_has_what_is_held_beside_what_waits() -> None:
    held = [lease("1", "a", "cuda:0", "cuda:1"), lease("2", "a", "cuda:2", share=0.5)]
    waiting = [ResourceRequest(devices=4, labels={"zone": "!b"}), ResourceRequest(share=0.25)]
    assert plan.demand(held, [], [node("a")]) == ([], [])
    bundles, selectors = plan.demand(held, waiting, [node("a")])
    assert bundles == [{"GPU": 2.0}, {"GPU": 0.5}, {"GPU": 4.0}, {"GPU": 0.25}]
    assert selectors == [{}, {}, {"zone": "!b"}, {}]


def test_demand_has_nothing_that_no_new_node_could_serve() -> None:
    held = [lease("1", "a", "cuda:0")]
    useless = [ResourceRequest(node="a"), ResourceRequest(kind="cpu")]
    assert plan.demand(held, useless, [node("a")]) == ([], [])
    assert plan.demand(held, [*useless, ResourceRequest(kind=CUDA)], [node("a")])[0] == [{"GPU": 1.0}] * 2
    # Stand-ins for GPUs: more of them may come.
    stands_in = Node("c", NodeState.UP, (Device("cpu:0", "cpu", "CPU", GIB),))
    assert plan.demand([], useless, [stands_in])[0] == [{"GPU": 1.0}]


def test_lease_of_an_actors_name() -> None:
    assert plan.lease_of("lease-abc.12ef") == "abc"
    assert plan.lease_of("agent-node-1") == ""


def test_keeper_is_another_for_other_arguments_and_another_version_only() -> None:
    made = ["folder", {"GPUAAS_TLS": "on", "GPUAAS_CA": "ca.pem"}, "home", "m"]
    name = plan.keeper("node-1", "f" * 56, made, "1.0")
    assert name.startswith(plan.keepers_of("node-1", "f" * 56))
    assert plan.keeper("node-1", "f" * 56, ["folder", dict(reversed(made[1].items())), "home", "m"], "1.0") == name
    others = [["folder", {"GPUAAS_CA": "ca.pem"}, "home", "m"], ["folder", made[1], "home", "other"]]
    assert len({name, plan.keeper("node-1", "f" * 56, made, "1.1")}) == 2
    assert name not in {plan.keeper("node-1", "f" * 56, other, "1.0") for other in others}
    assert not plan.keeper("node-1", "e" * 56, made, "1.0").startswith(plan.keepers_of("node-1", "f" * 56))


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("http://10.0.0.7:1", True), ("https://10.0.0.7:1", False), ("http://node:1", True),
        ("http://127.0.0.1:1", False), ("http://[::1]:1", False),
    ],
)  # fmt: skip
def test_what_goes_in_the_clear(url: str, answer: bool) -> None:
    assert plan.in_the_clear(url) is answer


class _OneNode:
    """A cluster of one node, whose keeper has found an agent at this address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.namespace = "service"

    async def nodes(self) -> list[plan.RayNode]:
        return [plan.RayNode(ray_id="f" * 56, alive=True, address="10.0.0.7", name="a", gpus=1.0)]

    async def agent(self, *_: Any) -> dict[str, Any]:
        return {"url": self._url, "token": "x"}


async def test_agent_that_does_not_speak_tls_is_not_talked_to_where_that_is_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster: Any = _OneNode("http://10.0.0.7:1")
    members = Members(Settings(home=str(tmp_path), tls="on"), cluster, start=True)
    await members.open()
    assert members.nodes() == []
    assert "node a: its agent at http://10.0.0.7:1 does not speak TLS" in caplog.text


class _Leaving:
    """A cluster whose one node can leave it."""

    namespace = "service"

    def __init__(self) -> None:
        self.left = False
        self.looks = 0

    async def nodes(self) -> list[plan.RayNode]:
        self.looks += 1
        return [] if self.left else await _OneNode("").nodes()

    async def agent(self, *_: Any) -> dict[str, Any]:
        return {"url": "http://127.0.0.1:1", "token": "x"}

    async def looked(self) -> None:
        """Ray was asked, and what it said was taken in."""
        looks = self.looks
        await eventually(lambda: self.looks >= looks + 3)


class _Agent:
    """An agent that answers while it is there."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    def __call__(self, endpoint: AgentEndpoint) -> _Agent:
        return self

    async def node(self) -> Node:
        if self.gone.is_set():
            raise TransportError("it does not answer.")
        return Node("a", NodeState.UP, (gpu(0),))

    async def watch(self) -> AsyncIterator[None]:
        await self.gone.wait()
        return
        yield

    async def close(self) -> None:
        pass


async def test_node_that_has_left_ray_is_forgotten_by_when_its_agent_was_last_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, cluster, agent = [1000.0], _Leaving(), _Agent()
    monkeypatch.setattr(members_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(members_module, "AgentClient", agent)
    given_: Any = cluster
    members = Members(Settings(home=str(tmp_path), ray_poll_s=0.01, retry_first_s=0.01), given_, start=True)

    def states() -> list[NodeState]:
        return [each.state for each in members.nodes()]

    await members.open()
    members.follow()
    try:
        await eventually(lambda: states() == [NodeState.UP])
        cluster.left = True
        await eventually(lambda: states() == [NodeState.CORDONED])
        # What runs there goes on for long, and then its agent stumbles.
        now_s[0] += 2 * members_module.FORGET_S
        agent.gone.set()
        await eventually(lambda: states() == [NodeState.LOST])
        await cluster.looked()
        now_s[0] += members_module.FORGET_S - 1
        await cluster.looked()
        assert states() == [NodeState.LOST]
        now_s[0] += 2
        await eventually(lambda: states() == [])
    finally:
        await members.close(stop_nodes=False)


# -- labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "value", "answer"),
    [
        ("a", "a", True), ("a", "b", False), ("a", None, False),
        ("!a", "a", False), ("!a", "b", True), ("!a", None, True),
        ("in(a, b)", "b", True), ("in(a,b)", "c", False), ("in(a,b)", None, False),
        ("!in(a,b)", "b", False), ("!in(a,b)", "c", True), ("!in(a,b)", None, True),
        ("in(a", "a", False), ("a,b", "a", False),
    ],
)  # fmt: skip
def test_selects_each_operator(selector: str, value: str | None, answer: bool) -> None:
    assert selects({"k": selector}, {} if value is None else {"k": value}) is answer


@pytest.mark.parametrize("selector", ["in(a", "in(a))", "a,b", "!!a", "(a)"])
def test_parse_refuses_what_is_no_selector(selector: str) -> None:
    with pytest.raises(ValueError, match="is not like"):
        parse(selector)


def test_why_never_names_labels_and_shares() -> None:
    pool = [msgspec.structs.replace(node("a"), labels={"ray.io/accelerator-type": "L4"})]
    assert why_never(ResourceRequest(labels={"ray.io/accelerator-type": "in(L4,T4)"}), pool) == ""
    assert "accelerator-type H100" in why_never(ResourceRequest(labels={"ray.io/accelerator-type": "H100"}), pool)
    assert "request.share" in why_never(ResourceRequest(devices=2, share=0.5), pool)
    assert "request.share" in why_never(ResourceRequest(share=0.0), pool)


# -- what an agent is started with ---------------------------------------------------------------------------


def test_agent_takes_over_nothing_of_ray_and_no_secret() -> None:
    worker = {"PATH": "/bin", "RAY_AUTH_TOKEN": "x", "RAYLET_PID": "7", "OMP_NUM_THREADS": "1", "PGPASSWORD": "x"}
    assert clean(worker | {"CUDA_VISIBLE_DEVICES": "0"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("listed", "devices"),
    [("", ""), ("0,2", "cuda:0,2"), ("MIG-7,GPU-a", "cuda:MIG-7,GPU-a"), ("-1", ""), ("NoDevFiles", "")],
)
def test_agent_offers_what_its_raylet_may_hand_out(listed: str, devices: str) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": listed}) == devices
