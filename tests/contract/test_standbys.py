"""Standbys, through the service, over real nodes and kernels: what they follow, what they take over, when they go."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import CatalogueError, CellError, InvalidRequest, StaleEpoch
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import GpuSession, Phase, ResourceRequest, SessionState
from tests.conftest import GpuaasHome
from tests.fault.nodes import agent_pid, lives, records
from tests.roaming import Outputs, Roamer, commit_as, roaming
from tests.service import Service, eventually, running_service

S = SessionState
QUICK: dict[str, Any] = {"nodes": 2, "checkpoint_share": 1e6, "workdir": "session", "checkpoint_together_s": 0.0}
STANDBY = ResourceRequest(standby=1)


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


def hosts_on(service: Service, node: str) -> list[int]:
    return [record.pid for record in records(service.controller.settings.folder, node)]


def kill_node(service: Service, node: str) -> list[int]:
    """The agent of a node and all its hosts at once."""
    pids = [agent_pid(service.controller.settings.folder, node), *hosts_on(service, node)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


async def one_host(service: Service, roamer: Roamer) -> None:
    """Beside that of its standby, the session has one host, where its lease says."""

    async def alone() -> bool:
        session, standby = await roamer.look(), (await roamer.client.session(roamer.id)).standby
        wanted = {session.lease.node_id if session.lease else "", standby.node if standby else ""} - {""}
        found = records(service.controller.settings.folder, session=roamer.id)
        return len(found) == len(wanted) and all(lives(record.pid) for record in found)

    await eventually(alone, 60.0)


async def test_standby_takes_a_session_over_when_its_node_is_killed(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = [1]; y = x; open('note', 'w').write('kept')")
        standby = await roamer.followed(after=1)
        node = await roamer.node()
        assert standby.node != node and standby.device_ids
        await roamer.said("x.append(2)")
        await roamer.followed(after=2)
        running = asyncio.ensure_future(roamer.run("import time; x.append('cut off'); time.sleep(3600)"))
        await roamer.until(S.BUSY)
        dead = kill_node(service, node)
        try:
            reply = await asyncio.wait_for(running, 60)
            assert (reply["status"], reply["ename"]) == ("error", ENAME)
        except CellError as error:
            assert "lost" in str(error)
        with pytest.raises(StaleEpoch):  # although nothing has run there
            commit_as(service, roamer.id, 1)
        assert await roamer.said("print(x, y is x, open('note').read())") == "[1, 2] True kept"
        session = await roamer.look()
        assert session.lease is not None and (session.lease.node_id, session.epoch) == (standby.node, 2)
        assert not any(lives(pid) for pid in dead)
        # Another one, where the session was before: as soon as that node is back.
        assert (await roamer.followed()).node == node
        await one_host(service, roamer)
        story = [event.target for event in await roamer.client.events(session=roamer.id) if event.kind == "transition"]
        assert "restoring" not in story and story.count("lost") == 1
        (recovered,) = [event for event in await roamer.client.events(session=roamer.id) if event.kind == "recovered"]
        assert recovered.detail["cell"] == 2 and "as after cell 2" in recovered.cause
        assert recovered.detail["lost_cells"] in (None, [])  # unless its node was back at once, its journal is gone


async def test_standby_has_journal_and_requests_where_only_the_host_was_killed(
    service: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("ran = []")
        standby = await roamer.followed(after=1)
        outputs = Outputs()
        code = f"print('in', flush=True); ran.append('cut off'); open({str(gate)!r}).read()"
        running = asyncio.ensure_future(roamer.run(code, outputs))
        await outputs.heard.wait()
        queued = [asyncio.ensure_future(roamer.run(f"ran.append({number})")) for number in range(2)]
        await roamer.until(S.BUSY)
        (host,) = hosts_on(service, await roamer.node())
        os.kill(host, signal.SIGKILL)
        reply = await asyncio.wait_for(running, 60)
        assert (reply["status"], reply["ename"]) == ("error", ENAME)
        assert [(await asyncio.wait_for(each, 60))["status"] for each in queued] == ["ok", "ok"]
        assert await roamer.said("print(ran)") == "[0, 1]"
        assert await roamer.node() == standby.node
        await one_host(service, roamer)


async def test_standby_gives_way_to_a_session_that_waits(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = 1")
        standby = await roamer.followed(after=1)
        async with roaming(service, "other") as other:
            assert await other.node() == standby.node
            view = (await roamer.client.session(roamer.id)).standby
            assert view is not None and (view.state, view.node) == ("waits", "")
            assert await roamer.said("print(x)") == "1"
            await service.admin.release(other.id)
        assert (await roamer.followed()).node == standby.node


async def test_standby_keeps_no_session_of_its_user_waiting_and_takes_him_beyond_no_quota(
    gpuaas_home: GpuaasHome,
) -> None:
    async with running_service(gpuaas_home.path, devices_per_user=2, **(QUICK | {"nodes": 3})) as service:
        async with service.client("ann") as ann, roaming(service, client=ann, request=STANDBY) as roamer:
            await roamer.said("x = 1")
            await roamer.followed(after=1)
            second = (await ann.create_session("second", wait_s=60)).session
            assert second.state is S.IDLE

            async def beyond() -> bool:
                view = (await ann.session(roamer.id)).standby
                return view is not None and view.state == "waits" and "quota devices" in view.cause

            await eventually(beyond)
            await ann.release(second.id)
            standby = await roamer.followed()
            other = (await service.admin.create_session("other", wait_s=60)).session
            assert (await roamer.followed()).node == standby.node  # there was room beside it
            second = (await ann.create_session("again")).session

            async def placed() -> GpuSession | None:
                found = (await ann.session(second.id)).session
                return found if found.state is S.IDLE else None

            second = await eventually(placed, 60.0)
            assert second.lease is not None and second.lease.node_id == standby.node
            await service.admin.release(other.id)


async def test_session_that_is_moved_takes_its_standby(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = 1")
        standby, node = await roamer.followed(after=1), await roamer.node()
        (host,) = hosts_on(service, standby.node)
        done = await roamer.migrate()
        assert (done.phase, done.target) == (Phase.DONE, standby.node), done.cause
        assert await roamer.said("import os; print(x, os.getppid())") == f"1 {host}"
        assert (await roamer.followed()).node == node
        await one_host(service, roamer)


@pytest.mark.fault
async def test_standby_is_wanted_and_not_wanted(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = 1")
        assert (await roamer.client.session(roamer.id)).standby is None
        await roamer.client.want_standby(roamer.id, 1)
        standby = await roamer.followed(after=1)
        assert (await roamer.client.want_standby(roamer.id, 0)).standby is None
        await eventually(lambda: len(service.engine.leases()) == 1 and not hosts_on(service, standby.node))
        with pytest.raises(InvalidRequest, match="standby"):
            await roamer.client.create_session("pinned", request=ResourceRequest(node=standby.node, standby=1))


@pytest.mark.fault
async def test_session_that_is_parked_or_released_has_no_standby(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = 1")
        await roamer.followed(after=1)
        await roamer.client.park(roamer.id)
        await eventually(lambda: not service.engine.leases())
        assert await roamer.said("print(x)") == "1"
        await roamer.followed(after=1)
        await roamer.client.release(roamer.id)
        await eventually(lambda: not service.engine.leases())
        await eventually(lambda: not records(service.controller.settings.folder))


@pytest.mark.fault
async def test_standby_whose_host_ends_is_made_anew(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = 1")
        standby = await roamer.followed(after=1)
        (host,) = hosts_on(service, standby.node)
        os.kill(host, signal.SIGKILL)
        await eventually(lambda: hosts_on(service, standby.node) not in ([], [host]), 60.0)
        await roamer.followed(after=1)
        assert await roamer.said("print(x)") == "1"
        await one_host(service, roamer)


@pytest.mark.fault
async def test_standby_that_cannot_be_noted_holds_no_devices(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, failures = service.controller.sessions, 3
    keep = sessions.keep

    def failing(live: LiveSession, **fields: Any) -> None:
        nonlocal failures
        if fields.get("aside") is not None and failures:
            failures -= 1
            raise CatalogueError("the disk is full")
        keep(live, **fields)

    async with roaming(service) as roamer:
        await roamer.said("x = 1")
        monkeypatch.setattr(sessions, "keep", failing)
        await roamer.client.want_standby(roamer.id, 1)
        standby = await roamer.followed(after=1)
        assert failures == 0
        await eventually(lambda: len(service.engine.leases()) == 2)
        held = [lease.node_id for lease in service.engine.leases()]
        assert sorted(held) == sorted([await roamer.node(), standby.node])


@pytest.mark.fault
async def test_standby_outlives_the_service(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, end_sessions=False, **QUICK) as service:
        async with roaming(service, request=STANDBY) as roamer:
            await roamer.said("x = [3]; y = x")
            standby = await roamer.followed(after=1)
            hosts: Callable[[Service], list[int]] = lambda running: hosts_on(running, standby.node)  # noqa: E731
            before = hosts(service)
    async with running_service(gpuaas_home.path, **QUICK) as service, roaming(service, request=STANDBY) as roamer:
        await roamer.followed(after=1)
        assert hosts(service) == before
        kill_node(service, await roamer.node())
        assert await roamer.told("print(y is x)") == "True"
        assert await roamer.node() == standby.node
