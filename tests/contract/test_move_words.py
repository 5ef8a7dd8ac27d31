"""What a move says before it begins, while it goes on, and afterwards, to those who ask in a notebook or a terminal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from jupyter_gpuaas.errors import InvalidRequest
from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.roaming import roaming
from tests.service import Service, eventually, running_service

S = SessionState
QUICK = {"nodes": 3, "checkpoint_share": 1e6, "workdir": "session"}
#: Of the state below.
BYTES = 8_000_000
STATE = (
    f"import os, threading; big = os.urandom({BYTES}); stop = threading.Event();"
    "at_work = threading.Thread(target=stop.wait); at_work.start()"
)


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


async def test_plan_tells_what_moves_and_how_much_and_how_long_and_does_nothing(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said(STATE)
        await roamer.client.take_checkpoint(roamer.id)
        source, leases = await roamer.node(), service.engine.leases()
        plan = await roamer.client.plan_migration(roamer.id, "local-2")
        assert (plan.source, plan.target) == (source, "local-2")
        assert (plan.moves, plan.lost.keys()) == (3, {"stop", "at_work"})
        assert BYTES <= plan.bytes_estimate < 1.5 * BYTES
        assert 0 < plan.downtime_s_estimate <= plan.total_s_estimate < 60
        # Its own kernel may not ask the service, and says who may.
        refused = await roamer.run("%remote_gpu migrate local-2 --dry-run")
        assert "jupyter gpuaas migrate --dry-run roamer" in refused["evalue"]
        session = await roamer.until(S.IDLE)
        assert (session.epoch, await roamer.node()) == (1, source)
        assert service.engine.leases() == leases
        with pytest.raises(InvalidRequest, match="nosuch"):
            await roamer.client.plan_migration(roamer.id, "nosuch")


async def test_notebook_chooses_the_node(service: Service) -> None:
    async with roaming(service) as roamer:
        assert await roamer.node() != "local-2"
        await roamer.said("x = 3")
        await roamer.said("%remote_gpu migrate local-2")

        async def moved() -> bool:
            return await roamer.node() == "local-2" and (await roamer.look()).state is S.IDLE

        await eventually(moved)
        assert await roamer.said("print(x)") == "3"


async def test_terminal_is_told_the_plan_the_phases_and_what_it_took(
    service: Service, gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUAAS_TOKEN", service.token)
    async with roaming(service, "one") as roamer:
        await roamer.said(STATE)
        await roamer.client.take_checkpoint(roamer.id)
        source = await roamer.node()
        asked = ["--url", service.url, "migrate", "one", "local-2", "--accept-loss"]
        done = await asyncio.to_thread(gpuaas_home.cli, *asked, timeout_s=120)
        plan, *phases = done.stderr.splitlines()
        assert plan.startswith(f"from {source} to local-2: ") and "8.0 MB" in plan and "(estimates)" in plan
        assert any(re.search("would be lost.*at_work", line) for line in phases), phases
        assert any("local-2" in line for line in phases[1:]), phases
        took = rf"moved from {source} to local-2 in [\d.]+ s, .*[\d.]+ s.*8[.]\d MB sent"
        assert re.search(took, done.stdout), done.stdout
        told = (await asyncio.to_thread(gpuaas_home.cli, "--url", service.url, "story", "one")).stdout
        assert re.search(took, told), told
