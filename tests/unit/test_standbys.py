"""Standbys that cannot be made: what is told of them, and when they are tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller import standbys
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.controller.standbys import NOWHERE, Standbys
from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.errors import LeaseNotWritten, TransportError
from jupyter_gpuaas.lifecycle.fairness import Standing
from jupyter_gpuaas.lifecycle.standby import decide
from jupyter_gpuaas.model import Device, GpuSession, Lease, Node, NodeState, ResourceRequest, SessionState
from tests.service import eventually

WHY = "lease not written: No space left on device"


class World:
    """All that standbys have to do with: a session on one of two nodes, and an engine that cannot write its leases."""

    def __init__(self) -> None:
        own = Lease("l", "s", "a", ("cpu:0",), 1)
        session = GpuSession(
            id="s", name="n", owner="o", state=SessionState.IDLE, epoch=1, request=ResourceRequest(standby=1),
            created_s=0.0, since_s=0.0, lease=own,
        )  # fmt: skip
        self.live = LiveSession(SessionRecord(session=session, secret="", epochs=1))
        self.granted = [own]
        self.writes = False
        #: Epochs that devices were asked for with.
        self.asked: list[int] = []
        self.told: list[str] = []
        self.changed = Bell()

    def all(self) -> list[LiveSession]:
        return [self.live]

    def nodes(self) -> list[Node]:
        return [Node(name, NodeState.UP, (Device("cpu:0", "cpu", "CPU", 10),)) for name in "ab"]

    def leases(self) -> list[Lease]:
        return self.granted

    def held(self) -> list[Lease]:
        return []

    def lost(self, node_id: str) -> bool:
        return False

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float) -> Lease:
        self.asked.append(meta.epoch)
        if not self.writes:
            raise LeaseNotWritten(f"{WHY}.")
        self.granted.append(Lease("standby", meta.session_id, "b", ("cpu:0",), meta.epoch))
        return self.granted[-1]

    def keep(self, live: LiveSession, **fields: Any) -> None:
        live.record = msgspec.structs.replace(live.record, **fields)

    def tell(self, session: GpuSession, kind: str, cause: str, detail: Any) -> None:
        self.told.append(cause)

    def spec(self, *_: Any) -> Any:
        return SimpleNamespace(peer=NOWHERE)

    def of(self, node_id: str) -> None:
        raise TransportError(f"node {node_id} does not answer now.")

    async def pause(self, pause_s: float) -> None:
        await self.changed.next().wait()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def made(world: World) -> AsyncIterator[Standbys]:
    given = cast(Any, world)
    found = Standbys(Means(given, given, given, given, given, given, Settings()), given, lambda owner: Standing())
    yield found
    await found.close()


async def test_standby_whose_lease_cannot_be_written_is_told_so_and_takes_no_epoch_at_each_look(
    world: World, made: Standbys, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def looked(facts: Any) -> Any:
        nonlocal looks
        looks += 1
        return decide(facts)

    monkeypatch.setattr(standbys, "decide", looked)
    made.look(world.live)
    await eventually(lambda: world.told)
    for _ in range(3):
        before = looks
        made.changed()
        await eventually(lambda before=before: looks > before)
    view = made.view(world.live)
    assert view is not None and (view.state, view.cause) == ("waits", WHY)
    assert world.told == [f"no standby: {WHY}"] and world.asked == [2]


async def test_standby_whose_lease_could_not_be_written_is_made_when_that_can_be(
    world: World, made: Standbys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standbys, "AGAIN_S", 0.01)
    made.look(world.live)
    await eventually(lambda: len(world.asked) > 2)
    world.writes = True
    await eventually(lambda: world.live.record.aside)
    assert world.told == [f"no standby: {WHY}", "a standby starts on b"]


async def test_host_ahead_whose_lease_cannot_be_written_is_done_without(world: World, made: Standbys) -> None:
    lost = msgspec.structs.replace(world.live.session, state=SessionState.LOST)
    world.live.record = msgspec.structs.replace(world.live.record, session=lost)
    assert await made.hurry(world.live) is None
    assert world.asked == [2]
