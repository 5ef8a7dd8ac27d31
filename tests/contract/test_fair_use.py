"""Quotas, priorities, reservations and parking for others, through the service, over real nodes and kernels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.controller.scheduler import Scheduler
from jupyter_gpuaas.errors import InvalidRequest
from jupyter_gpuaas.model import GpuSession, ResourceRequest, SessionState
from tests.conftest import GpuaasHome
from tests.roaming import Outputs, roaming
from tests.service import Service, eventually, running_service

S = SessionState


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, checkpoint_share=1e6, workdir="session") as running:
        yield running


async def until(client: ServiceClient, session: GpuSession, *states: S, cause: str = "") -> GpuSession:
    async def there() -> GpuSession | None:
        found = (await client.session(session.id)).session
        return found if found.state in states and cause in found.cause else None

    found: GpuSession = await eventually(there, 60.0)
    return found


async def test_higher_priority_parks_the_lower_one_whose_cells_all_run_in_the_end(
    service: Service, tmp_path: Path
) -> None:
    begin = tmp_path / "begin"
    async with (
        service.client("ann") as ann,
        roaming(service, "low", client=ann, request=ResourceRequest(priority=-1)) as low,
    ):
        await low.said("import os, time; n = 0")
        waits = f"while not os.path.exists({str(begin)!r}): time.sleep(0.01)"
        cells = [asyncio.create_task(low.run(code)) for code in [waits] + ["time.sleep(0.05); n += 1"] * 40]
        await low.until(S.BUSY)
        high = (await service.admin.create_session("high", request=ResourceRequest(priority=1))).session
        await eventually(lambda: low.id in service.controller.parking._pushing)
        begin.touch()
        high = await until(service.admin, high, S.IDLE)
        pushed = await low.look()
        assert pushed.state is S.RESTORING
        assert "its cells wait" in pushed.cause
        told = [event.cause for event in await ann.events(session=low.id) if event.target == "parked"]
        assert len(told) == 1 and "makes room for a session of priority 1" in told[0]
        assert not all(cell.done() for cell in cells)
        await service.admin.release(high.id)
        for cell in cells:
            assert (await cell)["status"] == "ok"
        outputs = Outputs()
        assert (await low.run("print(n)", outputs))["execution_count"] == 43
        assert outputs.text == "40\n"


async def test_same_priority_parks_nobody_that_is_busy_or_just_idle(service: Service) -> None:
    first = (await service.admin.create_session("first", wait_s=30)).session
    second = (await service.admin.create_session("second")).session
    live = service.controller.sessions.get(second.id)
    assert live is not None and service.controller.fair.push_out([live]) == []
    assert (await service.admin.session(first.id)).session.state is S.IDLE


async def test_queue_is_in_the_order_of_priority_and_follows_its_changes(service: Service) -> None:
    first = ResourceRequest(priority=50)
    await service.admin.create_session("first", request=first, wait_s=30)
    second = (await service.admin.create_session("second")).session
    third = (await service.admin.create_session("third", request=ResourceRequest(priority=1))).session

    async def places() -> list[int]:
        return [(await service.admin.session(each.id)).session.queue_place for each in (second, third)]

    async def order(*wanted: int) -> bool:
        return await places() == list(wanted)

    await eventually(lambda: order(2, 1))
    changed = await service.admin.set_priority(second.id, 2)
    assert changed.session.request.priority == 2
    await eventually(lambda: order(1, 2))


async def test_queue_keeps_its_order_where_the_service_ended_before_the_last_one_was_counted(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[GpuSession] = []

    async def counted(service: Service) -> list[int]:
        places = [(await service.admin.session(each.id)).session.queue_place for each in queued]
        return places if all(places) else []

    with monkeypatch.context() as ending:
        async with running_service(gpuaas_home.path, end_sessions=False) as service:
            await service.admin.create_session("holds", wait_s=30)
            queued += [(await service.admin.create_session(name)).session for name in "ab"]
            assert await eventually(lambda: counted(service)) == [1, 2]
            ending.setattr(Scheduler, "_count", lambda self: None)
            queued.append((await service.admin.create_session("c")).session)
            assert not await counted(service)
    async with running_service(gpuaas_home.path) as service:
        assert await eventually(lambda: counted(service)) == [1, 2, 3]


async def test_users_take_turns_by_what_they_have_used(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, devices="cpu:2") as service:
        async with service.client("ann") as ann, service.client("bob") as bob:
            hers = (await ann.create_session("one", wait_s=30)).session
            filler = (await service.admin.create_session("filler", wait_s=30)).session
            more = (await ann.create_session("two")).session
            his = (await bob.create_session("one")).session
            # Ann came first, but holds a device already.
            await until(ann, more, S.QUEUED, cause="")
            await service.admin.release(filler.id)
            assert (await until(bob, his, S.IDLE)).state is S.IDLE
            assert (await ann.session(more.id)).session.queue_place == 1
            await ann.release(hers.id)
            await until(ann, more, S.IDLE)


async def test_quota_of_devices_keeps_waiting_until_it_is_raised(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, devices="cpu:3", devices_per_user=1) as service:
        async with service.client("ann") as ann, service.client("bob") as bob:
            await ann.create_session("one", wait_s=30)
            two = (await ann.create_session("two")).session
            two = await until(ann, two, S.QUEUED, cause="quota devices: ann holds 1 of 1, and 1 more are wanted")
            assert (await bob.create_session("one", wait_s=30)).session.state is S.IDLE
            await service.admin.put_user("ann", limits={"devices": 2})
            await until(ann, two, S.IDLE)


async def test_used_up_device_hours_park_and_keep_waiting(service: Service) -> None:
    async with service.client("ann") as ann:
        session = (await ann.create_session("one", wait_s=30)).session
        await service.admin.put_user("ann", limits={"device_hours": 0.0})
        parked = await until(ann, session, S.PARKED, cause="quota device_hours: ann has used")
        assert "of 0" in parked.cause
        await ann.wake(session.id)
        await until(ann, session, S.RESTORING, cause="quota device_hours: ann has used")
        await service.admin.put_user("ann", limits={"device_hours": None})
        await until(ann, session, S.IDLE)


async def test_reservation_is_kept_announced_and_given_up(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, devices="cpu:2") as service:
        async with service.client("ann") as ann, service.client("bob") as bob:
            await ann.create_session("before", wait_s=30)
            made = await service.admin.reserve("ann", 2, until_s=time.time() + 600)
            assert await ann.reservations() == [made]
            assert await bob.reservations() == []
            his = (await bob.create_session("his")).session
            await until(bob, his, S.QUEUED, cause="what is free is reserved for ann")
            assert (await ann.create_session("hers", wait_s=30)).session.state is S.IDLE

            async def announced() -> list[str]:
                return [event.cause for event in await ann.events() if event.kind == "reservation"]

            await eventually(announced)
            assert any("runs until" in each for each in await announced())
            assert any("ends in 10 min" in each for each in await announced())
            assert not [event for event in await bob.events() if event.kind == "reservation"]
            with pytest.raises(InvalidRequest, match="of which 2 are reserved"):
                await service.admin.reserve("bob", 1, until_s=time.time() + 60)
            await service.admin.cancel_reservation(made.id)
            assert any("was cancelled by" in each for each in await announced())
            await ann.release("hers")
            await until(bob, his, S.IDLE)


async def test_reservations_of_several_nodes_stand_beside_each_other(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, nodes=2, devices="cpu:2") as service:
        until_s = time.time() + 600
        for node in ("local-0", "local-1"):
            await service.admin.reserve("ann", 2, until_s=until_s, node=node)
            with pytest.raises(InvalidRequest, match=f"node {node} has 2 of these, of which 2 are reserved"):
                await service.admin.reserve("bob", 1, until_s=until_s, node=node)
        with pytest.raises(InvalidRequest, match="the pool has 4 of these, of which 4 are reserved"):
            await service.admin.reserve("bob", 1, until_s=until_s)
        await service.admin.reserve("bob", 2, from_s=until_s, until_s=until_s + 1, node="local-0")


async def test_reservation_of_a_node_parks_nobody_elsewhere(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, nodes=2, park_for_waiting_s=0.1) as service:
        async with service.client("bob") as bob, service.client("ann") as ann:
            for node in ("local-0", "local-1"):
                await bob.create_session(node, request=ResourceRequest(node=node), wait_s=60)
            await service.admin.reserve("ann", 1, until_s=time.time() + 600, node="local-1")
            hers = await until(ann, (await ann.create_session("hers")).session, S.IDLE)
            assert hers.lease is not None and hers.lease.node_id == "local-1"
            his = {each.name: each.state for each in await bob.sessions()}
            assert his == {"local-0": S.IDLE, "local-1": S.PARKED}


async def test_reservation_parks_others_and_survives_a_restart(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, end_sessions=False) as service:
        async with service.client("bob") as bob, service.client("ann") as ann:
            his = (await bob.create_session("his", request=ResourceRequest(), wait_s=30)).session
            await service.admin.reserve("ann", 1, until_s=time.time() + 3600)
            hers = (await ann.create_session("hers")).session
            await until(ann, hers, S.IDLE)
            parked = await until(bob, his, S.PARKED)
            assert "makes room for a session with a reservation" in parked.cause
    async with running_service(gpuaas_home.path) as service:
        (again,) = await service.admin.reservations()
        assert (again.user, again.devices) == ("ann", 1)
