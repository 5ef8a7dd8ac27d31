"""How a controller asks for the leases of nodes that it takes over from another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.model import LeaseGrant, LeaseRenewal, Node, NodeState
from tests.service import eventually


class Agent:
    """Of a node whose lease still runs, by a renewal of a controller that has been killed."""

    def __init__(self) -> None:
        self.renewals: list[LeaseRenewal] = []

    async def renew_lease(self, renewal: LeaseRenewal) -> LeaseGrant:
        self.renewals.append(renewal)
        return LeaseGrant(agent="the same", beat_s=float(len(self.renewals)), runs=True)


class World:
    """Engine, agents and sessions: two nodes without sessions."""

    grows = False

    def __init__(self) -> None:
        self.by_node = {"one": Agent(), "two": Agent()}

    def nodes(self) -> list[Node]:
        return [Node(name, NodeState.UP, ()) for name in self.by_node]

    async def events(self) -> AsyncIterator[Node]:
        await asyncio.Event().wait()
        yield  # type: ignore[misc]  # never

    def of(self, node_id: str) -> Agent:
        return self.by_node[node_id]

    def all(self) -> list[Any]:
        return []


async def test_lease_that_another_controller_has_renewed_is_renewed_at_once(tmp_path: Path) -> None:
    # It may end a moment from now: a third of it is too long to wait, and the first answer has renewed nothing.
    world = cast(Any, World())
    leases = NodeLeases(world, world, world, Settings(home=str(tmp_path), lease_s=3600.0))
    leases.open()
    try:
        for agent in world.by_node.values():
            await eventually(lambda agent=agent: len(agent.renewals) == 2)
            first, second = agent.renewals
            assert (first.agent, second.agent, second.beat_s) == ("", "the same", 1.0)
    finally:
        await leases.close()
    # The beat that came then makes it run for a while: there is no third one yet.
    assert [len(agent.renewals) for agent in world.by_node.values()] == [2, 2]
