"""The whole service on a Ray cluster: a session moves, its controller and then its node are killed, and it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from jupyter_gpuaas.client.embedded import read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import NodeState, Phase, SessionState
from tests.conftest import GpuaasHome
from tests.ray_cluster import RAY_WARNINGS, RayCluster
from tests.roaming import Roamer
from tests.service import eventually, quick_settings

from .nodes import agent_pid, lives, records

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]

S = SessionState
LEASE_S = 2.0
NO_MORE = {"ping_s": 0.5, "silence_s": 2.0}


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def home(cluster: RayCluster, gpuaas_home: GpuaasHome) -> GpuaasHome:
    """After the cluster, whose processes are not to have the folder in their environment."""
    return gpuaas_home


class Up:
    """`jupyter gpuaas up --engine ray`, in a process of its own."""

    def __init__(self, home: GpuaasHome, cluster: RayCluster) -> None:
        settings = cluster.settings(home.path, lease_s=LEASE_S, checkpoint_share=1e6, workdir="session", **NO_MORE)
        environ = home.env | settings.environment()
        for name in ("GPUAAS_ENGINE", "GPUAAS_RAY_ADDRESS"):
            environ.pop(name)
        self._log = (home.path / "up.log").open("ab")
        command = [sys.executable, "-m", "jupyter_gpuaas", "up", "--engine", "ray", "--ray-address", cluster.address]
        self.process = subprocess.Popen(command, env=environ, stdout=self._log, stderr=subprocess.STDOUT)
        self.home = home

    async def client(self) -> ServiceClient:
        """A client of it, once it answers."""

        async def there() -> ServiceClient | None:
            assert self.process.poll() is None, (self.home.path / "up.log").read_text()
            written = read_service_file(self.home.path)
            if written is None or written.pid != self.process.pid:
                return None
            client = ServiceClient(written.url, (self.home.path / "token").read_text().strip())
            with contextlib.suppress(GpuaasError):
                await client.health()
                return client
            await client.close()
            return None

        found: ServiceClient = await eventually(there, 90.0)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def end(self) -> None:
        """As Ctrl-C does, with its sessions."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(90) == 0
        self._log.close()


@contextlib.asynccontextmanager
async def attached(client: ServiceClient, home: Path, name: str) -> AsyncIterator[Roamer]:
    from jupyter_gpuaas.client.session import RemoteSession

    view = await client.create_session(name, wait_s=60)
    remote = RemoteSession(client, view.session.id, quick_settings(home, **NO_MORE))
    await remote.open(view.channel)
    try:
        yield Roamer(client, view.session.id, remote)
    finally:
        await remote.close()


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
