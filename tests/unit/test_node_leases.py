"""How a controller asks for the leases of nodes: of those that it takes over, and of those that have gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.catalogue.records import Aside, Incoming, SessionRecord
from jupyter_gpuaas.controller.endings import Endings
from jupyter_gpuaas.controller.leases import LEASE_FILE, NodeLeases
from jupyter_gpuaas.controller.recoveries import Recoveries
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.engine.base import AgentEndpoint, NodeEvent
from jupyter_gpuaas.engine.news import News
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import (
    GpuSession,
    HostReport,
    Lease,
    LeaseGrant,
    LeaseRenewal,
    Node,
    NodeState,
    ResourceRequest,
    SessionState,
)
from tests.service import eventually


class Agent:
    """Of a node whose lease still runs, by a renewal of a controller that has been killed."""

    def __init__(self) -> None:
        self.renewals: list[LeaseRenewal] = []
        self.asked = False

    async def renew_lease(self, renewal: LeaseRenewal) -> LeaseGrant:
        self.renewals.append(renewal)
        return LeaseGrant(agent="the same", beat_s=float(len(self.renewals)), runs=True)

    async def hosts(self) -> list[HostReport]:
        self.asked = True
        return []


class Mute(Agent):
    async def renew_lease(self, renewal: LeaseRenewal) -> LeaseGrant:
        self.renewals.append(renewal)
        raise TransportError("it does not answer.")


class World:
    """Engine, agents and sessions: two nodes without sessions."""

    grows = False

    def __init__(self) -> None:
        self.by_node = {"one": Agent(), "two": Agent()}
        self.sessions: list[LiveSession] = []
        self.news = News()
        self.silenced: list[str] = []

    def nodes(self) -> list[Node]:
        states = {True: NodeState.LOST, False: NodeState.UP}
        return [Node(name, states[isinstance(agent, Mute)], ()) for name, agent in self.by_node.items()]

    def events(self) -> AsyncIterator[NodeEvent]:
        return self.news.follow()

    def of(self, node_id: str) -> Agent:
        if node_id not in self.by_node:
            raise TransportError(f"node {node_id} does not answer now.")
        return self.by_node[node_id]

    def agent(self, node_id: str) -> AgentEndpoint:
        raise TransportError(f"node {node_id} does not answer now.")

    def silent(self, node_id: str, cause: str) -> None:
        if cause and node_id in self.by_node:
            self.silenced.append(node_id)

    def all(self) -> list[LiveSession]:
        return self.sessions

    def advance(self, live: LiveSession, event: SessionEvent, cause: str) -> None:
        assert event is SessionEvent.HOST_DIED
        change(live, state=SessionState.LOST, cause=cause)

    def come(self, name: str) -> Agent:
        """A node that is there from now on."""
        made = self.by_node[name] = Agent()
        self.news.tell(NodeEvent(name, NodeState.UP))
        return made


def session_on(node_id: str) -> LiveSession:
    lease = Lease("l", "s", node_id, ("cpu:0",), 1)
    session = GpuSession(
        id="s", name="n", owner="o", state=SessionState.IDLE, epoch=1, request=ResourceRequest(), created_s=0.0,
        since_s=0.0, lease=lease,
    )  # fmt: skip
    return LiveSession(SessionRecord(session=session, secret=""))


def change(live: LiveSession, **fields: Any) -> None:
    session = msgspec.structs.replace(live.session, **fields)
    live.record = msgspec.structs.replace(live.record, session=session)


def followed(node_id: str) -> bool:
    return any(task.get_name() == f"lease of {node_id}" for task in asyncio.all_tasks())


@contextlib.asynccontextmanager
async def renewing(world: World, home: Path, lease_s: float) -> AsyncIterator[NodeLeases]:
    """The leases of this world's nodes are renewed for the time of the block."""
    given = cast(Any, world)
    leases = NodeLeases(given, given, given, Settings(home=str(home), lease_s=lease_s))
    leases.open()
    try:
        yield leases
    finally:
        await leases.close()


async def test_lease_that_another_controller_has_renewed_is_renewed_at_once(tmp_path: Path) -> None:
    # It may end a moment from now: a third of it is too long to wait, and the first answer has renewed nothing.
    world = cast(Any, World())
    async with renewing(world, tmp_path, 3600.0):
        for agent in world.by_node.values():
            await eventually(lambda agent=agent: len(agent.renewals) == 2)
            first, second = agent.renewals
            assert (first.agent, second.agent, second.beat_s) == ("", "the same", 1.0)
    # The beat that came then makes it run for a while: there is no third one yet.
    assert [len(agent.renewals) for agent in world.by_node.values()] == [2, 2]


async def test_node_that_has_gone_is_lost_for_its_session_and_forgotten_after_that(tmp_path: Path) -> None:
    world = World()
    live = session_on("one")
    world.sessions = [live]
    async with renewing(world, tmp_path, 0.3) as leases:
        await eventually(lambda: len(world.by_node["one"].renewals) > 2)
        del world.by_node["one"]
        # Its lease still has to run out before anything becomes of what it had.
        await eventually(lambda: live.session.state is SessionState.LOST)
        assert "has been silent" in live.session.cause and leases.lost("one")
        # Nobody has its session yet, which may have left something there.
        change(live, lease=None)
        live.record = msgspec.structs.replace(live.record, incoming=Incoming(checkpoint="c", node="one"))
        world.by_node["one"] = Mute()
        await eventually(lambda: world.silenced)  # the engine had forgotten that it is lost
        assert followed("one") and leases.lost("one")
        del world.by_node["one"]
        live.record = msgspec.structs.replace(live.record, incoming=None)
        await eventually(lambda: not followed("one"))
        assert followed("two") and not leases.lost("one")
        # Another of that name is a new one.
        agent = world.come("one")
        await eventually(lambda: len(agent.renewals) > 2)
        assert not leases.lost("one") and not agent.asked


async def test_node_that_the_engine_does_not_know_yet_is_lost_when_its_lease_has_run_out_and_its_host_ended_then(
    tmp_path: Path,
) -> None:
    world = World()
    live = session_on("hanging")
    lease = live.lease
    assert lease is not None
    world.sessions = [live]
    given = cast(Any, world)
    settings = Settings(home=str(tmp_path), lease_s=0.3)
    leases = NodeLeases(given, given, given, settings)
    endings = Endings(given, given, Agents(given), settings, leases)
    leases.open()
    try:
        began_s = asyncio.get_running_loop().time()
        await endings.end(lease, "the engine has lost its lease")
        assert leases.lost("hanging")
        assert asyncio.get_running_loop().time() - began_s >= settings.lease_s
        assert live.session.state is SessionState.LOST
        # Nobody needs to know of it any more.
        change(live, lease=None)
        await eventually(lambda: not followed("hanging"))
        assert not leases.lost("hanging")
    finally:
        await leases.close()


async def test_only_node_is_fenced_no_longer_than_one_that_has_gone_may_act(tmp_path: Path) -> None:
    world = World()
    del world.by_node["two"]
    live = session_on("gone")
    change(live, state=SessionState.PARKED, lease=None)
    live.record = msgspec.structs.replace(live.record, incoming=Incoming(checkpoint="c", node="gone", epoch=1))
    world.sessions = [live]
    async with renewing(world, tmp_path, 0.3) as leases:
        renewals = world.by_node["one"].renewals
        await eventually(lambda: renewals and not renewals[-1].ttl_s)
        assert renewals[0].ttl_s == 0.3 and leases.lost("gone") and followed("gone")


async def test_node_that_was_let_go_on_is_lost_by_no_later_service_until_it_has_taken_a_lease(tmp_path: Path) -> None:
    world = World()
    del world.by_node["two"]
    acts, parked = session_on("one"), session_on("gone")
    change(parked, state=SessionState.PARKED, lease=None)
    parked.record = msgspec.structs.replace(parked.record, incoming=Incoming(checkpoint="c", node="gone", epoch=1))
    world.sessions = [acts, parked]
    given = cast(Any, world)
    settings = Settings(home=str(tmp_path), lease_s=0.3)
    first = NodeLeases(given, given, given, settings)
    first.open()
    renewals = world.by_node["one"].renewals
    await eventually(lambda: renewals and not renewals[-1].ttl_s)
    await first.close()

    mute = world.by_node["one"] = Mute()
    second = NodeLeases(given, given, given, settings)
    second.open()
    try:
        # The one that has gone had a lease with an end.
        await eventually(lambda: second.lost("gone"))
        world.come("two")
        tried = len(mute.renewals)
        await eventually(lambda: len(mute.renewals) > tried + 4)
        assert not second.lost("one") and acts.session.state is SessionState.IDLE
        agent = world.come("one")
        await eventually(lambda: len(agent.renewals) > 2)
        assert agent.renewals[-1].ttl_s and agent.renewals[-1].stands == {"s": 1}
    finally:
        await second.close()

    world.by_node["one"] = Mute()
    third = NodeLeases(given, given, given, settings)
    third.open()
    try:
        await eventually(lambda: third.lost("one") and acts.session.state is SessionState.LOST)
    finally:
        await third.close()


async def test_only_node_keeps_its_lease_where_it_cannot_be_written_that_it_needs_none(tmp_path: Path) -> None:
    world = World()
    del world.by_node["two"]
    (tmp_path / LEASE_FILE).mkdir()
    async with renewing(world, tmp_path, 0.3):
        renewals = world.by_node["one"].renewals
        await eventually(lambda: len(renewals) > 2)
        assert all(renewal.ttl_s == 0.3 for renewal in renewals)
        (tmp_path / LEASE_FILE).rmdir()
        await eventually(lambda: not renewals[-1].ttl_s)


async def test_lost_node_is_not_let_go_on_before_it_is_back(tmp_path: Path) -> None:
    world = World()
    live = session_on("one")
    world.sessions = [live]
    async with renewing(world, tmp_path, 0.3) as leases:
        await eventually(lambda: len(world.by_node["one"].renewals) > 2)
        mute = world.by_node["one"] = Mute()
        await eventually(lambda: leases.lost("one"))
        del world.by_node["two"]
        await eventually(lambda: not followed("two"))
        tried = len(mute.renewals)
        await eventually(lambda: len(mute.renewals) > tried + 2)
        assert leases.lost("one") and mute.renewals[-1].ttl_s
        agent = world.come("one")
        await eventually(lambda: agent.asked and not leases.lost("one"))
        await eventually(lambda: not agent.renewals[-1].ttl_s)


@pytest.mark.parametrize(
    ("written", "longest_s"),
    [
        (b"3600.0", 3600.0),  # by an older version
        (b'{"lease_s": 3600.0, "without_end": []}', 3600.0),
        (b"", 0.3),
        (b"\xff", 0.3),
    ],
)
async def test_lease_of_an_earlier_service_is_known_to_those_that_come_after_it(
    tmp_path: Path, written: bytes, longest_s: float
) -> None:
    world = World()
    world.by_node["one"] = Mute()
    (tmp_path / LEASE_FILE).write_bytes(written)
    given = cast(Any, world)
    settings = Settings(home=str(tmp_path), lease_s=0.3)
    for _ in range(2):
        leases = NodeLeases(given, given, given, settings)
        leases.open()
        await leases.close()
        assert leases._longest_s == longest_s


async def test_node_that_the_engine_comes_to_know_in_time_keeps_its_session(tmp_path: Path) -> None:
    world = World()
    live = session_on("hanging")
    world.sessions = [live]
    async with renewing(world, tmp_path, 3600.0) as leases:
        assert leases.unheard("hanging")
        agent = world.come("hanging")
        await eventually(lambda: agent.asked)  # what it reported while nobody knew of it
        assert not leases.unheard("hanging")
        assert agent.renewals[0].stands == {"s": 1}
        assert live.session.state is SessionState.IDLE


async def test_standby_of_a_host_on_a_node_that_the_engine_does_not_know_yet_waits_until_that_is_fenced(
    tmp_path: Path,
) -> None:
    world = World()
    live = session_on("hanging")
    standby = Aside(lease=Lease("l2", "s", "one", ("cpu:0",), 2))
    live.record = msgspec.structs.replace(live.record, aside=standby)
    change(live, state=SessionState.LOST, cause="the engine has lost its lease")
    world.sessions = [live]
    given = cast(Any, world)
    settings = Settings(home=str(tmp_path), lease_s=3600.0)
    leases = NodeLeases(given, given, given, settings)
    endings = Endings(given, given, given, settings, leases)
    asked: list[SessionRecord] = []
    recoveries = Recoveries(given, given, settings, leases, endings, asked.append)
    leases.open()
    try:
        await recoveries.stand_in(live)
        assert not asked  # for the checkpoint that the standby would go on from
        leases._lost.add("hanging")
        await recoveries.stand_in(live)
        assert asked == [live.record]
    finally:
        await leases.close()
