"""Nodes of sessions that have standbys die, again and again, and nodes of standbys, and both at once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator

import pytest

from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import ResourceRequest
from tests.conftest import GpuaasHome
from tests.roaming import Roamer, roaming
from tests.service import Service, eventually, running_service

from .nodes import agent_pid, lives, records

pytestmark = pytest.mark.fault

KILLS = int(os.environ.get("GPUAAS_NODE_KILLS", "3"))
QUICK = {"nodes": 3, "checkpoint_share": 1e6, "workdir": "session", "checkpoint_together_s": 0.0}
STANDBY = ResourceRequest(standby=1)


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


def kill(service: Service, *nodes: str) -> list[int]:
    """Agents and hosts of nodes, all at once."""
    home = service.controller.settings.folder
    pids = [pid for node in nodes for pid in (agent_pid(home, node), *(each.pid for each in records(home, node)))]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


async def only_two(service: Service, roamer: Roamer) -> None:
    """The session's host and its standby's are all that there is."""
    home = service.controller.settings.folder

    async def settled() -> bool:
        view = await roamer.client.session(roamer.id)
        wanted = {view.session.lease.node_id if view.session.lease else "", view.standby.node if view.standby else ""}
        leases = {lease.node_id for lease in service.engine.leases()}
        nodes = {path.parent.parent.name for path in home.glob("nodes/*/hosts/*.json")}
        return "" not in wanted and len(wanted) == 2 and wanted == leases == nodes

    await eventually(settled, 60.0)


@pytest.mark.timeout(max(300, 60 * KILLS))
async def test_node_is_killed_again_and_again_and_each_time_the_standby_goes_on(service: Service) -> None:
    luck, noticed, back = random.Random(11), [], []
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("import time; done = []; same = done")
        count, epoch = 0, 1
        for _ in range(KILLS):
            for _ in range(luck.randrange(1, 4)):
                reply = await roamer.run(f"done.append({count})")
                assert reply["status"] == "ok"
                count += 1
            standby = await roamer.followed(after=reply["execution_count"])
            cell = asyncio.ensure_future(roamer.run("done.append('cut off'); time.sleep(3600)"))
            await asyncio.sleep(luck.random() * 0.3)
            node = await roamer.node()
            began = time.monotonic()
            dead = kill(service, node)
            live = service.controller.sessions.get(roamer.id)
            assert live is not None
            assert await live.bell.until(lambda live=live, epoch=epoch: live.session.epoch > epoch, 60.0)
            noticed.append(time.monotonic() - began)
            try:
                reply = await asyncio.wait_for(cell, 60)
                assert (reply["status"], reply["ename"]) == ("error", ENAME)
            except CellError as error:
                assert "lost" in str(error)
            assert await roamer.said("print(done, same is done)") == f"{list(range(count))} True"
            back.append(time.monotonic() - began)
            session = await roamer.look()
            assert session.lease is not None and session.lease.node_id == standby.node
            assert session.epoch > epoch
            epoch = session.epoch
            await eventually(lambda dead=dead: not any(lives(pid) for pid in dead))
            await only_two(service, roamer)
    noticed.sort()
    back.sort()
    print(
        f"\n{KILLS} kills: with the standby after {noticed[len(noticed) // 2]:.2f} s (median), {noticed[-1]:.2f} s "
        f"(most); next cell answered after {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (most)"
    )


async def test_standby_whose_node_is_killed_is_made_on_another_one(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = [1]; y = x")
        standby, node = await roamer.followed(after=1), await roamer.node()
        dead = kill(service, standby.node)

        async def elsewhere() -> bool:
            view = (await roamer.client.session(roamer.id)).standby
            return view is not None and view.state == "follows" and view.node not in (standby.node, node)

        await eventually(elsewhere, 60.0)
        assert await roamer.said("print(y is x)") == "True"
        assert (await roamer.look()).epoch == 1
        assert not any(lives(pid) for pid in dead)
        await only_two(service, roamer)
        kill(service, node)
        assert await roamer.told("print(y is x)") == "True"
        await only_two(service, roamer)


async def test_session_comes_back_where_its_standby_died_with_it(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = [1]; y = x")
        standby, node = await roamer.followed(after=1), await roamer.node()
        kill(service, standby.node, node)
        assert await roamer.told("print(y is x)") == "True"
        await roamer.followed()
        await only_two(service, roamer)


async def test_standby_that_dies_while_it_takes_over_is_a_loss_like_any_other(service: Service) -> None:
    async with roaming(service, request=STANDBY) as roamer:
        await roamer.said("x = [1]; y = x")
        standby, node = await roamer.followed(after=1), await roamer.node()
        home = service.controller.settings.folder
        (taker,) = records(home, standby.node)
        client = service.controller.agents.of(standby.node)
        real = client.op

        async def dies(session: str, epoch: int, op: str, content: dict[str, object]) -> dict[str, object]:
            if op == "live" and lives(taker.pid):
                os.kill(taker.pid, signal.SIGKILL)
            return await real(session, epoch, op, content)

        client.op = dies  # type: ignore[method-assign]
        kill(service, node)
        assert await roamer.told("print(y is x)") == "True"
        client.op = real  # type: ignore[method-assign]
        assert not lives(taker.pid)
        assert (await roamer.look()).epoch > 2
        await only_two(service, roamer)
