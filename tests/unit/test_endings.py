"""Endings of hosts on nodes that answer, that are silent, and that have gone: whose devices are free when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.endings import Endings
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.parking import Parking
from jupyter_gpuaas.controller.watcher import Watcher
from jupyter_gpuaas.engine.agent_client import WatchLine
from jupyter_gpuaas.engine.base import NodeEvent
from jupyter_gpuaas.engine.news import News
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.model import Lease, Node, NodeState
from tests.service import eventually

LEASE = Lease("l", "s", "n", ("cpu:0",), 1)


class World:
    """Engine, agents, leases of nodes and sessions, of which there are none: a node that answers."""

    def __init__(self) -> None:
        self.known, self.lost_nodes, self.answering = {"n"}, set[str](), {"n"}
        #: Rung when something is new of the node.
        self.changed = Bell()
        self.news = News()
        self.pauses = 0
        self.done: list[str] = []

    def nodes(self) -> list[Node]:
        return [Node(name, NodeState.UP, ()) for name in self.known]

    def events(self) -> AsyncIterator[NodeEvent]:
        return self.news.follow()

    def announce(self, kind: str, cause: str, **_: str) -> None:
        pass

    async def watch(self) -> AsyncIterator[WatchLine]:
        yield WatchLine(snapshot=True)
        await asyncio.Event().wait()

    def lost(self, node_id: str) -> bool:
        return node_id in self.lost_nodes

    def unheard(self, node_id: str) -> bool:
        return False

    def leases(self) -> list[Lease]:
        return []

    def all(self) -> list[Any]:
        return []

    def of(self, node_id: str) -> World:
        if node_id not in self.answering:
            raise TransportError(f"node {node_id} does not answer now.")
        return self

    async def pause(self, pause_s: float) -> None:
        self.pauses += 1
        await self.changed.next().wait()

    async def stop_host(self, session_id: str, **_: Any) -> None:
        self.done.append("host ended")

    async def drop_remains(self, session_id: str, *, epoch: int) -> None:
        self.done.append(f"remains up to {epoch} dropped")

    async def release(self, lease_id: str) -> None:
        self.done.append("devices free")

    def is_silent(self) -> None:
        self.answering, self.lost_nodes = set(), {"n"}

    def has_gone(self) -> None:
        self.is_silent()
        self.known = set()
        self.changed.ring()

    def answers(self) -> None:
        self.answering = {"n"}
        self.changed.ring()

    def comes_back(self) -> None:
        self.known, self.lost_nodes, self.answering = {"n"}, set(), {"n"}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def endings(world: World, tmp_path: Path) -> AsyncIterator[Endings]:
    given = cast(Any, world)
    made = Endings(given, given, given, Settings(home=str(tmp_path)), given)
    yield made
    await made.close()


def clearing() -> int:
    return sum(task.get_name() == "drop remains of s" for task in asyncio.all_tasks())


async def test_devices_are_free_when_the_host_has_ended_and_its_remains_are_dropped(
    world: World, endings: Endings
) -> None:
    endings.give_back(LEASE, for_good=True)
    await eventually(lambda: not endings.giving_back())
    assert world.done == ["host ended", "remains up to 1 dropped", "devices free"]


async def test_devices_of_a_node_that_has_gone_do_not_wait_for_remains_that_nobody_can_drop(
    world: World, endings: Endings
) -> None:
    world.has_gone()
    endings.give_back(LEASE, for_good=True)
    await eventually(lambda: not endings.giving_back())
    assert world.done == ["devices free"]
    await eventually(lambda: not clearing())


async def test_devices_of_a_lost_node_are_nobodys_until_their_host_has_ended(world: World, endings: Endings) -> None:
    world.is_silent()
    endings.give_back(LEASE, for_good=True)
    await eventually(lambda: world.pauses)
    assert endings.giving_back() == {LEASE} and not world.done
    world.answers()
    await eventually(lambda: not endings.giving_back())
    assert world.done[0] == "host ended"
    await eventually(lambda: len(world.done) == 3)


async def test_remains_on_a_lost_node_wait_for_it_once_and_no_longer_than_it_is_known(
    world: World, endings: Endings
) -> None:
    world.is_silent()
    for _ in range(3):
        endings.clear_away("n", "s", 1)
    await eventually(lambda: world.pauses)
    assert clearing() == 1
    world.has_gone()
    await eventually(lambda: not clearing())
    world.known = {"n"}
    endings.clear_away("n", "s", 2)
    await eventually(lambda: world.pauses == 2)
    world.answers()
    await eventually(lambda: not clearing())
    assert world.done == ["remains up to 2 dropped"]


async def test_remains_on_a_node_whose_agent_is_being_started_again_are_dropped_when_it_answers(
    world: World, endings: Endings
) -> None:
    world.answering = set()
    await endings.drop("n", "s", 1)
    await eventually(lambda: world.pauses)
    assert clearing() == 1 and not world.done
    world.answers()
    await eventually(lambda: not clearing())
    assert world.done == ["remains up to 1 dropped"]


async def test_remains_on_a_node_that_has_gone_are_dropped_once_when_it_is_back(world: World, endings: Endings) -> None:
    world.has_gone()
    endings.clear_away("n", "s", 1)
    await eventually(lambda: not clearing())
    assert not world.done
    given = cast(Any, world)
    watcher = Watcher(Means(given, given, endings, given, given, given, Settings()))
    world.comes_back()
    watcher.open()
    try:
        await eventually(lambda: world.done)
    finally:
        await watcher.close()
    await eventually(lambda: not clearing())
    endings.met("n")
    assert not clearing() and world.done == ["remains up to 1 dropped"]


async def test_nobody_who_waits_waits_for_devices_of_a_lost_node(world: World, endings: Endings) -> None:
    given = cast(Any, world)
    parking = Parking(Means(given, given, endings, given, given, given, Settings()))
    asked: list[str] = []
    parking.pushed_out = lambda: asked.append("who is to make room") or []  # type: ignore[func-returns-value]
    world.answering = set()
    endings.give_back(LEASE)
    parking._look(0.0)
    assert endings.giving_back() and not asked  # it may be back soon
    world.is_silent()
    parking._look(0.0)
    assert endings.giving_back() and asked
