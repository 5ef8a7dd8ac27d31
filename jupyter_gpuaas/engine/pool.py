"""The part of an engine that needs no processes: nodes that are known, their leases, who is cordoned, who is silent."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import msgspec

from jupyter_gpuaas.engine.base import LeaseMeta, NodeEvent
from jupyter_gpuaas.engine.news import News
from jupyter_gpuaas.engine.queue import LeaseQueue
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.lifecycle.placement import why_never
from jupyter_gpuaas.model import Lease, Node, NodeState, ResourceRequest

log = logging.getLogger(__name__)


class NodePool:
    """A pool of nodes whose number stays as it is, with leases kept in ``folder``.

    Who derives from it says where nodes come from, and which agents they have.
    """

    grows = False

    def __init__(self, folder: Path) -> None:
        self._nodes: dict[str, Node] = {}
        self._queue = LeaseQueue(folder / "leases.json", self.nodes)
        self._cordoned: set[str] = set()
        self._news = News()
        self._silent: set[str] = set()

    def _load(self, cordoned: Collection[str]) -> None:
        """Take over leases, from their file, and cordons."""
        self._queue.load()
        self._cordoned = set(cordoned)

    def nodes(self) -> list[Node]:
        """See ``Engine.nodes``."""
        return sorted(self._nodes.values(), key=lambda node: (len(node.id), node.id))

    def events(self) -> AsyncIterator[NodeEvent]:
        """See ``Engine.events``."""
        return self._news.follow()

    def why_never(self, request: ResourceRequest) -> str:
        """See ``Engine.why_never``."""
        return why_never(request, self.nodes())

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None = None) -> Lease:
        """See ``Engine.acquire``."""
        return await self._queue.acquire(request, meta, timeout)

    async def release(self, lease_id: str) -> None:
        """See ``Engine.release``."""
        self._queue.release(lease_id)

    async def renew(self, lease_id: str) -> Lease:
        """See ``Engine.renew``; leases of such a pool do not run out, so this only looks."""
        return self._queue.get(lease_id)

    def leases(self) -> list[Lease]:
        """See ``Engine.leases``."""
        return self._queue.held()

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """See ``Engine.cordon``."""
        if node_id not in self._nodes:
            raise TransportError(f"there is no node {node_id}.")
        (self._cordoned.add if cordoned else self._cordoned.discard)(node_id)
        if self._nodes[node_id].state is not NodeState.LOST:
            self._change(node_id, self._state(node_id), "by request")
            self._queue.serve()

    def silent(self, node_id: str, cause: str) -> None:
        """See ``Engine.silent``."""
        if node_id not in self._nodes or bool(cause) == (node_id in self._silent):
            return
        (self._silent.add if cause else self._silent.discard)(node_id)
        self._change(node_id, self._state(node_id), cause or "it answers again")
        if not cause:
            self._queue.serve()

    def want(self, requests: Sequence[ResourceRequest]) -> None:
        """See ``Engine.want``; such a pool cannot grow, so the hint is only logged."""
        log.debug("%d requests wait", len(requests))

    def _state(self, node_id: str) -> NodeState:
        if node_id in self._silent:
            return NodeState.LOST
        return NodeState.CORDONED if node_id in self._cordoned else NodeState.UP

    def _change(self, node_id: str, state: NodeState, cause: str) -> None:
        self._nodes[node_id] = msgspec.structs.replace(self._nodes[node_id], state=state)
        self._news.tell(NodeEvent(node_id, state, cause))
