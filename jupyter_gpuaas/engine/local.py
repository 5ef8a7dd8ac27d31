"""Nodes as processes on this machine, each with a data folder of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence

import msgspec

from jupyter_gpuaas.config import PREFIX, Settings, inherited
from jupyter_gpuaas.engine.base import AgentEndpoint, LeaseMeta, NodeEvent
from jupyter_gpuaas.engine.cordons import Cordons
from jupyter_gpuaas.engine.environment import for_nodes
from jupyter_gpuaas.engine.news import News
from jupyter_gpuaas.engine.process import AgentProcess
from jupyter_gpuaas.engine.queue import LeaseQueue
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.lifecycle.placement import why_never
from jupyter_gpuaas.model import Lease, Node, NodeState, ResourceRequest

log = logging.getLogger(__name__)

NODE_PREFIX = "local-"


class LocalEngine:
    """The machine that we run on, as a pool of ``settings.nodes`` nodes.

    Agents are processes of their own, which outlive this one: ``open`` finds them again.
    """

    grows = False

    def __init__(self, settings: Settings, *, nodes: int | None = None) -> None:
        self._settings = settings
        self._wanted = settings.nodes if nodes is None else nodes
        self._folder = settings.folder / "nodes"
        self._queue = LeaseQueue(settings.folder / "leases.json", self.nodes)
        self._agents: dict[str, AgentProcess] = {}
        self._nodes: dict[str, Node] = {}
        self._news = News()
        self._guards: list[asyncio.Task[None]] = []
        self._cordons = Cordons(settings.folder / "cordons.json")
        self._silent: set[str] = set()

    async def open(self) -> None:
        """See ``Engine.open``."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._queue.load()
        self._cordons.load()
        wanted = {f"{NODE_PREFIX}{number}" for number in range(self._wanted)}
        leased = {lease.node_id for lease in self._queue.held()}
        # An earlier service may have had more nodes: what runs there is not given up.
        former = {path.parent.name for path in self._folder.glob("*/agent.json")} - wanted - leased
        started = await asyncio.gather(
            *(self._bring_up(node_id, start=True) for node_id in wanted | leased),
            # Without nodes of our own we are here to end what is left: hosts of a dead agent, too.
            *(self._bring_up(node_id, start=self._wanted == 0) for node_id in former),
            return_exceptions=True,
        )
        for outcome in started:
            if isinstance(outcome, BaseException):
                # What an earlier service left running is not ours to end because a new node fails.
                for node_id in [key for key, a in self._agents.items() if not a.started_here]:
                    del self._agents[node_id]
                await self.close(stop_nodes=True)
                raise outcome
        self._guards = [asyncio.create_task(self._guard(node_id), name=f"guard {node_id}") for node_id in self._nodes]
        self._queue.serve()

    async def _bring_up(self, node_id: str, *, start: bool) -> None:
        agent = AgentProcess(
            node_id,
            self._folder / node_id,
            environ=self._environ(),
            devices=self._settings.devices,
        )
        node = await agent.adopt()
        if node is None and agent.silent:
            # It lives, and what runs there, too. A second agent beside it would be one too many.
            node = agent.last_known()
            self._silent.add(node_id)
            log.warning("node %s: its agent lives and does not answer", node_id)
        elif node is None and start:
            node = await agent.start(timeout_s=self._settings.start_timeout_s)
        if node is not None:
            self._agents[node_id] = agent
            self._nodes[node_id] = msgspec.structs.replace(node, state=self._state(node_id))

    def _environ(self) -> dict[str, str]:
        # Always, so that whoever looks at a process can tell whose it is.
        return inherited(os.environ) | for_nodes(self._settings) | {PREFIX + "HOME": str(self._settings.folder)}

    async def _guard(self, node_id: str) -> None:
        agent = self._agents[node_id]
        while True:
            cause = await agent.ended()
            self._change(node_id, NodeState.LOST, f"its agent is gone: {cause}")
            telling = asyncio.create_task(self._tell_of_dead(node_id, agent), name=f"hosts of {node_id}")
            try:
                node = await self._start_again(node_id, agent)
            finally:
                telling.cancel()  # from here on the agent tells
            self._nodes[node_id] = node
            self._change(node_id, self._state(node_id), "its agent was started again")
            self._queue.serve()

    async def _start_again(self, node_id: str, agent: AgentProcess) -> Node:
        pause_s = self._settings.retry_first_s
        while True:
            try:
                return await agent.start(timeout_s=self._settings.start_timeout_s)
            except (GpuaasError, OSError) as error:
                log.error("node %s: %s", node_id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._settings.retry_most_s)

    async def _tell_of_dead(self, node_id: str, agent: AgentProcess) -> None:
        """A node that dies takes agent and hosts along; that is known before its agent has been started again."""
        async for gone in agent.dead_hosts():
            self._news.tell(NodeEvent(node_id, NodeState.LOST, "a host is gone as well", (gone,)))

    def _change(self, node_id: str, state: NodeState, cause: str) -> None:
        self._nodes[node_id] = msgspec.structs.replace(self._nodes[node_id], state=state)
        self._news.tell(NodeEvent(node_id, state, cause))

    async def close(self, *, stop_nodes: bool) -> None:
        """See ``Engine.close``."""
        for guard in self._guards:
            guard.cancel()
        await asyncio.gather(*self._guards, return_exceptions=True)
        self._guards = []
        if not stop_nodes:
            for agent in self._agents.values():
                agent.forget()
            return
        limit_s = self._settings.stop_timeout_s + 30.0
        outcomes = await asyncio.gather(
            *(agent.stop(timeout_s=limit_s) for agent in self._agents.values()),
            return_exceptions=True,
        )
        for node_id, outcome in zip(self._agents, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("node %s did not stop: %r", node_id, outcome)
        self._agents = {}
        self._nodes = {}

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
        """See ``Engine.renew``; leases of this machine do not run out, so this only looks."""
        return self._queue.get(lease_id)

    def leases(self) -> list[Lease]:
        """See ``Engine.leases``."""
        return self._queue.held()

    def agent(self, node_id: str) -> AgentEndpoint:
        """See ``Engine.agent``."""
        agent = self._agents.get(node_id)
        if agent is None or agent.endpoint is None:
            raise TransportError(f"node {node_id} does not answer now.")
        return agent.endpoint

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """See ``Engine.cordon``."""
        if node_id not in self._nodes:
            raise TransportError(f"there is no node {node_id}.")
        self._cordons.set(node_id, cordoned=cordoned)
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

    def _state(self, node_id: str) -> NodeState:
        if node_id in self._silent:
            return NodeState.LOST
        return NodeState.CORDONED if node_id in self._cordons else NodeState.UP

    def want(self, requests: Sequence[ResourceRequest]) -> None:
        """See ``Engine.want``; this machine cannot grow, so the hint is only logged."""
        log.debug("%d requests wait", len(requests))
