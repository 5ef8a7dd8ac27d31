"""Nodes that go silent, and controllers: one kernel of a session runs at a time, and no more is lost than must be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.client.embedded import read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.errors import CellError, MigrationError, StaleEpoch, TransportError
from jupyter_gpuaas.model import LeaseGrant, LeaseRenewal, NodeState, Phase, ServiceFile, SessionState
from jupyter_gpuaas.node.hosts import HostRecord
from tests.conftest import GpuaasHome
from tests.contract.test_turns import Pair
from tests.roaming import Outputs, Roamer, commit_as, roaming
from tests.service import Service, eventually, quick_settings, running_service

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

    async def comes_back(self, *, epoch: int = 2) -> None:
        """The session is on its other node with the state of its checkpoint, and its client was told."""
        with pytest.raises(CellError, match=r"lost while this cell ran"):
            await asyncio.wait_for(self.cell, 60)
        outputs = Outputs()
        reply = await self.roamer.run(counting(self.path, "new", most=20), outputs)
        assert reply["status"] == "ok"
        assert await self.roamer.said("print(y is x)") == "True"
        assert await self.roamer.node() not in ("", self.node)
        assert (await self.roamer.look()).epoch == epoch

    async def only_one_is_left(self, *, epoch: int = 2) -> None:
        """Nothing of the first host is left, and it has never run beside the second one."""
        await eventually(lambda: not lives(self.kernel) and not lives(self.host))
        await eventually(lambda: len(records(self.home, session=self.roamer.id)) == 1)
        engine = self.service.engine
        await eventually(
            lambda: [each.epoch for each in engine.leases() if each.session_id == self.roamer.id] == [epoch]
        )
        reply = await self.roamer.run(counting(self.path, "new", most=20))
        assert reply["status"] == "ok"
        order = [line.split()[0] for line in self.path.read_text().splitlines()]
        assert order == sorted(order, reverse=True)
        await eventually(lambda: {node.state for node in engine.nodes()} == {NodeState.UP})


async def is_lost(counted: Counted) -> None:
    def lost() -> bool:
        return any(n.id == counted.node and n.state is NodeState.LOST for n in counted.service.engine.nodes())

    await eventually(lost)
    # The kernel has been stopped before.
    assert is_stopped(counted.kernel)


@contextlib.contextmanager
def cut_off(service: Service, node: str) -> Iterator[None]:
    """No call of the service reaches the node's agent; everything on the node lives, and clients reach it."""
    url, call = service.engine.agent(node).url, AgentClient._call

    async def cut(self: AgentClient, *arguments: Any, **more: Any) -> Any:
        if self.endpoint.url == url:
            raise TransportError("the link is cut.")
        return await call(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AgentClient, "_call", cut)
        yield


@pytest.mark.parametrize("whom", ["agent and host", "agent", "link"])
async def test_silent_node_its_kernel_is_stopped_before_the_session_goes_on_elsewhere(
    service: Service, tmp_path: Path, whom: str
) -> None:
    async with roaming(service, **NO_MORE) as roamer:
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()
        silent: contextlib.AbstractContextManager[None] = cut_off(service, counted.node)
        if whom != "link":
            silent = stopped(counted.agent, *([counted.host] if "host" in whom else []))
        with silent:
            await is_lost(counted)
            await counted.comes_back()
        await counted.only_one_is_left()
        story = await roamer.client.events(session=roamer.id)
        causes = [event.cause for event in story if event.target == "lost"]
        assert len(causes) == 1 and "silent" in causes[0] and counted.node in causes[0]


@pytest.mark.parametrize("moment", ["copies", "waits for its cell"])
async def test_move_whose_source_goes_silent_is_given_up_and_the_session_comes_back(
    service: Service, tmp_path: Path, moment: str
) -> None:
    async with roaming(service, **NO_MORE) as roamer:
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        await roamer.client.migrate(roamer.id)

        def is_there() -> bool:
            move = live.record.move
            if moment == "copies":
                return move is not None and move.view.phase is Phase.PRE_COPY
            return service.controller.migrations.waits_for_cell(live)

        await eventually(is_there)
        with stopped(counted.agent, counted.host):
            await is_lost(counted)
            # The only other device is the one that the move held.
            await eventually(lambda: live.session.state is S.IDLE, 15.0)
            assert live.record.move is None
            await counted.comes_back(epoch=3)
        await counted.only_one_is_left(epoch=3)


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
        assert await roamer.told("print(y is x)") == "True"
        assert (await roamer.look()).epoch == 1
        assert records(counted.home, session=roamer.id)[0].pid == counted.host
        await news.aclose()  # type: ignore[attr-defined]


async def test_session_waits_for_a_host_ahead_no_longer_than_its_node_has_a_lease(service: Service) -> None:
    home = service.controller.settings.folder
    async with roaming(service, **NO_MORE) as roamer:
        await roamer.said("x = [1]; y = x")
        await kept(roamer)
        live, node = service.controller.sessions.get(roamer.id), await roamer.node()
        (record,) = records(home, node, roamer.id)
        assert live is not None
        (other,) = {each.id for each in service.engine.nodes()} - {node}
        with stopped(agent_pid(home, other)):
            for pid in (agent_pid(home, node), record.pid):
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: live.record.aside is not None)
            await eventually(lambda: live.session.epoch > 1 and live.session.state is S.IDLE)
            assert await roamer.node() == node
            assert await roamer.told("print(y is x)") == "True"


# -- sessions without devices ----------------------------------------------------------------------------------


async def nothing_of_the_first(service: Service, session: str, kernel: int) -> None:
    """The node is back, and of the session's first host nothing is left."""
    await eventually(lambda: {node.state for node in service.engine.nodes()} == {NodeState.UP}, 60.0)
    await eventually(lambda: not lives(kernel), 60.0)
    home = service.controller.settings.folder
    await eventually(lambda: [record.epoch for record in records(home, session=session)] == [2])
    await eventually(lambda: [each.epoch for each in service.engine.leases() if each.session_id == session] == [2])
    await eventually(lambda: not list(home.glob("nodes/*/remains/*")))


async def test_parked_session_whose_process_is_on_a_silent_node_comes_back_elsewhere(service: Service) -> None:
    await service.admin.cordon("local-1", cordoned=True)
    async with roaming(service, **NO_MORE) as roamer:
        kernel = int(await roamer.said("import os; x = [1]; y = x; print(os.getpid())"))
        await kept(roamer)
        assert "its process stays" in (await roamer.client.park(roamer.id)).session.cause
        await service.admin.cordon("local-1", cordoned=False)
        with stopped(agent_pid(service.controller.settings.folder, "local-0")):
            await roamer.until(S.IDLE)
            assert await roamer.told("print(y is x)") == "True"
            assert (await roamer.node(), (await roamer.look()).epoch) == ("local-1", 2)
            assert is_stopped(kernel)
        await nothing_of_the_first(service, roamer.id, kernel)
        assert await roamer.said("print(y is x)") == "True"


async def test_session_whose_node_goes_silent_as_it_is_told_to_go_on_comes_back_elsewhere(service: Service) -> None:
    await service.admin.cordon("local-1", cordoned=True)
    async with roaming(service, **NO_MORE) as roamer:
        await roamer.said("x = [1]; y = x")
        await kept(roamer)
        assert "its process stays" in (await roamer.client.park(roamer.id)).session.cause
        await service.admin.cordon("local-1", cordoned=False)
        await service.admin.cordon("local-0", cordoned=True)  # it goes back there all the same: its process does
        agent = service.controller.agents.of("local-0")
        real, silent = agent.op, contextlib.ExitStack()

        async def op(session: str, epoch: int, name: str, content: dict[str, Any]) -> dict[str, Any]:
            if name == "go_on":
                silent.enter_context(stopped(agent_pid(service.controller.settings.folder, "local-0")))
            return await real(session, epoch, name, content)

        agent.op = op  # type: ignore[method-assign]
        with silent:
            assert await roamer.told("print(y is x)") == "True"
            assert (await roamer.node(), (await roamer.look()).epoch) == ("local-1", 2)


@pytest.mark.parametrize("op", ["quiesce", "hand_over", "suspend"])
async def test_session_that_is_back_elsewhere_when_the_host_answers_that_was_to_park_it_stays_there(
    service: Service, op: str
) -> None:
    call, answered, late = AgentClient.op, asyncio.Event(), asyncio.Event()

    async def answers_late(self: AgentClient, session_id: str, epoch: int, asked: str, content: Any) -> Any:
        reply = await call(self, session_id, epoch, asked, content)
        if asked == op:
            answered.set()
            await late.wait()
        return reply

    async with roaming(service, **NO_MORE) as roamer:
        await roamer.said("x = [1]; y = x")
        await kept(roamer)
        live, node = service.controller.sessions.get(roamer.id), await roamer.node()
        assert live is not None
        with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            patch.setattr(AgentClient, "op", answers_late)
            work = service.controller.parking.park(live, "a test", process=op == "suspend")
            parking = asyncio.ensure_future(work)
            await asyncio.wait_for(answered.wait(), 30.0)
            stack.enter_context(stopped(agent_pid(service.controller.settings.folder, node)))
            await eventually(lambda: live.session.epoch == 2 and live.session.state is S.IDLE)
            late.set()
            with pytest.raises(MigrationError, match="meanwhile"):
                await asyncio.wait_for(parking, 10.0)
            assert (live.session.state, live.record.kept, live.record.incoming) == (S.IDLE, None, None)
            assert await roamer.told("print(y is x)") == "True"
            assert (await roamer.look()).epoch == 2


async def test_suspended_session_on_a_silent_node_comes_back_elsewhere(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    async with running_service(gpuaas_home.path, **QUICK, turn_s=1.0) as service:
        await eventually(lambda: len(list(gpuaas_home.path.glob("nodes/*/leash-*.json"))) == 2)
        await service.admin.cordon("local-1", cordoned=True)
        async with roaming(service, "one", **NO_MORE) as one, roaming(service, "two", **NO_MORE) as two:
            await one.said("x = [1]; y = x")
            await kept(one)
            pair = Pair(service, one, two, tmp_path / "lines")
            await pair.begin()  # the other one has no checkpoint, and ends with the node
            await service.admin.cordon("local-1", cordoned=False)
            with stopped(agent_pid(gpuaas_home.path, "local-0")):
                await eventually(lambda: any(node.state is NodeState.LOST for node in service.engine.nodes()), 60.0)
                # Its client, too, finds out that its host is not the session's any more.
                await asyncio.wait_for(asyncio.gather(pair.first, pair.second, return_exceptions=True), 60.0)
                assert await one.told("print(y is x)") == "True"
                assert (await one.node(), (await one.look()).epoch) == ("local-1", 2)
                assert is_stopped(pair.pid)
            await nothing_of_the_first(service, one.id, pair.pid)
            assert await one.said("print(y is x)") == "True"


# -- a controller that is silent itself ----------------------------------------------------------------------


@pytest.fixture
def apart(gpuaas_home: GpuaasHome) -> ServiceFile:
    """A service in a process of its own."""
    lines = ["checkpoint_share = 1e6", 'workdir = "session"', f"lease_s = {LEASE_S}", "spare_kernels = 0"]
    (gpuaas_home.path / "settings.toml").write_text("\n".join([*lines, 'devices = "cpu:1"', "stop_timeout_s = 2.0"]))
    gpuaas_home.cli("up", "--detach", "--nodes", "2")
    written = read_service_file(gpuaas_home.path)
    assert written is not None
    return written


@contextlib.asynccontextmanager
async def counting_session(home: Path, url: str, path: Path) -> AsyncIterator[tuple[ServiceClient, RemoteSession, int]]:
    """A session whose kernel (its pid is told) counts, with a client of it."""
    async with ServiceClient(url, (home / "token").read_text().strip()) as client:
        view = await client.create_session("counts", wait_s=60)
        remote = RemoteSession(client, view.session.id, quick_settings(home, **NO_MORE))
        await remote.open(view.channel)
        roamer = Roamer(client, view.session.id, remote)
        try:
            kernel = int(await roamer.said("import os; x = [1]; y = x; print(os.getpid())"))
            yield client, remote, kernel
        finally:
            await remote.close()


@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
async def test_controller_that_is_silent_kernels_stand_still_and_go_on_and_nothing_is_lost(
    gpuaas_home: GpuaasHome, apart: ServiceFile, tmp_path: Path, end: int
) -> None:
    path = tmp_path / "lines"
    async with counting_session(gpuaas_home.path, apart.url, path) as (client, remote, kernel):
        (record,) = records(gpuaas_home.path)
        roamer = Roamer(client, record.session_id, remote)
        outputs = Outputs()
        cell = asyncio.ensure_future(roamer.run(counting(path, "old"), outputs))
        await eventually(lambda: path.exists() and path.stat().st_size)
        os.kill(apart.pid, end)
        try:
            await eventually(lambda: is_stopped(kernel))
            size = path.stat().st_size
            # As no process of the session runs, none can write.
            await eventually(lambda: list(gpuaas_home.path.glob("nodes/*/leash-*.json")))
            assert path.stat().st_size == size
        finally:
            os.kill(apart.pid, signal.SIGCONT) if end == signal.SIGSTOP else gpuaas_home.cli("up", "--detach")
        await eventually(lambda: path.stat().st_size > size)
        assert not is_stopped(kernel)
        await eventually(lambda: "stood still for" in outputs.text or "stood still for" in _log(gpuaas_home, record))
        await client.interrupt(record.session_id)
        assert (await asyncio.wait_for(cell, 60))["ename"] == "KeyboardInterrupt"
        assert await roamer.said("print(y is x, os.getpid())") == f"True {kernel}"
        session = (await client.session(record.session_id)).session
        assert (session.epoch, session.state in (S.IDLE, S.BUSY)) == (1, True)
        assert [each.run_id for each in records(gpuaas_home.path)] == [record.run_id]
        assert not [event for event in await client.events(session=record.session_id) if event.target == "lost"]


def _log(home: GpuaasHome, record: HostRecord) -> str:
    return home.cli("logs", record.session_id).stdout


async def test_client_that_was_away_finds_its_session_restored_with_the_notice(
    service: Service, tmp_path: Path
) -> None:
    async with roaming(service, **NO_MORE) as roamer:
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()
        counted.cell.cancel()  # only here: the kernel goes on
    with stopped(counted.agent, counted.host):
        await is_lost(counted)

        def is_here() -> bool:
            live = service.controller.sessions.get(roamer.id)
            return live is not None and live.session.state is S.IDLE and live.session.epoch == 2

        await eventually(is_here)
        with pytest.raises(StaleEpoch):  # although nothing has run there
            commit_as(service, roamer.id, 1)
        async with roaming(service, **NO_MORE) as again:
            assert again.id == roamer.id
            assert await again.said("print(y is x)") == "True"

            async def told() -> bool:
                text = "".join([piece.decode() async for piece in _session_log(service, again)])
                return "silent" in text and "as after cell 1" in text and "restored from checkpoint" in text

            await eventually(told)
            counted.roamer = again
            assert (await again.run(counting(counted.path, "new", most=20)))["status"] == "ok"
    async with roaming(service, **NO_MORE) as again:
        counted.roamer = again
        await counted.only_one_is_left()


async def _session_log(service: Service, roamer: Roamer) -> AsyncIterator[bytes]:
    session = await roamer.look()
    assert session.lease is not None
    agent = service.controller.agents.of(session.lease.node_id)
    async with agent.log(roamer.id, kind="output", tail=0, follow=False) as pieces:
        async for piece in pieces:
            yield piece


async def test_leash_that_is_killed_is_replaced_and_the_next_agent_takes_over_what_it_stopped(
    service: Service, tmp_path: Path
) -> None:
    async with roaming(service, **NO_MORE) as roamer:
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()

        def leash() -> int:
            found = list((counted.home / "nodes" / counted.node).glob("leash-*.json"))
            return int(found[0].stem.partition("-")[2]) if len(found) == 1 else 0

        before = await eventually(leash)
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: leash() not in (0, before))
        # 1. The controller is cut off.  2. The leash stops the kernel.  3. The agent dies, and another one is started.
        renew = AgentClient.renew_lease

        async def fails(self: AgentClient, renewal: LeaseRenewal) -> LeaseGrant:
            raise TransportError("cut")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AgentClient, "renew_lease", fails)
            # Not so long that the node is lost.
            patch.setattr("jupyter_gpuaas.controller.leases.failed", lambda contact, *rest: contact)
            await eventually(lambda: is_stopped(counted.kernel))
            former = leash()
            os.kill(counted.agent, signal.SIGKILL)
            await eventually(lambda: agent_pid(counted.home, counted.node) != counted.agent)
            assert is_stopped(counted.kernel)
            patch.setattr(AgentClient, "renew_lease", renew)
            await eventually(lambda: leash() not in (0, former) and not is_stopped(counted.kernel))
        assert not lives(former)
        before_s = counted.lines("old")
        await eventually(lambda: counted.lines("old") > before_s)
        await roamer.client.interrupt(roamer.id)
        assert (await counted.cell)["ename"] == "KeyboardInterrupt"
        assert await roamer.told("print(y is x)") == "True"
        assert (await roamer.look()).epoch == 1


async def kept(roamer: Roamer) -> None:
    async def there() -> bool:
        return bool(await roamer.client.checkpoints(roamer.id))

    await eventually(there)


async def test_agent_that_is_stopped_when_a_service_begins_is_taken_over_when_it_goes_on(
    gpuaas_home: GpuaasHome,
) -> None:
    home = gpuaas_home.path
    async with running_service(home, end_sessions=False, **QUICK) as service:
        await eventually(lambda: len(list(home.glob("nodes/*/leash-*.json"))) == 2)
        async with roaming(service) as roamer:
            kernel = int(await roamer.said("import os; x = [1]; y = x; print(os.getpid())"))
            await kept(roamer)
            node = await roamer.node()
    agent = agent_pid(home, node)
    with stopped(agent):
        async with running_service(home, **QUICK) as service:
            assert agent_pid(home, node) == agent
            async with roaming(service, **NO_MORE) as roamer:
                assert await roamer.told("print(y is x)") == "True"
                session = await roamer.look()
                assert session.lease is not None and session.lease.node_id != node and session.epoch == 2
                assert is_stopped(kernel)
                os.kill(agent, signal.SIGCONT)
                await eventually(lambda: {each.state for each in service.engine.nodes()} == {NodeState.UP})
                assert agent_pid(home, node) == agent
                await eventually(lambda: not lives(kernel))
                await eventually(lambda: len(records(home, session=roamer.id)) == 1)
                assert await roamer.told("print(y is x)") == "True"


async def test_service_ends_an_agent_that_hangs(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, nodes=1) as service:
        agent = agent_pid(gpuaas_home.path, "local-0")
        async with roaming(service) as roamer:
            kernel = int(await roamer.said("import os; print(os.getpid())"))
        os.kill(agent, signal.SIGSTOP)
    assert not lives(agent) and not lives(kernel)


async def test_host_that_hangs_under_a_healthy_agent_is_lost(gpuaas_home: GpuaasHome) -> None:
    settings = QUICK | {"host_silence_s": 3.0}
    async with running_service(gpuaas_home.path, **settings) as service, roaming(service, **NO_MORE) as roamer:
        kernel = int(await roamer.said("import os; x = [1]; y = x; print(os.getpid())"))
        await kept(roamer)
        (record,) = records(gpuaas_home.path, session=roamer.id)
        os.kill(record.pid, signal.SIGSTOP)
        session = await roamer.until(SessionState.LOST, SessionState.RESTORING, SessionState.STARTING)
        assert await roamer.told("print(y is x)") == "True"
        session = await roamer.look()
        assert session.epoch == 2
        assert not lives(kernel) and not lives(record.pid)
        events = await roamer.client.events(session=roamer.id)
        assert any("did not answer" in event.cause for event in events if event.target == "lost")
