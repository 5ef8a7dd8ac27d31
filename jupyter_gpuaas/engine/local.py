"""Nodes as processes on this machine, each with a data folder of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection

import msgspec

from jupyter_gpuaas.config import PREFIX, Settings
from jupyter_gpuaas.engine.base import AgentEndpoint, NodeEvent
from jupyter_gpuaas.engine.environment import for_nodes, taken_over
from jupyter_gpuaas.engine.pool import NodePool
from jupyter_gpuaas.engine.process import AgentProcess
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.model import Node, NodeState
from jupyter_gpuaas.wire.tls import of_service

log = logging.getLogger(__name__)

NODE_PREFIX = "local-"


class LocalEngine(NodePool):
    """The machine that we run on, as a pool of ``settings.nodes`` nodes.

    Agents are processes of their own, which outlive this one: ``open`` finds them again.
    """

    def __init__(self, settings: Settings, *, nodes: int | None = None) -> None:
        super().__init__(settings.folder)
        self._settings = settings
        self._wanted = settings.nodes if nodes is None else nodes
        self._folder = settings.folder / "nodes"
        self._agents: dict[str, AgentProcess] = {}
        self._guards: list[asyncio.Task[None]] = []

    async def open(self, cordoned: Collection[str] = ()) -> None:
        """See ``Engine.open``."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._load(cordoned)
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
            credentials=of_service(self._settings),
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
        return taken_over(os.environ) | for_nodes(self._settings) | {PREFIX + "HOME": str(self._settings.folder)}

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

    def agent(self, node_id: str) -> AgentEndpoint:
        """See ``Engine.agent``."""
        agent = self._agents.get(node_id)
        if agent is None or agent.endpoint is None:
            raise TransportError(f"node {node_id} does not answer now.")
        return agent.endpoint
