"""The queue, without what it asks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.controller import scheduler
from jupyter_gpuaas.controller.fair_use import FairUse
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.controller.scheduler import Scheduler
from jupyter_gpuaas.errors import AllocationError, LeaseNotWritten
from jupyter_gpuaas.lifecycle.fairness import Outlook, Standing
from jupyter_gpuaas.lifecycle.others import FIRST_S
from jupyter_gpuaas.model import Device, Lease, Node, NodeState, ResourceRequest, SessionState
from tests.service import eventually

S = SessionState


def waits(name: str, request: ResourceRequest | None = None, kept: Lease | None = None) -> Any:
    session = SimpleNamespace(
        id=name, name=name, owner=name, request=request or ResourceRequest(), state=S.QUEUED, queue_place=0, cause=""
    )
    return SimpleNamespace(session=session, kept=kept, lease=None, next_epoch=1, hosted=False)


async def test_room_is_made_for_what_is_reserved_and_not_for_all_that_would_do() -> None:
    asked, reserved = ResourceRequest(), ResourceRequest(node="m")
    outlook = Outlook(waiting=("a", "b"), wants={"a": reserved})
    engine: Any = SimpleNamespace(why_never=lambda _: "", nodes=list, leases=list)
    fair: Any = SimpleNamespace(serve=lambda waiting, coming: outlook)
    sessions: Any = SimpleNamespace()
    scheduler = Scheduler(sessions, engine, Others(engine), fair)
    scheduler._waiting = {name: waits(name) for name in "ab"}
    scheduler._round()
    assert [each.request for each in scheduler.queue()] == [reserved, asked]
    assert [each.request for each in scheduler.waits()] == [reserved, asked]
    outlook = msgspec.structs.replace(outlook, wants={})
    scheduler._round()
    assert [each.request for each in scheduler.queue()] == [asked, asked]


class Shared:
    """An engine whose nodes others use as well, and the sessions of the service, as far as the queue has to do with
    them; the clock goes on when it is told to."""

    def __init__(self, **devices: int) -> None:
        self.now_s = 1000.0
        self.by_id = {
            name: Node(name, NodeState.UP, tuple(Device(f"cuda:{n}", "cuda", "GPU", 10) for n in range(count)))
            for name, count in devices.items()
        }
        #: How many devices of each node others use.
        self.theirs = dict.fromkeys(devices, 0)
        #: Why the engine cannot write its leases; mostly empty.
        self.unwritten = ""
        self.asked: list[tuple[str, str]] = []
        self.wanted: list[ResourceRequest] = []
        self.held: list[Lease] = []
        self.placed: dict[str, str] = {}
        self.told: list[str] = []
        world: Any = self
        limits: Any = SimpleNamespace(standing=lambda owner: Standing())
        rows: Any = SimpleNamespace(all=list)
        settings: Any = SimpleNamespace(placement="spread")
        others = Others(world, lambda: self.now_s)
        self.fair = FairUse(world, world, others, limits, rows, settings)
        self.scheduler = Scheduler(world, world, others, self.fair)

    def why_never(self, request: ResourceRequest) -> str:
        return ""

    def nodes(self) -> list[Node]:
        return list(self.by_id.values())

    def leases(self) -> list[Lease]:
        return self.held

    def want(self, requests: list[ResourceRequest]) -> None:
        self.wanted = requests

    async def acquire(self, request: ResourceRequest, meta: Any, timeout: float) -> Lease:
        assert request.node is not None
        self.asked.append((meta.session_id, request.node))
        await asyncio.sleep(0)
        taken = {device for lease in self.held if lease.node_id == request.node for device in lease.device_ids}
        free = [device.id for device in self.by_id[request.node].devices if device.id not in taken]
        if meta.kept is not None:
            free = [device for device in free if device in meta.kept.device_ids]
        if len(free) - self.theirs[request.node] < request.devices:
            raise AllocationError("nothing became free.")
        if self.unwritten:
            raise LeaseNotWritten(f"lease not written: {self.unwritten}.")
        ids = tuple(free[: request.devices])
        self.held.append(Lease(meta.session_id, meta.session_id, request.node, ids, 1))
        return self.held[-1]

    def get(self, session_id: str) -> None:
        return None

    def advance(self, live: Any, event: Any, told: str, lease: Lease, **_: Any) -> None:
        self.placed[live.session.id] = lease.node_id

    def note(self, live: Any, told: str, detail: Any, *, queue_place: int, cause: str = "") -> None:
        self.told.append(told)
        live.session.queue_place, live.session.cause = queue_place, cause

    def later(self, seconds: float) -> None:
        self.now_s += seconds
        self.scheduler.look()


async def test_session_goes_elsewhere_when_others_use_the_node_that_the_rules_chose() -> None:
    shared = Shared(a=1, b=1)
    shared.theirs["a"] = 1
    shared.scheduler.submit(waits("x"))
    await eventually(lambda: shared.placed == {"x": "b"})
    assert shared.asked == [("x", "a"), ("x", "b")]
    await shared.scheduler.close()


async def test_session_is_told_that_others_use_its_node_which_is_tried_again_after_growing_pauses() -> None:
    shared = Shared(a=1, b=1)
    shared.theirs["a"] = 1
    x = waits("x", ResourceRequest(node="a"))
    shared.scheduler.submit(x)
    told = "place 1 in the queue: node a: its devices are used by others"
    await eventually(lambda: x.session.cause == told)
    # It is demand still, where nodes may come; the others in the queue do not wait for it.
    assert [each.request for each in shared.scheduler.queue()] == shared.wanted == [x.session.request]
    assert shared.scheduler.left_waiting() == [x]
    shared.scheduler.submit(waits("y"))
    await eventually(lambda: shared.placed == {"y": "b"})
    for number, pause_s in enumerate((FIRST_S, 2 * FIRST_S, 4 * FIRST_S), start=1):
        assert shared.asked.count(("x", "a")) == number
        shared.later(pause_s - 0.5)
        await eventually(lambda: shared.scheduler._looking.done())  # type: ignore[union-attr]
        assert shared.asked.count(("x", "a")) == number
        shared.later(1.0)
        await eventually(lambda number=number: shared.asked.count(("x", "a")) == number + 1)
        await eventually(lambda: not shared.scheduler._placing and shared.scheduler._looking.done())  # type: ignore[union-attr]
    assert shared.told.count(told) == 1
    shared.theirs["a"] = 0
    shared.later(100.0)
    await eventually(lambda: shared.placed == {"y": "b", "x": "a"})
    await shared.scheduler.close()


async def test_session_whose_lease_cannot_be_written_is_told_so_and_nobody_else_seems_to_use_its_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler, "RETRY_S", 0.05)
    shared = Shared(a=1)
    shared.unwritten = "No space left on device"
    x = waits("x")
    shared.scheduler.submit(x)
    told = "place 1 in the queue: lease not written: No space left on device"
    await eventually(lambda: x.session.cause == told)
    await eventually(lambda: shared.asked.count(("x", "a")) > 2)
    assert shared.told == [told]
    assert shared.scheduler._others.held() == []
    assert {each.levelname for each in caplog.records if "not written" in each.message} == {"ERROR"}
    shared.unwritten = ""
    await eventually(lambda: shared.placed == {"x": "a"})
    await shared.scheduler.close()


async def test_refusal_of_many_leaves_the_node_to_who_wants_few() -> None:
    shared = Shared(a=4)
    shared.theirs["a"] = 2
    for name, devices in (("x", 3), ("y", 2)):
        shared.scheduler.submit(waits(name, ResourceRequest(devices=devices)))
    await eventually(lambda: shared.placed == {"y": "a"})
    assert shared.asked == [("x", "a"), ("y", "a")]
    await shared.scheduler.close()


async def test_woken_session_waits_for_the_device_that_its_memory_was_on_and_keeps_nobody_from_the_others() -> None:
    shared = Shared(a=2)
    shared.held.append(Lease("c", "c", "a", ("cuda:0",), 1))
    kept = Lease("l", "x", "a", ("cuda:0",), 1)
    x = waits("x", kept=kept)
    x.session.state = S.RESTORING
    shared.scheduler.submit(x)
    shared.scheduler.submit(waits("y"))
    await eventually(lambda: shared.placed == {"y": "a"})
    assert [each.session_id for each in shared.scheduler.queue()] == ["x"]
    # No new node could serve it.
    assert [each.node for each in shared.wanted] == ["a"]
    shared.held.pop(0)
    shared.scheduler.look()
    await eventually(lambda: set(shared.placed) == {"x", "y"})
    assert shared.asked == [("y", "a"), ("x", "a")]
    assert shared.held[-1].device_ids == ("cuda:0",)
    await shared.scheduler.close()


async def test_turn_is_given_to_one_whose_memory_was_on_the_device_although_others_are_free() -> None:
    shared = Shared(a=2)
    holder = waits("c")
    holder.lease = Lease("c", "c", "a", ("cuda:0",), 1)
    shared.held.append(holder.lease)
    assert shared.fair.gives_turn(holder, [waits("x", kept=Lease("l", "x", "a", ("cuda:0",), 1))])
    # Nobody would get it.
    assert not shared.fair.gives_turn(holder, [waits("x", kept=Lease("l", "x", "a", ("cuda:1",), 1))])
