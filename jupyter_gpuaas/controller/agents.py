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
        #: Of agents that have gone, until nobody uses them any more.
        self._retiring: dict[AgentClient, asyncio.Task[None]] = {}
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
            self.forget(node_id)
            client = self._clients[node_id] = AgentClient(endpoint)
        return client

    def forget(self, node_id: str) -> None:
        """The agent that the node had has gone."""
        client = self._clients.pop(node_id, None)
        if client is not None:
            retiring = self._retiring[client] = asyncio.create_task(client.retire(), name=f"retire {node_id}")
            retiring.add_done_callback(lambda _: self._retiring.pop(client, None))

    async def close(self) -> None:
        """Close all connections."""
        clients, retiring = [*self._clients.values(), *self._retiring], list(self._retiring.values())
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        for client in clients:
            await client.close()
        self._clients = {}
