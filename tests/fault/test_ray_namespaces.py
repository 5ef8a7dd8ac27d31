"""The whole service on Ray nodes with networks of their own: cut, frozen, and their head restarted. For root."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.engine import LeaseMeta
from jupyter_gpuaas.errors import AllocationError
from jupyter_gpuaas.model import NodeState, Phase, ResourceRequest, SessionState
from jupyter_gpuaas.wire.tls import key_beside
from tests.certificates import own_ca
from tests.conftest import GpuaasHome, processes_with
from tests.ray_cluster import RAY_WARNINGS
from tests.ray_namespaces import END_S, NamespaceCluster
from tests.service import eventually

from .nodes import agent_pid, is_stopped, lives, records
from .ray_service import Up, attached

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]

S = SessionState
#: Ray gives a node up that is silent for so long (docs/deploy/ray.md), on a busy machine.
GIVEN_UP_S = 90.0
ZERO = ResourceRequest(node="node-0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[NamespaceCluster]:
    cluster = NamespaceCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def home(cluster: NamespaceCluster, gpuaas_home: GpuaasHome) -> Iterator[GpuaasHome]:
    """After the cluster, whose processes are not to have the folder in their environment. Nothing is left on nodes."""
    yield gpuaas_home
    folders = (gpuaas_home.path / "nodes").glob("*")  # each of one service
    left = [process for folder in folders for process in processes_with("GPUAAS_HOME", str(folder))]
    left = psutil.wait_procs(left, timeout=END_S)[1]
    for process in left:
        process.kill()
    assert not left


@pytest.fixture
async def engine(cluster: NamespaceCluster, home: GpuaasHome) -> AsyncIterator[Any]:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    made = RayEngine(cluster.settings(home.path))
    await made.open()
    yield made
    await made.close(stop_nodes=True)


async def state(engine: Any, node_id: str, wanted: NodeState) -> None:
    await eventually(lambda: {node.id: node.state for node in engine.nodes()}[node_id] is wanted, GIVEN_UP_S)


async def test_frozen_node_is_lost_and_back_when_it_goes_on(
    cluster: NamespaceCluster, home: GpuaasHome, engine: Any
) -> None:
    lease = await engine.acquire(ZERO, LeaseMeta("a", 1), timeout=0)
    before = agent_pid(home.path, "node-0")
    with cluster.frozen("node-0"):
        await state(engine, "node-0", NodeState.LOST)
        assert (await engine.acquire(ResourceRequest(), LeaseMeta("b", 1), timeout=30)).node_id == "node-1"
    await asyncio.to_thread(cluster.again, "node-0")  # Ray has given it up, or was about to
    await state(engine, "node-0", NodeState.UP)
    assert agent_pid(home.path, "node-0") == before
    assert lease in engine.leases()
    with pytest.raises(AllocationError):
        await engine.acquire(ZERO, LeaseMeta("c", 1), timeout=0.05)


async def test_node_that_is_cut_off_until_ray_gives_it_up_keeps_agent_and_leases(
    cluster: NamespaceCluster, home: GpuaasHome, engine: Any
) -> None:
    lease = await engine.acquire(ZERO, LeaseMeta("a", 1), timeout=0)
    before = agent_pid(home.path, "node-0")
    with cluster.cut("node-0"):
        await state(engine, "node-0", NodeState.LOST)
        await eventually(lambda: engine._members.ray_id("node-0") is None, GIVEN_UP_S)
        assert engine.leases() == [lease]
    # Its raylet hears that it was given up, and ends; its agent goes on.
    await eventually(lambda: cluster.given_up("node-0"), GIVEN_UP_S)
    await state(engine, "node-0", NodeState.CORDONED)
    await asyncio.to_thread(cluster.again, "node-0")
    await state(engine, "node-0", NodeState.UP)
    assert agent_pid(home.path, "node-0") == before
    await eventually(lambda: lease.id in engine._leases._holders, GIVEN_UP_S)
    with pytest.raises(AllocationError):
        await engine.acquire(ZERO, LeaseMeta("c", 1), timeout=0.05)


async def test_head_that_hangs_keeps_nobody_waiting_for_ever_and_then_has_what_is_held_and_nothing_else(
    cluster: NamespaceCluster, home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from jupyter_gpuaas.engine.ray.cluster import THREAD
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    engine = RayEngine(cluster.settings(home.path, ray_grant_s=2.0))
    await engine.open()
    leases, hold, asked = engine._leases, engine._cluster.hold, []

    async def counted(lease_id: str, told: Any, *others: Any, **more: Any) -> Any:
        asked.append(told["session_id"])
        return await hold(lease_id, told, *others, **more)

    monkeypatch.setattr(engine._cluster, "hold", counted)
    try:
        lease = await engine.acquire(ZERO, LeaseMeta("a", 1), timeout=30)
        kept = await engine.acquire(ResourceRequest(node="node-1"), LeaseMeta("b", 1), timeout=30)
        ray.kill(leases._holders[kept.id])
        with cluster.hanging():
            leases.lost(kept.id)
            await asyncio.wait_for(engine.release(lease.id), GIVEN_UP_S)
            assert engine.leases() == [kept]
            with pytest.raises(AllocationError):
                await asyncio.wait_for(engine.acquire(ResourceRequest(), LeaseMeta("hasty", 1), timeout=0), GIVEN_UP_S)
            waiting = asyncio.create_task(engine.acquire(ZERO, LeaseMeta("c", 1)))
            # Ray is asked for each of them again and again.
            await eventually(lambda: min(asked.count("b"), asked.count("c")) >= 3, GIVEN_UP_S)
            assert {node.state for node in engine.nodes()} == {NodeState.UP}  # what runs there goes on
        again = await asyncio.wait_for(waiting, GIVEN_UP_S)
        assert again.device_ids == lease.device_ids
        await eventually(lambda: kept.id in leases._holders, GIVEN_UP_S)
        await eventually(lambda: THREAD not in {each.name for each in threading.enumerate()}, GIVEN_UP_S)

        async def settled() -> bool:
            there = await engine._cluster.holders()
            return {each._actor_id for each in there.values()} == {each._actor_id for each in leases._holders.values()}

        await eventually(settled, GIVEN_UP_S)
        assert engine.leases() == [kept, again]
    finally:
        await engine.close(stop_nodes=True)


async def test_service_that_ends_while_the_head_hangs_leaves_nothing_on_nodes(
    cluster: NamespaceCluster, home: GpuaasHome
) -> None:
    up = Up(home, cluster, ray_lease_s=20.0)
    client = await up.client()
    async with attached(client, home.path, "one") as roamer:
        kernel = int(await roamer.said("import os; print(os.getpid())"))
    await client.close()
    agents = [agent_pid(home.path, name) for name in ("node-0", "node-1")]
    with cluster.hanging():
        await eventually(lambda: "Ray does not tell of its nodes" in (home.path / "up.log").read_text(), GIVEN_UP_S)
        await asyncio.to_thread(up.end)
        await eventually(lambda: not any(map(lives, [*agents, kernel])))


@pytest.mark.parametrize("hurt", ["cut", "frozen"])
async def test_session_of_a_silent_node_comes_back_elsewhere_and_nothing_of_it_runs_twice(
    cluster: NamespaceCluster, home: GpuaasHome, hurt: str
) -> None:
    up = Up(home, cluster)
    client = await up.client()
    async with attached(client, home.path, "one") as roamer:
        kernel = int(await roamer.said("import os; x = [41]; print(os.getpid())"))
        source = await roamer.node()

        async def kept() -> bool:
            return bool(await client.checkpoints(roamer.id))

        await eventually(kept)
        with cluster.cut(source) if hurt == "cut" else cluster.frozen(source):
            assert await roamer.told("print(x[0] + 1)") == "42"
            assert await roamer.node() != source
            # What is left on a node that nobody reaches stands still by itself.
            assert is_stopped(kernel) or not lives(kernel)
        await eventually(lambda: not lives(kernel), GIVEN_UP_S)
        await eventually(lambda: not records(home.path, source), GIVEN_UP_S)
        assert await roamer.said("x[0] += 1; print(x[0])") == "42"
    await client.close()
    up.end()
    cluster.again(source)  # Ray has given it up, or was about to


async def test_session_runs_and_moves_by_tls_between_nodes_with_certificates_of_their_own(
    cluster: NamespaceCluster, home: GpuaasHome
) -> None:
    # The nodes have theirs where they would be on other machines; each is good for its node's address only.
    authority, folder = own_ca(home.path), home.path / "elsewhere"
    folder.mkdir()
    for name in ("node-0", "node-1"):
        cert = Path(authority.issue(name, (cluster.host(name),)).file)
        for path in (cert, Path(key_beside(str(cert)))):
            path.rename(folder / path.name)
    shutil.copy(home.path / "certs" / "ca.pem", folder)
    tls = {"tls": "on", "ca": str(folder / "ca.pem"), "node_cert": str(folder / "{node}.pem")}
    first = Up(home, cluster, **tls)
    client = await first.client()
    assert {node.url.rpartition(":")[0] for node in await client.nodes()} == {
        f"https://{cluster.host(name)}" for name in ("node-0", "node-1")
    }
    async with attached(client, home.path, "one") as roamer:
        await roamer.said("import numpy, os; a = numpy.arange(1_000_000)")
        source = await roamer.node()
        view = await roamer.migrate("node-1" if source == "node-0" else "node-0")
        assert view.phase is Phase.DONE, view
        assert await roamer.node() != source
        kernel = await roamer.said("print(os.getpid(), int(a.sum()))")
        # The next controller finds agents that speak TLS, and leaves them be.
        agents = [agent_pid(home.path, name) for name in ("node-0", "node-1")]
        first.kill()
        second = Up(home, cluster, **tls)
        roamer.client = await second.client()
        assert [agent_pid(home.path, name) for name in ("node-0", "node-1")] == agents
        await roamer.until(S.IDLE)
        await roamer.client.close()
    client_again = await second.client()
    async with attached(client_again, home.path, "one") as roamer:
        assert await roamer.said("print(os.getpid(), int(a.sum()))") == kernel
    await client_again.close()
    await client.close()
    second.end()


async def test_head_that_is_killed_and_comes_back_with_its_memory_finds_nodes_leases_and_sessions(
    cluster: NamespaceCluster, home: GpuaasHome
) -> None:
    first = Up(home, cluster)
    former = client = await first.client()
    names = ("node-0", "node-1")
    async with attached(client, home.path, "one") as roamer:
        kernel = int(await roamer.said("import os; x = 41; print(os.getpid())"))
        node = await roamer.node()
        agents, rays = [agent_pid(home.path, name) for name in names], cluster.raylets()
        await asyncio.to_thread(cluster.lose, "head")  # and with it the raylet that the service goes by
        assert await roamer.said("x += 1; print(x)") == "42"
        await asyncio.to_thread(cluster.start_head)
        assert await roamer.said("x += 1; print(x)") == "43"
    assert cluster.raylets() == rays  # the nodes have not noticed
    # A new lease, on the node that is free; the other is held.
    view = await client.create_session("two", wait_s=60)
    assert view.session.lease is not None and view.session.lease.node_id != node
    leases = await client.allocations()
    # So does a service find them that starts then.
    first.kill()
    second = Up(home, cluster)
    client = await second.client()
    assert [agent_pid(home.path, name) for name in names] == agents
    assert sorted(lease.id for lease in await client.allocations()) == sorted(lease.id for lease in leases)
    async with attached(client, home.path, "one") as roamer:
        assert await roamer.said("print(os.getpid(), x)") == f"{kernel} 43"
    await former.close()
    await client.close()
    second.end()
