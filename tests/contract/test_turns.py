"""Sessions that take turns on one device: between their cells and in their middle; real ones, on a cpu device."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from jupyter_gpuaas.controller import drains
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.errors import CellError, DeviceRefused, GpuaasError, MigrationError
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.contract.test_migrations import nothing_left
from tests.fault.nodes import is_stopped, lives
from tests.roaming import Outputs, Roamer, roaming
from tests.service import Service, eventually, running_service

S = SessionState
TURN_S = 1.0
QUICK = {"checkpoint_share": 1e6, "workdir": "session", "turn_s": TURN_S, "park_for_waiting_s": 0.5}


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


def computing(path: Path, who: str, lines: int) -> str:
    """A cell that computes for some hundredths of a second of its processor's time before each line that it writes."""
    return (
        "import os, time\n"
        f"with open({str(path)!r}, 'a', buffering=1) as file:\n"
        f"    for number in range({lines}):\n"
        "        end = time.process_time() + 0.02\n"
        "        while time.process_time() < end: pass\n"
        f"        file.write({who!r} + f' {{number}}\\n')\n"
        "        print(number)\n"
    )


def runs_of(path: Path) -> list[str]:
    """Who wrote, in order, each once for as many lines as it wrote in a row."""
    found: list[str] = []
    for line in path.read_text().splitlines():
        who = line.split()[0]
        if found[-1:] != [who]:
            found.append(who)
    return found


async def state(service: Service, session: str) -> SessionState:
    return (await service.admin.session(session)).session.state


async def suspended(service: Service, session: str) -> None:
    async def stands() -> bool:
        return await state(service, session) is S.SUSPENDED

    await eventually(stands, 60.0)


class Pair:
    """A session that was suspended in the middle of its cell, and the one that has its device meanwhile."""

    def __init__(self, service: Service, one: Roamer, two: Roamer, path: Path) -> None:
        self.service, self.one, self.two, self.path = service, one, two, path
        self.outputs = Outputs()
        self.pid = 0

    async def begin(self, lines: int = 10**6) -> None:
        self.pid = int(await self.one.said("import os; x = [1]; y = x; print(os.getpid())"))
        self.first = asyncio.ensure_future(self.one.run(computing(self.path, "one", lines), self.outputs))
        await eventually(lambda: self.path.exists() and "one" in self.path.read_text())
        self.second = asyncio.ensure_future(self.two.run(computing(self.path, "two", lines)))
        await suspended(self.service, self.one.id)
        # A turn of a second is too short to look at things: this one lasts.
        self.turns_of(0.0)

    def turns_of(self, turn_s: float) -> None:
        turns = self.service.controller.turns
        turns._settings = msgspec.structs.replace(turns._settings, turn_s=turn_s)

    async def end_second(self) -> None:
        """Let the other one give its device back for good."""
        await self.two.client.release(self.two.id)
        with pytest.raises((CellError, GpuaasError)):
            await self.second


@pytest.fixture
async def pair(service: Service, tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(_opened(service, name)) for name in ("two", "one")][::-1]
        made = Pair(service, one, two, tmp_path / "lines")
        yield made
        for task in (made.first, made.second):
            task.cancel()
        await asyncio.gather(made.first, made.second, return_exceptions=True)


def _opened(service: Service, name: str):  # type: ignore[no-untyped-def]
    return roaming(service, name)


@pytest.mark.long
async def test_two_long_cells_take_turns_and_write_every_line_once(service: Service, tmp_path: Path) -> None:
    path, lines = tmp_path / "lines", 200
    async with roaming(service, "one") as one, roaming(service, "two") as two:
        told = {"one": Outputs(), "two": Outputs()}
        cells = [
            asyncio.ensure_future(who.run(computing(path, name, lines), told[name]))
            for name, who in (("one", one), ("two", two))
        ]
        kernels: dict[str, int] = {}
        running: list[set[str]] = []

        def look() -> bool:
            for name, who in (("one", one), ("two", two)):
                live = service.controller.sessions.get(who.id)
                assert live is not None
                if live.lease is not None and live.lease.device_ids:
                    kernels[name] = kernels.get(name, 0) + 1
            held = [lease.session_id for lease in service.engine.leases() if lease.device_ids]
            running.append(set(held))
            assert len(held) <= 1
            return all(cell.done() for cell in cells)

        await eventually(look, 120.0)
        assert [(await cell)["status"] for cell in cells] == ["ok", "ok"]
        for name in ("one", "two"):
            mine = [int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name)]
            assert mine == list(range(lines))
            assert [int(line) for line in told[name].text.split()] == list(range(lines))
        # Neither had to wait for the end of the other's cell.
        assert len(runs_of(path)) >= 4
        story = [event for event in await service.admin.events(session=one.id)]
        gave_up = [event for event in story if event.target == "suspended"]
        assert gave_up and "turn_s" in gave_up[0].cause and "another session" in gave_up[0].cause
        assert any("its turn comes" in event.cause for event in story if event.kind == "session")
        back = [event for event in story if event.source == "suspended"]
        assert back and back[0].target == "busy" and "its turn on local-0 with cpu:0" in back[0].cause


@pytest.mark.fault
async def test_one_that_stands_still_has_no_device_and_no_process_that_runs(pair: Pair) -> None:
    await pair.begin()
    assert is_stopped(pair.pid)
    await eventually(lambda: "two" in pair.path.read_text(), 60.0)
    assert is_stopped(pair.pid)
    view = (await pair.service.admin.session(pair.one.id)).session
    assert view.lease is not None and view.lease.device_ids == ()
    assert view.cause.startswith("had its turn")
    (held,) = pair.service.engine.leases()
    assert held.session_id == pair.two.id
    with pytest.raises(MigrationError, match="suspended"):
        await pair.one.client.park(pair.one.id)
    with pytest.raises(MigrationError, match="suspended"):
        await pair.one.client.migrate(pair.one.id, None)
    await pair.end_second()
    await pair.one.until(S.BUSY)
    await eventually(lambda: not is_stopped(pair.pid))
    assert pair.service.engine.leases()[0].epoch == view.epoch


@pytest.mark.fault
async def test_what_the_cell_has_started_stands_still_with_it(service: Service, tmp_path: Path) -> None:
    path, noted = tmp_path / "lines", tmp_path / "pid"
    child = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'while True: pass'], start_new_session=True)\n"
        f"open({str(noted)!r}, 'w').write(str(p.pid))\n"
    )
    async with roaming(service, "one") as one, roaming(service, "two") as two:
        first = asyncio.ensure_future(one.run(child + computing(path, "one", 10**6)))
        await eventually(lambda: noted.exists() and noted.read_text())
        second = asyncio.ensure_future(two.run(computing(path, "two", 10**6)))
        pid = int(noted.read_text())
        await suspended(service, one.id)
        assert is_stopped(pid)
        await two.client.release(two.id)
        await asyncio.gather(second, return_exceptions=True)
        await one.until(S.BUSY)
        await eventually(lambda: not is_stopped(pid))
        await one.client.release(one.id)
        await asyncio.gather(first, return_exceptions=True)
        await eventually(lambda: not lives(pid))


@pytest.mark.fault
async def test_interrupt_of_one_that_stands_still_is_its_first_experience_when_it_goes_on(pair: Pair) -> None:
    await pair.begin()
    before = pair.path.read_text().count("one")
    await pair.one.client.interrupt(pair.one.id)
    behind = asyncio.ensure_future(pair.one.run("print('behind')"))
    assert is_stopped(pair.pid)
    await pair.end_second()
    reply = await asyncio.wait_for(pair.first, 60)
    assert reply["ename"] == "KeyboardInterrupt"
    assert pair.path.read_text().count("one") <= before + 1
    assert (await asyncio.wait_for(behind, 60))["status"] in ("ok", "aborted")
    assert await pair.one.said("print(y is x)") == "True"


@pytest.mark.fault
async def test_restart_of_one_that_stands_still_gives_it_a_kernel_that_waits_for_its_turn(pair: Pair) -> None:
    await pair.begin()
    await pair.one.client.restart(pair.one.id)
    with pytest.raises((CellError, AssertionError)):
        reply = await asyncio.wait_for(pair.first, 60)
        assert reply["status"] == "ok"
    fresh = asyncio.ensure_future(pair.one.said("print('fresh', 'x' in globals())"))
    await eventually(lambda: not lives(pair.pid))
    assert await state(pair.service, pair.one.id) in (S.SUSPENDED, S.BUSY, S.IDLE)
    await pair.end_second()
    assert await asyncio.wait_for(fresh, 60) == "fresh False"


@pytest.mark.fault
async def test_release_of_one_that_stands_still_leaves_nothing(pair: Pair) -> None:
    await pair.begin()
    await pair.one.client.release(pair.one.id)
    await eventually(lambda: not lives(pair.pid))
    await eventually(lambda: [lease.session_id for lease in pair.service.engine.leases()] == [pair.two.id])

    async def computes() -> bool:  # it may have come to its device a moment ago
        return await state(pair.service, pair.two.id) is S.BUSY

    await eventually(computes)


@pytest.mark.fault
async def test_host_of_one_that_stands_still_dies_and_its_newest_checkpoint_waits_for_its_turn(pair: Pair) -> None:
    await pair.begin()
    host = psutil.Process(pair.pid).parent()
    assert host is not None
    os.kill(host.pid, signal.SIGKILL)
    pair.turns_of(TURN_S)
    await eventually(lambda: not lives(pair.pid))
    assert (await asyncio.wait_for(pair.first, 90))["ename"] == ENAME
    session = await pair.one.look()
    assert session.epoch > 1
    assert await asyncio.wait_for(pair.one.told("print(y is x)"), 90) == "True"


# -- parked with its process: the only node that could take it keeps it ------------------------------------------


async def test_parked_session_keeps_its_process_and_its_next_cell_goes_on_in_it(service: Service) -> None:
    async with roaming(service, "one") as one:
        made = "import os, threading; stop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()"
        pid = int(await one.said(f"{made}; print(os.getpid())"))
        epoch = (await one.look()).epoch
        parked = (await one.client.park(one.id)).session
        assert parked.state is S.PARKED and "its process stays" in parked.cause
        assert is_stopped(pid)
        await eventually(lambda: not service.engine.leases())
        assert await one.said("print(os.getpid(), t.is_alive()); stop.set(); t.join()") == f"{pid} True"
        session = await one.look()
        assert session.epoch == epoch and session.lease is not None and session.lease.device_ids == ("cpu:0",)
        # It was not taken for one whose kernel had died.
        story = [event.target for event in await one.client.events(session=one.id) if event.kind == "transition"]
        assert story[story.index("parked") :][:3] == ["parked", "restoring", "idle"]
        assert len(service.engine.leases()) == 1


@pytest.mark.fault
async def test_parked_session_whose_process_is_lost_comes_back_with_its_newest_checkpoint(service: Service) -> None:
    async with roaming(service, "one") as one:
        pid = int(await one.said("import os; x = [1]; y = x; print(os.getpid())"))

        async def kept() -> bool:
            return bool(await one.client.checkpoints(one.id))

        await eventually(kept)
        await one.client.park(one.id)
        host = psutil.Process(pid).parent()
        assert host is not None
        os.kill(host.pid, signal.SIGKILL)
        await one.until(S.LOST, S.RESTORING, S.STARTING, S.IDLE)
        assert await one.told("print(y is x)") == "True"
        assert (await one.look()).epoch > 1


@pytest.mark.fault
async def test_parked_session_with_its_process_that_is_released_leaves_nothing(service: Service) -> None:
    async with roaming(service, "one") as one:
        pid = int(await one.said("import os; print(os.getpid())"))
        await one.client.park(one.id)
        await one.client.release(one.id)
        await eventually(lambda: not lives(pid))
        await eventually(lambda: not service.engine.leases())


@pytest.mark.fault
async def test_parked_session_is_where_it_was_when_the_service_starts_again(gpuaas_home: GpuaasHome) -> None:
    home = gpuaas_home.path
    async with AsyncExitStack() as clients:
        async with running_service(home, end_sessions=False, **QUICK) as service:
            one = await clients.enter_async_context(_opened(service, "one"))
            pid = int(await one.said("import os; print(os.getpid())"))
            await one.client.park(one.id)
            await clients.aclose()
        async with running_service(home, **QUICK) as service:
            assert await state(service, one.id) is S.PARKED
            assert is_stopped(pid)
            await service.admin.wake(one.id)
            async with roaming(service, "one") as again:
                assert again.id == one.id
                assert await again.said("import os; print(os.getpid())") == str(pid)


@pytest.mark.fault
async def test_service_that_starts_again_lets_each_go_on_in_its_turn(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    home, path, lines = gpuaas_home.path, tmp_path / "lines", 150
    async with AsyncExitStack() as clients:
        async with running_service(home, end_sessions=False, **QUICK) as service:
            one, two = [await clients.enter_async_context(_opened(service, name)) for name in ("one", "two")]
            sessions = [one.id, two.id]
            cells = [asyncio.ensure_future(who.run(computing(path, who.id, lines))) for who in (one, two)]

            async def both_have_begun() -> bool:
                stands = any([await state(service, session) is S.SUSPENDED for session in sessions])
                return stands and all(session in path.read_text() for session in sessions)

            # Before it has begun, a cell may still be with its client only, which goes.
            await eventually(both_have_begun, 60.0)
            for cell in cells:
                cell.cancel()
            await asyncio.gather(*cells, return_exceptions=True)
            await clients.aclose()
        async with running_service(home, **QUICK) as service:

            def written() -> bool:
                text = path.read_text()
                return all(text.count(session) == lines for session in sessions)

            await eventually(written, 90.0)
            for session in sessions:
                mine = [int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(session)]
                assert mine == list(range(lines))


@pytest.mark.fault
async def test_ten_sessions_work_on_one_device_by_turns(gpuaas_home: GpuaasHome) -> None:
    names = [f"s{number}" for number in range(10)]
    async with running_service(gpuaas_home.path, **(QUICK | {"turn_s": 30.0})) as service, AsyncExitStack() as stack:
        opened = [asyncio.ensure_future(stack.enter_async_context(_opened(service, name))) for name in names]
        roamers = dict(zip(names, await asyncio.gather(*opened), strict=True))

        async def work(name: str) -> None:
            for turn in range(2):
                told = await roamers[name].said(f"mine = [*globals().get('mine', []), {turn}]; print({name!r}, mine)")
                assert told == f"{name} {list(range(turn + 1))}"
                assert len([lease for lease in service.engine.leases() if lease.device_ids]) <= 1

        await asyncio.gather(*(work(name) for name in names))


# -- left by everybody --------------------------------------------------------------------------------------------


async def nobody_has(service: Service, one: Roamer) -> LiveSession:
    """Let the session's only client go, and return when the service knows."""
    live = service.controller.sessions.get(one.id)
    assert live is not None
    await one.remote.close()
    await eventually(lambda: not live.session.clients and live.session.unattended_since_s)
    return live


async def ended_as_unattended(service: Service, session: str) -> None:
    await eventually(lambda: service.controller.sessions.get(session) is None, 60.0)
    record = service.controller.database.session(session)
    assert record is not None
    assert record.session.state is S.CLOSED and "unattended_s" in record.session.cause


@pytest.mark.fault
async def test_suspended_session_that_everybody_has_left_ends_with_its_processes_and_its_place(pair: Pair) -> None:
    await pair.begin()
    pair.service.controller.unattended._limit_s = 0.2
    await nobody_has(pair.service, pair.one)
    await ended_as_unattended(pair.service, pair.one.id)
    assert not lives(pair.pid)
    await nothing_left(pair.service, "local-0", pair.one.id)
    assert [lease.session_id for lease in pair.service.engine.leases()] == [pair.two.id]
    assert pair.service.controller.scheduler.waits() == []


@pytest.mark.fault
@pytest.mark.parametrize("process", [True, False])
async def test_parked_session_that_everybody_had_left_ends_and_leaves_nothing(service: Service, process: bool) -> None:
    unattended = service.controller.unattended
    async with roaming(service, "one") as one:
        pid = int(await one.said("import os; print(os.getpid())"))
        live = await nobody_has(service, one)
        await service.controller.parking.park(live, "a test", process=process)
        await eventually(lambda: lives(pid) is process)
        if process:
            await eventually(lambda: live.suspended)
        assert live.session.unattended_since_s
        unattended._limit_s = 0.1
        unattended.look(live)
        await ended_as_unattended(service, one.id)
        await eventually(lambda: not lives(pid))
        await nothing_left(service, "local-0", one.id)
        # The session has ended when it is written down; its node is told after that.
        await eventually(lambda: not list((service.controller.settings.folder / "nodes").glob("*/remains/*")))
        assert not service.engine.leases()


@pytest.mark.fault
async def test_session_that_was_parked_from_under_its_client_is_not_left_by_that(service: Service) -> None:
    unattended = service.controller.unattended
    async with roaming(service, "one") as one:
        pid = int(await one.said("import os; print(os.getpid())"))
        live = service.controller.sessions.get(one.id)
        assert live is not None
        await one.client.park(one.id)
        await eventually(lambda: live.suspended)
        assert not live.session.unattended_since_s
        assert one.id not in unattended._timers
        assert await one.said("print(os.getpid())") == str(pid)


async def test_session_whose_device_refuses_is_parked_without_its_process(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AgentClient.op

    async def op(self: AgentClient, session_id: str, epoch: int, op: str, content: dict[str, Any]) -> Any:
        if op == "suspend":
            raise DeviceRefused("the device work did not end.")
        return await real(self, session_id, epoch, op, content)

    async with roaming(service, "one") as one:
        pid = int(await one.said("import os; x = [1]; y = x; print(os.getpid())"))
        monkeypatch.setattr(AgentClient, "op", op)
        parked = (await one.client.park(one.id)).session
        assert parked.state is S.PARKED and "checkpoint" in parked.cause
        await eventually(lambda: not lives(pid))
        assert await one.said("print(x, y is x)") == "[1] True"


@pytest.mark.fault
async def test_parked_session_that_is_woken_is_left_from_then_on_only(service: Service) -> None:
    async with roaming(service, "one") as one:
        await one.said("x = 1")
        live = await nobody_has(service, one)
        await service.admin.park(one.id)
        await eventually(lambda: live.suspended)
        left_s = live.session.unattended_since_s
        await service.admin.wake(one.id)
        await eventually(lambda: live.session.unattended_since_s > left_s)


# -- drained ------------------------------------------------------------------------------------------------------


async def parked_where_nothing_else_is(service: Service, one: Roamer) -> None:
    """Park a session with its process on the first of two nodes; the other one takes sessions again afterwards."""
    parked = (await one.client.park(one.id)).session
    assert "its process stays" in parked.cause
    await service.admin.cordon("local-1", cordoned=False)


@pytest.mark.fault
async def test_drain_puts_a_session_that_is_parked_with_its_process_into_its_store(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, nodes=2, **QUICK) as service:
        await service.admin.cordon("local-1", cordoned=True)
        async with roaming(service, "one") as one:
            pid = int(await one.said("import os; x = [1]; y = x; print(os.getpid())"))
            await parked_where_nothing_else_is(service, one)
            await service.admin.drain("local-0", deadline_s=600)

            async def empty() -> bool:
                return (await service.admin.drain_view("local-0")).done

            await eventually(empty, 60.0)
            view = await service.admin.drain_view("local-0")
            assert (view.left, view.refused, view.cause) == ((), {}, "the node is empty")
            assert await state(service, one.id) is S.PARKED
            assert not lives(pid)
            assert not service.engine.leases()
            assert await one.said("print(y is x)") == "True"
            assert await one.node() == "local-1"


@pytest.mark.fault
async def test_drain_wakes_no_session_that_is_parked_as_a_checkpoint(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, gate = AgentClient.stop_host, asyncio.Event()

    async def stops_late(self: AgentClient, *arguments: Any, **more: Any) -> None:
        await gate.wait()
        await stop(self, *arguments, **more)

    monkeypatch.setattr(AgentClient, "stop_host", stops_late)
    async with running_service(gpuaas_home.path, nodes=2, **QUICK) as service, roaming(service, "one") as one:
        await one.said("x = [1]; y = x")
        live, node = service.controller.sessions.get(one.id), await one.node()
        assert live is not None
        await service.controller.parking.park(live, "a test", process=False)
        await service.admin.drain(node, deadline_s=600)
        assert (await service.admin.drain_view(node)).left == (one.id,)
        gate.set()

        async def empty() -> bool:
            return (await service.admin.drain_view(node)).done

        await eventually(empty, 60.0)
        assert (live.session.state, live.lease) == (S.PARKED, None)
        assert await one.said("print(y is x)") == "True"


@pytest.mark.fault
async def test_drain_goes_on_when_a_session_is_released_that_it_puts_away(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, answered, gate = AgentClient.op, asyncio.Event(), asyncio.Event()

    async def answers_late(self: AgentClient, session_id: str, epoch: int, asked: str, content: Any) -> Any:
        reply = await call(self, session_id, epoch, asked, content)
        if asked == "hand_over":
            answered.set()
            await gate.wait()
        return reply

    monkeypatch.setattr(AgentClient, "op", answers_late)
    async with running_service(gpuaas_home.path, nodes=2, **QUICK) as service:
        await service.admin.cordon("local-1", cordoned=True)
        async with roaming(service, "one") as one:
            await one.said("x = 1")
            await parked_where_nothing_else_is(service, one)
            await service.admin.drain("local-0", deadline_s=600)
            await asyncio.wait_for(answered.wait(), 60.0)
            await service.admin.release(one.id)
            gate.set()

            async def empty() -> bool:
                return (await service.admin.drain_view("local-0")).done

            await eventually(empty)
            assert (await service.admin.drain_view("local-0")).cause == "the node is empty"


@pytest.mark.fault
async def test_drain_leaves_a_parked_session_that_would_lose_names_as_it_was_and_says_so(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(gpuaas_home.path, nodes=2, **QUICK) as service:
        await service.admin.cordon("local-1", cordoned=True)
        async with roaming(service, "one") as one:
            made = "import os, threading; stop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()"
            pid = int(await one.said(f"{made}; print(os.getpid())"))
            await parked_where_nothing_else_is(service, one)
            await service.admin.drain("local-0", deadline_s=600)

            async def refused() -> bool:
                return "would be lost" in (await service.admin.drain_view("local-0")).refused.get(one.id, "")

            await eventually(refused, 60.0)
            assert lives(pid)
            late = SimpleNamespace(time=lambda: time.time() + 3600.0, monotonic=time.monotonic)
            monkeypatch.setattr(drains, "time", late)

            async def over() -> bool:
                return (await service.admin.drain_view("local-0")).done

            await eventually(over, 60.0)
            assert (await service.admin.drain_view("local-0")).left == (one.id,)
            assert await state(service, one.id) is S.PARKED and is_stopped(pid)
            await eventually(lambda: not service.engine.leases())


@pytest.mark.fault
async def test_drain_moves_a_suspended_session_when_its_turn_has_come(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    async with running_service(gpuaas_home.path, nodes=2, **QUICK) as service:
        await service.admin.cordon("local-1", cordoned=True)
        async with roaming(service, "one") as one, roaming(service, "two") as two:
            pair = Pair(service, one, two, tmp_path / "lines")
            await pair.begin()
            await service.admin.cordon("local-1", cordoned=False)
            await service.admin.drain("local-0", deadline_s=600)
            assert await state(service, one.id) is S.SUSPENDED
            await pair.end_second()
            await one.until(S.BUSY)
            await one.client.interrupt(one.id)
            assert (await asyncio.wait_for(pair.first, 60))["ename"] == "KeyboardInterrupt"

            async def empty() -> bool:
                return (await service.admin.drain_view("local-0")).done

            await eventually(empty, 60.0)
            assert (await service.admin.drain_view("local-0")).cause == "the node is empty"
            assert await one.node() == "local-1"
            assert await one.said("print(y is x)") == "True"
            await eventually(lambda: not lives(pair.pid))
