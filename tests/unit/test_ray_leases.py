"""The Ray engine's queue, with a cluster that is not Ray."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.engine.ray import cluster
from jupyter_gpuaas.engine.ray import leases as ray_leases
from jupyter_gpuaas.engine.ray.cluster import Held, Holder
from jupyter_gpuaas.engine.ray.leases import RayLeases
from jupyter_gpuaas.errors import AllocationError, GpuaasError, LeaseNotWritten, NotAsked, TransportError
from jupyter_gpuaas.model import CUDA, Device, Lease, Node, NodeState, ResourceRequest
from tests.service import eventually


class World:
    """Cluster and nodes, two of them with one device each: who asks has it when the test gives it."""

    def __init__(self) -> None:
        self.asked: dict[str, Holder] = {}
        self.told: dict[str, Mapping[str, Any]] = {}
        self.freed: list[str] = []
        #: What actors say of themselves, by their names, one answer after the other.
        self.answers: dict[str, list[Held | GpuaasError | None]] = {}

    def nodes(self) -> list[Node]:
        return [Node(name, NodeState.UP, (Device("cuda:0", CUDA, "GPU", 10),)) for name in "ab"]

    def ray_id(self, node_id: str) -> str:
        return node_id

    def node_of(self, ray_id: str) -> Node:
        return next(each for each in self.nodes() if each.id == ray_id)

    async def hold(
        self, lease_id: str, meta: Mapping[str, Any], gpus: float, ray_ids: Sequence[str], *, suffix: str = ""
    ) -> Holder:
        name = f"{meta['session_id']} {','.join(ray_ids)}"
        self.asked[name] = Holder(name, name, asyncio.get_running_loop().create_future())
        self.told[name] = meta
        return self.asked[name]

    async def holders(self) -> dict[str, str]:
        return {name: name for name in self.answers}

    async def renew(self, actors: Sequence[str]) -> list[Held | GpuaasError | None]:
        return [self.answers[each].pop(0) for each in actors]

    async def free(self, actor: str) -> None:
        self.freed.append(actor)

    def give(self, session: str, node: str) -> None:
        held = Held({"session_id": session, "epoch": 1}, node, ("0",))
        self.asked[f"{session} {node}"].first.set_result(held)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def leases(world: Any, tmp_path: Path) -> AsyncIterator[RayLeases]:
    made = RayLeases(tmp_path / "leases.json", world, world, renew_s=1000.0, grant_s=0.01)
    made.open()
    yield made
    await made.close(give_back=False)


def acquire(leases: RayLeases, session: str, node: str | None = None, timeout: float | None = None) -> Any:
    return asyncio.create_task(leases.acquire(ResourceRequest(node=node), LeaseMeta(session, 1), timeout))


async def test_one_whom_ray_gives_nothing_on_a_node_holds_up_nobody_who_wants_another(
    world: World, leases: RayLeases
) -> None:
    first = acquire(leases, "first", "a")
    await eventually(lambda: any(each.stuck for each in leases._waiting))
    second, behind = acquire(leases, "second", "b"), acquire(leases, "behind", "a")
    anywhere = acquire(leases, "anywhere")
    await eventually(lambda: "second b" in world.asked)
    world.give("second", "b")
    assert (await second).node_id == "b"
    # Nobody passes one who wants the same node.
    assert set(world.asked) == {"first a", "second b"}
    for each in (first, behind, anywhere):
        each.cancel()
    await asyncio.gather(first, behind, anywhere, return_exceptions=True)
    await eventually(lambda: "first a" in world.freed)


async def test_one_who_was_behind_others_all_the_time_is_told_so(world: World, leases: RayLeases) -> None:
    first = acquire(leases, "first", "a")
    await eventually(lambda: any(each.stuck for each in leases._waiting))
    with pytest.raises(NotAsked):
        await leases.acquire(ResourceRequest(node="a"), LeaseMeta("behind", 1), 0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    with pytest.raises(AllocationError) as refused:
        await leases.acquire(ResourceRequest(node="a"), LeaseMeta("alone", 1), 0)
    assert type(refused.value) is AllocationError


async def test_lease_that_cannot_be_written_is_nobodys_and_its_devices_go_back_to_ray(
    world: World, leases: RayLeases, tmp_path: Path
) -> None:
    leases._file = tmp_path / "none" / "leases.json"
    asking = acquire(leases, "one", "a")
    await eventually(lambda: "one a" in world.asked)
    world.give("one", "a")
    with pytest.raises(LeaseNotWritten, match="No such file"):
        await asking
    assert leases.held() == []
    await eventually(lambda: world.freed == ["one a"])


async def test_lease_that_ray_does_not_know_of_holds_up_its_node_only(world: World, leases: RayLeases) -> None:
    lost = Lease("lost", "x", "a", (), 1)
    leases._held[lost.id] = lost
    first, second = acquire(leases, "first", "a"), acquire(leases, "second", "b")
    await eventually(lambda: "second b" in world.asked)
    world.give("second", "b")
    assert (await second).node_id == "b"
    assert "first a" not in world.asked
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_actor_that_was_taken_for_gone_and_lives_gives_way_to_the_next_one(
    world: World, leases: RayLeases
) -> None:
    asking = acquire(leases, "one", "a")
    await eventually(lambda: "one a" in world.asked)
    world.give("one", "a")
    lease = await asking
    leases._grant_s = 1000.0  # the next one waits for its devices
    leases.lost(lease.id)
    await eventually(lambda: world.freed == ["one a"])
    assert leases.held() == [lease]


async def test_those_who_want_any_node_are_served_in_their_order(world: World, leases: RayLeases) -> None:
    leases._grant_s = 1000.0  # else each would ask on both nodes
    first, second = acquire(leases, "first"), acquire(leases, "second")
    await eventually(lambda: "first a" in world.asked)
    world.give("first", "a")
    assert (await first).node_id == "a"
    await eventually(lambda: "second b" in world.asked)
    world.give("second", "b")
    assert (await second).node_id == "b"


async def test_lease_that_no_file_names_is_adopted_though_its_actor_is_slow_to_answer(
    world: World, leases: RayLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_leases, "PAUSE_S", 0.0)
    leases._grant_s = 1000.0
    held = Held({"session_id": "s", "epoch": 3}, "a", ("0",))
    world.answers = {"lease-slow.1": [TransportError("no answer."), held], "lease-gone.1": [None]}
    await leases.adopt()
    assert leases.held() == [Lease("slow", "s", "a", ("cuda:0",), 3)]
    await eventually(lambda: world.freed == ["lease-gone.1"])


async def test_lease_that_waited_for_a_service_that_is_gone_is_not_waited_for_longer_than_ray_may_take(
    world: World, leases: RayLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_leases, "PAUSE_S", 0.02)  # longer than Ray may take here
    world.answers = {"lease-waits.1": [TransportError("no answer."), TransportError("no answer.")]}
    await leases.adopt()
    assert leases.held() == []
    await eventually(lambda: world.freed == ["lease-waits.1"])


async def test_lease_on_a_node_whose_agent_has_not_answered_is_adopted_by_what_its_actor_was_told(
    world: World, leases: RayLeases, tmp_path: Path
) -> None:
    asking = acquire(leases, "one", "a")
    await eventually(lambda: "one a" in world.asked)
    world.give("one", "a")
    lease = await asking

    class Later(World):
        def node_of(self, ray_id: str) -> Any:
            return None

    later: Any = Later()
    later.answers = {f"lease-{lease.id}.1": [Held(dict(world.told["one a"]), "a", ("0",))]}
    another = RayLeases(tmp_path / "of another home.json", later, later, renew_s=1000.0, grant_s=0.01)
    await another.adopt()
    assert another.held() == [lease]
    assert not later.freed


def test_actor_of_a_version_that_cannot_be_told_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    ray = SimpleNamespace(kill=lambda actor, no_restart: killed.append(actor))
    monkeypatch.setitem(sys.modules, "ray", ray)
    of_before = object()
    cluster._kill(of_before)
    assert killed == [of_before]
