"""Nodes that die, many times: agent and hosts at once, at random moments. Each time the session comes back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator

import pytest

from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.roaming import Outputs, Roamer, roaming
from tests.service import Service, eventually, running_service

from .nodes import agent_pid, lives, records

pytestmark = pytest.mark.fault

KILLS = int(os.environ.get("GPUAAS_NODE_KILLS", "3"))
QUICK = {"nodes": 2, "checkpoint_share": 1e6, "workdir": "session", "checkpoint_together_s": 0.0}


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


@pytest.mark.timeout(max(300, 40 * KILLS))
async def test_node_that_is_killed_again_and_again_its_session_comes_back_each_time(service: Service) -> None:
    """What a cell did that was answered and checkpointed is never lost; a cell that was cut off is told so."""
    home, luck = service.controller.settings.folder, random.Random(5)
    detected, back = [], []
    async with roaming(service) as roamer:
        await roamer.said("import time; done = []; same = done")
        count = 0
        for _ in range(KILLS):
            for _ in range(luck.randrange(1, 4)):
                reply = await roamer.run(f"done.append({count})")
                assert reply["status"] == "ok"
                count += 1

            def kept(cell: int = reply["execution_count"]) -> bool:
                live = service.controller.sessions.get(roamer.id)
                last = live.checkpoints.last if live is not None and live.checkpoints is not None else None
                return last is not None and last.cell >= cell

            await eventually(kept)
            cell = asyncio.ensure_future(roamer.run("done.append('cut off'); time.sleep(3600)", Outputs()))
            await asyncio.sleep(luck.random() * 0.3)
            node = await roamer.node()
            hosts = [record.pid for record in records(home, node)]
            live = service.controller.sessions.get(roamer.id)
            assert live is not None and hosts
            epoch = live.session.epoch
            began = time.monotonic()
            for pid in [agent_pid(home, node), *hosts]:
                os.kill(pid, signal.SIGKILL)

            def noticed(epoch: int = epoch) -> bool:
                session = service.controller.sessions.get(roamer.id).session  # type: ignore[union-attr]
                return session.state in (SessionState.LOST, SessionState.RESTORING) or session.epoch > epoch

            await eventually(noticed)
            detected.append(time.monotonic() - began)
            try:
                reply = await asyncio.wait_for(cell, 60)
                assert (reply["status"], reply["ename"]) == ("error", "NodeLost")
            except CellError as error:
                assert "lost" in str(error)
            assert await roamer.said("print(done, same is done)") == f"{list(range(count))} True"
            back.append(time.monotonic() - began)
            assert (await roamer.look()).epoch == epoch + 1
            await eventually(lambda hosts=hosts: not any(lives(pid) for pid in hosts))
            await eventually(lambda: len(records(home, session=roamer.id)) == 1)
    detected.sort()
    back.sort()
    print(
        f"\n{KILLS} kills: noticed after {detected[len(detected) // 2]:.2f} s (median), {detected[-1]:.2f} s (most); "
        f"next cell answered after {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (most)"
    )


def kill(service: Service, node: str) -> list[int]:
    """A node's agent and hosts, all at once."""
    home = service.controller.settings.folder
    pids = [agent_pid(home, node), *(record.pid for record in records(home, node))]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


async def kept(roamer: Roamer, cell: int) -> None:
    """Return when the newest checkpoint is of this cell."""

    async def there() -> bool:
        status = (await roamer.client.session(roamer.id)).checkpoints
        return status is not None and status.last is not None and status.last.cell >= cell

    await eventually(there)


async def causes(roamer: Roamer) -> list[str]:
    return [event.cause for event in await roamer.client.events(session=roamer.id)]


async def alone(service: Service, roamer: Roamer) -> None:
    """The session's host and its devices are all that there is of it."""
    home = service.controller.settings.folder

    async def settled() -> bool:
        lease = (await roamer.look()).lease
        held = [each.id for each in service.engine.leases() if each.session_id == roamer.id]
        nodes = [path.parent.parent.name for path in home.glob(f"nodes/*/sessions/{roamer.id}")]
        left = [*home.glob(f"nodes/*/remains/{roamer.id}")]
        return lease is not None and (held, nodes, left) == ([lease.id], [lease.node_id], [])

    await eventually(settled, 60.0)


async def test_host_starts_elsewhere_while_what_the_killed_node_has_is_waited_for(service: Service) -> None:
    """It has the journal and the outputs of the lost host all the same."""
    async with roaming(service) as roamer:
        said = await roamer.run("x = [1]; y = x; print('said before')")
        await kept(roamer, said["execution_count"])
        node, journal = await roamer.node(), (await roamer.client.cells(roamer.id)).journal
        kill(service, node)
        assert await roamer.told("print(y is x)") == "True"
        assert await roamer.node() != node
        told = await causes(roamer)
        assert any(f"while what is left on {node} is waited for" in cause for cause in told), told
        assert any("goes on from checkpoint" in cause for cause in told), told
        assert (await roamer.client.cells(roamer.id)).journal == journal, told
        await alone(service, roamer)
        assert (await roamer.client.session(roamer.id)).standby is None


async def test_session_of_a_killed_node_comes_back_there_when_no_other_has_room(service: Service) -> None:
    async with roaming(service) as roamer, roaming(service, "other") as other:
        said = await roamer.run("x = [1]; y = x")
        await kept(roamer, said["execution_count"])
        node = await roamer.node()
        assert node != await other.node()
        kill(service, node)
        assert await roamer.told("print(y is x)") == "True"
        assert await roamer.node() == node
        await alone(service, roamer)
        assert await other.said("print(1)") == "1"


async def test_session_that_is_ended_while_its_killed_node_is_waited_for_leaves_nothing(service: Service) -> None:
    home = service.controller.settings.folder
    async with roaming(service) as roamer:
        said = await roamer.run("x = 1")
        await kept(roamer, said["execution_count"])
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        kill(service, await roamer.node())
        assert await live.bell.until(lambda: live.record.aside is not None, 30.0)
        await roamer.client.release(roamer.id)

        def nothing() -> bool:
            left = [*home.glob("nodes/*/sessions/*"), *home.glob("nodes/*/remains/*"), *home.glob("nodes/*/hosts/*")]
            return not service.engine.leases() and not left

        await eventually(nothing, 60.0)


async def test_client_that_was_away_when_its_node_was_killed_finds_its_session_with_the_notice(
    service: Service,
) -> None:
    async with roaming(service) as roamer:
        said = await roamer.run("x = [1]; y = x")
        await kept(roamer, said["execution_count"])
        node = await roamer.node()
    kill(service, node)

    def is_back() -> bool:
        live = service.controller.sessions.get(roamer.id)
        return live is not None and live.session.state is SessionState.IDLE and live.session.epoch > 1

    await eventually(is_back, 60.0)
    async with roaming(service) as again:
        assert again.id == roamer.id
        assert await again.said("print(y is x)") == "True"
        session = await again.look()
        assert session.lease is not None
        agent = service.controller.agents.of(session.lease.node_id)

        async def told() -> bool:
            async with agent.log(again.id, kind="output", tail=0, follow=False) as pieces:
                text = "".join([piece.decode() async for piece in pieces])
            return "The host of this session was lost" in text and "as after cell 1" in text

        await eventually(told)
        await alone(service, again)
