"""What every engine must do; one suite over all of them."""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from jupyter_gpuaas.engine import Engine, LeaseMeta
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.local import LocalEngine
from jupyter_gpuaas.engine.process import alive
from jupyter_gpuaas.errors import AllocationError, LeaseError, NoCapacity, TransportError
from jupyter_gpuaas.model import HostSpec, NodeState, ResourceRequest
from tests.conftest import GpuaasHome, processes_with
from tests.fault.nodes import agent_pid
from tests.ray_cluster import RAY_WARNINGS, RayCluster
from tests.ray_namespaces import NamespaceCluster
from tests.service import eventually, quick_settings

ONE = ResourceRequest()


class Kit(ABC):
    """How to make an engine of two nodes with one device each, and how to lose an agent of it."""

    nodes: tuple[str, str]

    def __init__(self, home: Path) -> None:
        self.home = home

    @abstractmethod
    def make(self) -> Engine: ...

    def pid(self, node_id: str) -> int:
        return agent_pid(self.home, node_id)

    def kill(self, node_id: str) -> None:
        os.kill(self.pid(node_id), signal.SIGKILL)


class LocalKit(Kit):
    nodes = ("local-0", "local-1")

    def make(self) -> LocalEngine:
        return LocalEngine(quick_settings(self.home, nodes=2))


class RayKit(Kit):
    nodes = ("node-0", "node-1")

    def __init__(self, home: Path, cluster: RayCluster | NamespaceCluster) -> None:
        super().__init__(home)
        self.cluster = cluster

    def make(self) -> Engine:
        from jupyter_gpuaas.engine.ray.engine import RayEngine

        return RayEngine(self.cluster.settings(self.home))


RAY = [
    pytest.param(kind, marks=[pytest.mark.ray, *RAY_WARNINGS], id=name)
    for name, kind in (("ray", RayCluster), ("ray-namespaces", NamespaceCluster))
]


@pytest.fixture(scope="module", params=[pytest.param(None, id="local"), *RAY])
def cluster(request: pytest.FixtureRequest) -> Iterator[RayCluster | NamespaceCluster | None]:
    """One after the other; None for the local engine, which needs none."""
    made = request.param(RayKit.nodes) if request.param is not None else None
    yield made
    if made is not None:
        made.close()


@pytest.fixture
def kit(cluster: RayCluster | NamespaceCluster | None, gpuaas_home: GpuaasHome) -> Kit:
    """After the cluster: its processes are not to have the test's folder in their environment."""
    return LocalKit(gpuaas_home.path) if cluster is None else RayKit(gpuaas_home.path, cluster)


@pytest.fixture
async def engine(kit: Kit) -> AsyncIterator[Engine]:
    made = kit.make()
    await made.open()
    yield made
    await made.close(stop_nodes=True)


def meta(session: str, epoch: int = 1) -> LeaseMeta:
    return LeaseMeta(session, epoch)


async def test_open_nodes_are_up_and_their_agents_answer(engine: Engine, kit: Kit) -> None:
    nodes = engine.nodes()
    assert [(node.id, node.state, len(node.devices)) for node in nodes] == [
        (kit.nodes[0], NodeState.UP, 1),
        (kit.nodes[1], NodeState.UP, 1),
    ]
    for node in nodes:
        client = AgentClient(engine.agent(node.id))
        assert (await client.node()).id == node.id
        await client.close()


async def test_agent_refuses_another_token(engine: Engine, kit: Kit) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{engine.agent(kit.nodes[0]).url}/v1/node", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 401


async def test_agent_of_unknown_node_is_refused(engine: Engine) -> None:
    with pytest.raises(TransportError, match="moon"):
        engine.agent("moon")


async def test_acquire_devices_are_exclusive_and_the_lease_says_for_whom(engine: Engine, kit: Kit) -> None:
    first = await engine.acquire(ONE, meta("a", 7), timeout=0)
    second = await engine.acquire(ONE, meta("b"), timeout=0)
    assert (first.session_id, first.epoch) == ("a", 7)
    assert {first.node_id, second.node_id} == {kit.nodes[0], kit.nodes[1]}
    assert {lease.id for lease in engine.leases()} == {first.id, second.id}
    with pytest.raises(AllocationError):
        await engine.acquire(ONE, meta("c"), timeout=0.05)
    assert len(engine.leases()) == 2


async def test_acquire_impossible_request_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(NoCapacity, match=r"request\.devices"):
        await engine.acquire(ResourceRequest(devices=2), meta("a"))


async def test_acquire_parts_of_a_device_are_its_whole_together(engine: Engine, kit: Kit) -> None:
    half = ResourceRequest(share=0.5)
    first = await engine.acquire(half, meta("a"), timeout=0)
    second = await engine.acquire(half, meta("b"), timeout=0)  # beside the first, not on the other node
    assert (second.node_id, second.device_ids, second.share) == (first.node_id, first.device_ids, 0.5)
    with pytest.raises(AllocationError):
        await engine.acquire(ResourceRequest(share=0.1, node=first.node_id), meta("c"), timeout=0.05)
    whole = asyncio.create_task(engine.acquire(ResourceRequest(node=first.node_id), meta("d")))
    await asyncio.sleep(0)
    await engine.release(first.id)
    # One who wants the whole is not passed by who wants no more than what is left.
    with pytest.raises(AllocationError):
        await engine.acquire(ResourceRequest(share=0.5, node=first.node_id), meta("e"), timeout=0.05)
    await engine.release(second.id)
    assert (await whole).device_ids == first.device_ids
    with pytest.raises(NoCapacity, match=r"request\.share"):
        await engine.acquire(ResourceRequest(devices=2, share=0.5), meta("f"))


async def test_acquire_again_where_its_host_is_though_the_node_takes_no_others(engine: Engine, kit: Kit) -> None:
    kept = await engine.acquire(ResourceRequest(node=kit.nodes[1]), meta("a"), timeout=0)
    await engine.release(kept.id)
    engine.cordon(kit.nodes[1], cordoned=True)
    back = await engine.acquire(ONE, LeaseMeta("a", 1, kept), timeout=0)
    assert (back.node_id, back.device_ids) == (kept.node_id, kept.device_ids)
    engine.cordon(kit.nodes[1], cordoned=False)


async def test_acquire_waiters_are_served_in_their_order(engine: Engine) -> None:
    held = [await engine.acquire(ONE, meta(name), timeout=0) for name in "ab"]
    waiting = [asyncio.create_task(engine.acquire(ONE, meta(name))) for name in "cde"]
    await asyncio.sleep(0)
    served = []
    for _ in waiting:
        await engine.release(held.pop(0).id)
        await eventually(lambda: sum(task.done() for task in waiting) > len(served))
        held.append(waiting[len(served)].result())
        served.append(held[-1].session_id)
    assert served == ["c", "d", "e"]


async def test_acquire_one_that_waits_for_its_node_is_not_overtaken_there(engine: Engine, kit: Kit) -> None:
    held = await engine.acquire(ResourceRequest(node=kit.nodes[0]), meta("a"), timeout=0)
    picky = asyncio.create_task(engine.acquire(ResourceRequest(node=kit.nodes[0]), meta("b")))
    modest = asyncio.create_task(engine.acquire(ONE, meta("c")))
    await asyncio.sleep(0)
    assert not picky.done()
    await engine.release(held.id)
    assert (await picky).node_id == kit.nodes[0]
    assert (await modest).node_id == kit.nodes[1]


async def test_acquire_cancelled_leaves_no_lease_and_lets_the_next_through(engine: Engine, kit: Kit) -> None:
    await engine.acquire(ResourceRequest(node=kit.nodes[0]), meta("a"), timeout=0)
    picky = asyncio.create_task(engine.acquire(ResourceRequest(node=kit.nodes[0]), meta("b")))
    modest = asyncio.create_task(engine.acquire(ONE, meta("c")))
    await asyncio.sleep(0)
    picky.cancel()
    assert (await modest).session_id == "c"
    with pytest.raises(asyncio.CancelledError):
        await picky
    assert sorted(lease.session_id for lease in engine.leases()) == ["a", "c"]


async def test_acquire_cancelled_after_it_was_served_gives_the_lease_back(engine: Engine) -> None:
    held = [await engine.acquire(ONE, meta(name), timeout=0) for name in "ab"]
    late = asyncio.create_task(engine.acquire(ONE, meta("c")))
    await asyncio.sleep(0)
    await engine.release(held[0].id)  # Serves the waiter, whose task has not run since.
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert [lease.session_id for lease in engine.leases()] == ["b"]


async def test_release_twice_is_no_error_and_renew_tells(engine: Engine) -> None:
    lease = await engine.acquire(ONE, meta("a"), timeout=0)
    assert await engine.renew(lease.id) == lease
    await engine.release(lease.id)
    await engine.release(lease.id)
    with pytest.raises(LeaseError):
        await engine.renew(lease.id)


async def test_cordon_keeps_what_is_there_and_takes_nothing_new(engine: Engine, kit: Kit) -> None:
    news = engine.events()
    engine.cordon(kit.nodes[0], cordoned=True)
    assert (await engine.acquire(ONE, meta("a"), timeout=0)).node_id == kit.nodes[1]
    with pytest.raises(AllocationError):
        await engine.acquire(ONE, meta("b"), timeout=0.05)
    waiting = asyncio.create_task(engine.acquire(ONE, meta("c")))
    await asyncio.sleep(0)
    engine.cordon(kit.nodes[0], cordoned=False)
    assert (await waiting).node_id == kit.nodes[0]
    seen = [await anext(news) for _ in range(2)]
    assert [event.state for event in seen] == [NodeState.CORDONED, NodeState.UP]
    await news.aclose()  # type: ignore[attr-defined]


async def test_open_with_a_cordoned_node_takes_nothing_new_there_until_it_is_told_to(kit: Kit) -> None:
    made = kit.make()
    await made.open({kit.nodes[0], "comes-later"})
    try:
        assert [node.state for node in made.nodes()] == [NodeState.CORDONED, NodeState.UP]
        made.cordon(kit.nodes[0], cordoned=False)
        assert [node.state for node in made.nodes()] == [NodeState.UP, NodeState.UP]
    finally:
        await made.close(stop_nodes=True)
    # It knows of no cordon that it was not told of.
    again = kit.make()
    await again.open()
    try:
        assert [node.state for node in again.nodes()] == [NodeState.UP, NodeState.UP]
    finally:
        await again.close(stop_nodes=True)


async def test_lost_node_is_told_and_comes_back(engine: Engine, kit: Kit) -> None:
    lease = await engine.acquire(ResourceRequest(node=kit.nodes[0]), meta("a"), timeout=0)
    news, before = engine.events(), kit.pid(kit.nodes[0])
    kit.kill(kit.nodes[0])
    seen = [await asyncio.wait_for(anext(news), 30) for _ in range(2)]
    assert [(event.node_id, event.state) for event in seen] == [
        (kit.nodes[0], NodeState.LOST),
        (kit.nodes[0], NodeState.UP),
    ]
    assert kit.pid(kit.nodes[0]) != before
    client = AgentClient(engine.agent(kit.nodes[0]))
    assert (await client.node()).id == kit.nodes[0]
    await client.close()
    assert engine.leases() == [lease]
    await news.aclose()  # type: ignore[attr-defined]


async def test_reopened_engine_finds_leases_and_nodes_again(kit: Kit) -> None:
    first = kit.make()
    await first.open()
    lease = await first.acquire(ONE, meta("a"), timeout=0)
    pids = [kit.pid(node.id) for node in first.nodes()]
    await first.close(stop_nodes=False)
    second = kit.make()
    await second.open()
    try:
        assert second.leases() == [lease]
        assert [kit.pid(node.id) for node in second.nodes()] == pids
        other = await second.acquire(ONE, meta("b"), timeout=0)
        assert other.node_id != lease.node_id
    finally:
        await second.close(stop_nodes=True)


async def test_close_with_its_nodes_leaves_no_process(kit: Kit) -> None:
    made = kit.make()
    await made.open()
    pids = [kit.pid(node.id) for node in made.nodes()]
    await made.close(stop_nodes=True)
    assert not any(alive(pid) for pid in pids)
    assert not list(kit.home.glob("nodes/*/agent.json"))


@pytest.mark.parametrize("moment", ["killed", "told", "spawned"])
async def test_close_while_an_agent_is_started_again_leaves_no_process(kit: Kit, moment: str) -> None:
    if not isinstance(kit, LocalKit):
        pytest.skip("looks into the local engine")
    made = kit.make()
    await made.open()
    news = made.events()
    lease = await made.acquire(ResourceRequest(node=kit.nodes[0]), meta("a"), timeout=0)
    client = AgentClient(made.agent(kit.nodes[0]))
    await client.start_host(HostSpec(session_id="a", name="a", owner="ann", lease=lease, secret="x"))
    await client.close()
    agent, before = made._agents[kit.nodes[0]], made._agents[kit.nodes[0]].pid
    kit.kill(kit.nodes[0])
    if moment != "killed":
        assert (await asyncio.wait_for(anext(news), 30)).state is NodeState.LOST
    if moment == "spawned":
        await eventually(lambda: agent.pid != before)
    await made.close(stop_nodes=True)
    await news.aclose()  # type: ignore[attr-defined]
    assert processes_with("GPUAAS_HOME", str(kit.home)) == []
