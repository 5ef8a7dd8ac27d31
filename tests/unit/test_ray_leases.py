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
from jupyter_gpuaas.engine.ray.cluster import Held, Holder
from jupyter_gpuaas.engine.ray.leases import RayLeases
from jupyter_gpuaas.errors import AllocationError, LeaseNotWritten, NotAsked
from jupyter_gpuaas.model import CUDA, Device, Lease, Node, NodeState, ResourceRequest
from tests.service import eventually


class World:
    """Cluster and nodes, two of them with one device each: who asks has it when the test gives it."""

    def __init__(self) -> None:
        self.asked: dict[str, Holder] = {}
        self.freed: list[str] = []

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
        return self.asked[name]

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


def test_actor_of_a_version_that_cannot_be_told_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    ray = SimpleNamespace(kill=lambda actor, no_restart: killed.append(actor))
    monkeypatch.setitem(sys.modules, "ray", ray)
    of_before = object()
    cluster._kill(of_before)
    assert killed == [of_before]
