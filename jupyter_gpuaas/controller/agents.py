"""One client a node, renewed when the node's agent has moved."""

from __future__ import annotations

import asyncio
import contextlib

from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import Engine


class Agents:
    """Clients of the agents, kept so that their connections are kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._clients: dict[str, AgentClient] = {}
        self._old: list[AgentClient] = []
        #: Rung when a node came, changed or went; by whoever follows them.
        self.changed = Bell()

    async def pause(self, pause_s: float) -> None:
        """Before a call that failed is made again: so long, or until something is new of a node."""
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self.changed.next().wait(), pause_s)

    def of(self, node_id: str) -> AgentClient:
        """The client of a node.

        Raises
        ------
        TransportError
            The node does not answer now.
        """
        endpoint = self._engine.agent(node_id)
        client = self._clients.get(node_id)
        if client is None or client.endpoint != endpoint:
            if client is not None:
                # Calls that use it fail by themselves: its agent is gone.
                self._old.append(client)
            client = self._clients[node_id] = AgentClient(endpoint)
        return client

    async def close(self) -> None:
        """Close all connections."""
        for client in [*self._clients.values(), *self._old]:
            await client.close()
        self._clients, self._old = {}, []
