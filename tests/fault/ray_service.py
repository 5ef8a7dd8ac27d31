"""The service on a Ray cluster, as a process of its own, and its clients."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from jupyter_gpuaas.client.embedded import read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.errors import GpuaasError
from tests.conftest import GpuaasHome
from tests.ray_cluster import RayCluster
from tests.ray_namespaces import NamespaceCluster
from tests.roaming import Roamer
from tests.service import eventually, quick_settings

LEASE_S = 2.0
#: To connect to Ray and start agents, on a busy machine.
UP_S = 150.0
NO_MORE: dict[str, Any] = {"ping_s": 0.5, "silence_s": 2.0}


async def client_of(home: Path, lives: Callable[[], bool], log: Path, pid: int = 0) -> ServiceClient:
    """A client of the service of a folder, once it answers."""

    async def there() -> ServiceClient | None:
        assert lives(), log.read_text()
        written = read_service_file(home)
        if written is None or pid not in (0, written.pid):
            return None
        client = ServiceClient(written.url, (home / "token").read_text().strip(), ca=written.ca)
        with contextlib.suppress(GpuaasError):
            await client.health()
            return client
        await client.close()
        return None

    found: ServiceClient = await eventually(there, UP_S)
    return found


class Up:
    """`jupyter gpuaas up --engine ray`, in a process of its own."""

    def __init__(self, home: GpuaasHome, cluster: RayCluster | NamespaceCluster, **changes: Any) -> None:
        given = {"lease_s": LEASE_S, "checkpoint_share": 1e6, "workdir": "session", **NO_MORE}
        settings = cluster.settings(home.path, **(given | changes))
        environ = home.env | settings.environment()
        for name in ("GPUAAS_ENGINE", "GPUAAS_RAY_ADDRESS"):
            environ.pop(name)
        self._log = (home.path / "up.log").open("ab")
        command = [sys.executable, "-m", "jupyter_gpuaas", "up", "--engine", "ray", "--ray-address", cluster.address]
        self.process = subprocess.Popen(command, env=environ, stdout=self._log, stderr=subprocess.STDOUT)
        self.home = home

    async def client(self) -> ServiceClient:
        """A client of it, once it answers."""

        log = self.home.path / "up.log"
        return await client_of(self.home.path, lambda: not self.ended(), log, self.process.pid)

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

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
    """A client of a session of this name that is ready; when it goes, the session stays."""
    view = await client.create_session(name, wait_s=60)
    remote = RemoteSession(client, view.session.id, quick_settings(home, ca=client.ca, **NO_MORE))
    await remote.open(view.channel)
    try:
        yield Roamer(client, view.session.id, remote)
    finally:
        await remote.close()
