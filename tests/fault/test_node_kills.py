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
from tests.roaming import Outputs, roaming
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
