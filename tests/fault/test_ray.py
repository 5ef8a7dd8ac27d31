"""The whole service on a Ray cluster: a session moves, its controller and then its node are killed, and it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpuaas.model import NodeState, Phase, SessionState
from tests.conftest import GpuaasHome
from tests.ray_cluster import RAY_WARNINGS, RayCluster
from tests.service import eventually

from .nodes import agent_pid, lives, records
from .ray_service import Up, attached

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]

S = SessionState


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def home(cluster: RayCluster, gpuaas_home: GpuaasHome) -> GpuaasHome:
    """After the cluster, whose processes are not to have the folder in their environment."""
    return gpuaas_home


def kill_node(cluster: RayCluster, home: Path, node: str) -> None:
    """A node goes with everything on it: raylet, agent, hosts, and kernels with these."""
    cluster.lose(node)
    for pid in (agent_pid(home, node), *(record.pid for record in records(home, node))):
        os.kill(pid, signal.SIGKILL)


async def test_session_moves_is_adopted_and_comes_back_from_a_lost_node(cluster: RayCluster, home: GpuaasHome) -> None:
    first = Up(home, cluster)
    former = client = await first.client()
    assert [(node.id, node.state) for node in await client.nodes()] == [
        ("node-0", NodeState.UP),
        ("node-1", NodeState.UP),
    ]
    async with attached(client, home.path, "one") as roamer:
        # A cell; nothing of Ray is in its environment.
        kernel = int(await roamer.said("import os; x = [41]; y = x; print(os.getpid())"))
        ray = "print(sorted(name for name in os.environ if name.startswith('RAY_')), os.environ.get('OMP_NUM_THREADS'))"
        assert await roamer.said(ray) == "[] None"
        # It moves.
        source = await roamer.node()
        target = "node-1" if source == "node-0" else "node-0"
        view = await roamer.migrate(target)
        assert view.phase is Phase.DONE, view
        assert await roamer.node() == target
        assert await roamer.said("x[0] += 1; print(y[0])") == "42"
        await eventually(lambda: not lives(kernel))
        kernel = int(await roamer.said("print(os.getpid())"))
        agents = [agent_pid(home.path, node) for node in ("node-0", "node-1")]
        # The controller is killed, and the next one finds it running.
        first.kill()
        second = Up(home, cluster)
        client = roamer.client = await second.client()
        assert [agent_pid(home.path, node) for node in ("node-0", "node-1")] == agents
        await roamer.until(S.IDLE)
        (lease,) = await client.allocations()
        assert lease.node_id == target
    await former.close()  # by which the session's first client has looked for it, too
    async with attached(client, home.path, "one") as roamer:
        assert await roamer.said("print(os.getpid(), y[0])") == f"{kernel} 42"

        async def kept() -> bool:
            found = await client.checkpoints(roamer.id)
            return bool(found)

        await eventually(kept)
        # Its node dies.
        kill_node(cluster, home.path, target)
        assert await roamer.told("print(y[0] + 1)") == "43"
        assert await roamer.node() == source
    await client.close()
    second.end()
