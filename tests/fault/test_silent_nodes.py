"""Nodes that go silent, and controllers: one kernel of a session runs at a time, and no more is lost than must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.model import NodeState, SessionState
from tests.conftest import GpuaasHome
from tests.roaming import Outputs, Roamer, roaming
from tests.service import Service, eventually, running_service

from .nodes import agent_pid, is_stopped, lives, records, stopped

S = SessionState
pytestmark = pytest.mark.fault

LEASE_S = 2.0
QUICK = {"nodes": 2, "checkpoint_share": 1e6, "workdir": "session", "lease_s": LEASE_S, "ping_s": 0.5, "silence_s": 2.0}
NO_MORE = {"ping_s": 0.5, "silence_s": 2.0}


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        await eventually(lambda: len(list(gpuaas_home.path.glob("nodes/*/leash-*.json"))) == 2)
        yield running


def counting(path: Path, who: str, *, most: int = 10**9) -> str:
    """A cell that adds a line to a file every 10 ms."""
    return (
        "import time\n"
        f"for i in range({most}):\n"
        f"    with open({str(path)!r}, 'a') as file: file.write({who!r} + f' {{i}}\\n')\n"
        "    time.sleep(0.01)"
    )


class Counted:
    """A session in which a cell counts, and all that is known of its first host."""

    def __init__(self, service: Service, roamer: Roamer, path: Path) -> None:
        self.home = service.controller.settings.folder
        self.service = service
        self.roamer = roamer
        self.path = path

    async def begin(self) -> None:
        self.kernel = int(await self.roamer.said("import os; x = [1]; y = x; print(os.getpid())"))

        async def kept() -> bool:
            return len(await self.roamer.client.checkpoints(self.roamer.id)) == 1

        await eventually(kept)
        self.node = await self.roamer.node()
        self.agent = agent_pid(self.home, self.node)
        (record,) = records(self.home, self.node, self.roamer.id)
        self.host = record.pid
        self.outputs = Outputs()
        self.cell = asyncio.ensure_future(self.roamer.run(counting(self.path, "old"), self.outputs))
        await eventually(lambda: self.path.exists() and self.lines("old") > 3)

    def lines(self, who: str) -> int:
        return self.path.read_text().count(who)

    async def comes_back(self) -> None:
        """The session is on its other node with the state of its checkpoint, and its client was told."""
        with pytest.raises(CellError, match=r"lost while this cell ran"):
            await asyncio.wait_for(self.cell, 60)
        outputs = Outputs()
        reply = await self.roamer.run(counting(self.path, "new", most=20), outputs)
        assert reply["status"] == "ok"
        assert await self.roamer.said("print(y is x)") == "True"
        assert await self.roamer.node() not in ("", self.node)
        assert (await self.roamer.look()).epoch == 2

    async def only_one_is_left(self) -> None:
        """Nothing of the first host is left, and it has never run beside the second one."""
        await eventually(lambda: not lives(self.kernel) and not lives(self.host))
        await eventually(lambda: len(records(self.home, session=self.roamer.id)) == 1)
        leases = [lease for lease in self.service.engine.leases() if lease.session_id == self.roamer.id]
        assert [lease.epoch for lease in leases] == [2]
        reply = await self.roamer.run(counting(self.path, "new", most=20))
        assert reply["status"] == "ok"
        order = [line.split()[0] for line in self.path.read_text().splitlines()]
        assert order == sorted(order, reverse=True)
        states = {node.id: node.state for node in self.service.engine.nodes()}
        assert set(states.values()) == {NodeState.UP}


async def is_lost(counted: Counted) -> None:
    def lost() -> bool:
        return any(n.id == counted.node and n.state is NodeState.LOST for n in counted.service.engine.nodes())

    await eventually(lost)
    # The kernel has been stopped before.
    assert is_stopped(counted.kernel)


@pytest.mark.parametrize("whom", ["agent and host", "agent"])
async def test_silent_node_its_kernel_is_stopped_before_the_session_goes_on_elsewhere(
    service: Service, tmp_path: Path, whom: str
) -> None:
    async with roaming(service, **NO_MORE) as roamer:
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()
        with stopped(*([counted.agent, counted.host] if whom != "agent" else [counted.agent])):
            await is_lost(counted)
            await counted.comes_back()
        await counted.only_one_is_left()
        story = await roamer.client.events(session=roamer.id)
        causes = [event.cause for event in story if event.target == "lost"]
        assert len(causes) == 1 and "silent" in causes[0] and counted.node in causes[0]


async def test_host_that_stands_still_alone_loses_nothing(service: Service, tmp_path: Path) -> None:
    async with roaming(service, **NO_MORE) as roamer:
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()
        news = service.engine.events()
        with stopped(counted.host):
            # Its node answers, so the lease goes on, and so does the kernel.
            before = counted.lines("old")
            await eventually(lambda: counted.lines("old") > before + 100 * 1.5 * LEASE_S)
            assert not is_stopped(counted.kernel)
        await roamer.client.interrupt(roamer.id)
        assert (await counted.cell)["ename"] == "KeyboardInterrupt"
        assert await roamer.said("print(y is x)") == "True"
        assert (await roamer.look()).epoch == 1
        assert records(counted.home, session=roamer.id)[0].pid == counted.host
        await news.aclose()  # type: ignore[attr-defined]
