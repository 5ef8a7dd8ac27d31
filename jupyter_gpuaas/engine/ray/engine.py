"""A Ray cluster that exists already, as the pool."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Collection, Sequence

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.engine.base import AgentEndpoint, LeaseMeta, NodeEvent
from jupyter_gpuaas.engine.ray import plan
from jupyter_gpuaas.engine.ray.cluster import Cluster
from jupyter_gpuaas.engine.ray.leases import RayLeases
from jupyter_gpuaas.engine.ray.members import Members
from jupyter_gpuaas.errors import GpuaasError, NoCapacity
from jupyter_gpuaas.lifecycle.placement import why_never, why_odd
from jupyter_gpuaas.model import Lease, Node, ResourceRequest
from jupyter_gpuaas.wire.machine import machine_id

log = logging.getLogger(__name__)

#: Renewals within the time after which Ray has a lease's devices back.
RENEWALS = 4
#: The autoscaler is told again after this long, should its cluster have lost its memory.
TELL_S = 60.0


class RayEngine:
    """Nodes that have GPUs in a Ray cluster, each with an agent of ours.

    Parameters
    ----------
    start
        False: no agents are started, only those that run are found; to end what is left.
    """

    def __init__(self, settings: Settings, *, start: bool = True) -> None:
        self._settings = settings
        self._cluster = Cluster(settings, settings.ray_namespace or _namespace(settings))
        self._members = Members(settings, self._cluster, start=start)
        self._leases = RayLeases(
            settings.folder / "ray-leases.json",
            self._cluster,
            self._members,
            renew_s=settings.ray_lease_s / RENEWALS,
            grant_s=settings.ray_grant_s,
        )
        self._members.on_change = self._leases.kick
        self._members.on_left = self._leases.node_left
        self._leases.on_change = self._ask_for_more
        self._wanted: list[ResourceRequest] = []
        self._telling: asyncio.Task[None] | None = None
        self._news_for_autoscaler = asyncio.Event()
        self.grows = settings.ray_autoscale == "on"

    async def open(self, cordoned: Collection[str] = ()) -> None:
        """See ``Engine.open``."""
        await self._cluster.connect()
        self._leases.load()
        await self._members.open(cordoned)
        await self._leases.adopt()
        self._members.follow()
        self._leases.open()
        if self.grows:
            self._telling = asyncio.create_task(self._tell(), name="tell the autoscaler")
        self._warn()

    def _warn(self) -> None:
        store, mine = self._settings.checkpoint_store, machine_id()
        away = [node.id for node in self.nodes() if node.machine != mine]
        if away and not store:
            log.warning(
                "checkpoints are in a folder of this machine, which %s may not have: set checkpoint_store to a folder "
                "that all nodes share, or to a URL",
                ", ".join(away),
            )
        if away and any(plan.in_the_clear(node.url) for node in self.nodes()):
            log.info(
                "agents of other machines are talked to without encryption: keep the network to the pool, or set tls"
            )

    async def close(self, *, stop_nodes: bool) -> None:
        """See ``Engine.close``."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        await self._members.close(stop_nodes=stop_nodes)
        await self._leases.close(give_back=stop_nodes)
        if stop_nodes and self.grows:
            await self._request([], [])
        await self._cluster.close()

    def nodes(self) -> list[Node]:
        """See ``Engine.nodes``."""
        return self._members.nodes()

    def events(self) -> AsyncIterator[NodeEvent]:
        """See ``Engine.events``."""
        return self._members.news.follow()

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None = None) -> Lease:
        """See ``Engine.acquire``."""
        never = self.why_never(request)
        if never:
            raise NoCapacity(f"{never}.", hint="`jupyter gpuaas nodes` shows what there is.")
        return await self._leases.acquire(request, meta, timeout)

    async def release(self, lease_id: str) -> None:
        """See ``Engine.release``."""
        freeing = self._leases.release(lease_id)
        if freeing is not None:
            await asyncio.shield(freeing)

    async def renew(self, lease_id: str) -> Lease:
        """See ``Engine.renew``; this process renews by itself what it holds."""
        return self._leases.get(lease_id)

    def leases(self) -> list[Lease]:
        """See ``Engine.leases``."""
        return self._leases.held()

    def agent(self, node_id: str) -> AgentEndpoint:
        """See ``Engine.agent``."""
        return self._members.endpoint(node_id)

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """See ``Engine.cordon``."""
        self._members.cordon(node_id, cordoned=cordoned)

    def silent(self, node_id: str, cause: str) -> None:
        """See ``Engine.silent``."""
        self._members.silent(node_id, cause)

    def why_never(self, request: ResourceRequest) -> str:
        """See ``Engine.why_never``; where nodes may come, only what no node at all could serve."""
        if self.grows and request.node is None:
            return why_odd(request)
        return why_never(request, self.nodes())

    def want(self, requests: Sequence[ResourceRequest]) -> None:
        """See ``Engine.want``."""
        self._wanted = list(requests)
        self._ask_for_more()

    # -- the autoscaler ----------------------------------------------------------------------------------------

    def _ask_for_more(self) -> None:
        self._news_for_autoscaler.set()

    async def _tell(self) -> None:
        told: object = None
        while True:
            self._news_for_autoscaler.clear()
            wanted = plan.demand(self.leases(), self._wanted or self._leases.waiting(), self.nodes())
            if wanted != told:
                told = wanted if await self._request(*wanted) else None
            try:
                await asyncio.wait_for(self._news_for_autoscaler.wait(), TELL_S)
            except (asyncio.TimeoutError, TimeoutError):
                told = None

    async def _request(self, bundles: list[dict[str, float]], selectors: list[dict[str, str]]) -> bool:
        try:
            await self._cluster.want(bundles, selectors)
            return True
        except GpuaasError as error:
            log.warning("Ray's autoscaler was not told what waits: %s", error)
            return False


def _namespace(settings: Settings) -> str:
    """A namespace that no other service has, the same after each restart."""
    path = settings.folder / "ray-namespace"
    found = path.read_text("ascii").strip() if path.exists() else ""
    if not found:
        # One that is killed on the way must not leave an empty one, which others would have, too.
        found, draft = f"gpuaas-{os.urandom(6).hex()}", path.with_suffix(".new")
        draft.write_text(found, "ascii")
        draft.replace(path)
    return found
