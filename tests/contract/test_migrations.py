"""Sessions that move, are parked and come back, through the service, over real nodes and kernels."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.client.migrations import ENDED, follow_migration
from jupyter_gpuaas.controller import drains
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.drains import Drain, DrainRows
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import AgentEndpoint
from jupyter_gpuaas.errors import (
    AllocationError,
    Forbidden,
    InvalidRequest,
    MigrationError,
    NamesLost,
    StaleEpoch,
    TransportError,
)
from jupyter_gpuaas.model import DrainView, HostReport, HostState, Phase, ResourceRequest, SessionState
from jupyter_gpuaas.node.hosts import HostRecord
from tests.conftest import GpuaasHome
from tests.fault.nodes import lives
from tests.roaming import Outputs, Roamer, commit_as, roaming
from tests.service import Service, eventually, quick_settings, running_service

S = SessionState
QUICK = {"nodes": 2, "checkpoint_share": 1e6, "workdir": "session"}


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


async def nothing_left(service: Service, node: str, session: str) -> None:
    """Nothing of the session is on the node: no lease, no host, no folder."""
    folder = service.controller.settings.folder / "nodes" / node

    async def gone() -> bool:
        leases = [lease for lease in service.engine.leases() if lease.node_id == node and lease.session_id == session]
        hosts = [report for report in await service.controller.agents.of(node).hosts() if report.session_id == session]
        return not leases and not hosts and not (folder / "sessions" / session).exists()

    await eventually(gone)


def host_of(service: Service, node: str, session: str) -> int:
    """Process id of the session's host on a node."""
    for path in (service.controller.settings.folder / "nodes" / node / "hosts").glob("*.json"):
        record = msgspec.json.decode(path.read_bytes(), type=HostRecord)
        if record.session_id == session:
            return record.pid
    raise AssertionError(f"session {session} has no host on {node}")


# -- moving --------------------------------------------------------------------------------------------------


async def test_session_moves_and_goes_on_with_its_variables_and_count(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("import random; random.seed(7); a = [1, 2]; b = a; print(len(a))")
        await roamer.said("expected = random.getstate()")
        done = await roamer.migrate()
        assert done.phase is Phase.DONE, done.cause
        assert (done.source, done.target) == (source, await roamer.node())
        assert done.target != source
        assert done.rounds and done.bytes_sent > 0 and 0 < done.downtime_s < done.total_s
        outputs = Outputs()
        reply = await roamer.run("print(b is a, random.getstate() == expected)", outputs)
        assert (outputs.text, reply["execution_count"]) == ("True True\n", 3)
        session = await roamer.look()
        assert session.epoch == 2
        await nothing_left(service, source, roamer.id)
        back = await roamer.migrate(source)
        assert back.phase is Phase.DONE, back.cause
        assert await roamer.said("print(b is a)") == "True"
        await nothing_left(service, done.target, roamer.id)


async def test_session_that_has_just_moved_can_be_moved_straight_back(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = [1]; y = x")
        for _ in range(3):
            node = await roamer.node()
            done = await roamer.migrate()  # not refused: the devices that it has left are still being given back
            assert done.phase is Phase.DONE, done.cause
            assert done.source == node
        assert await roamer.said("print(y is x)") == "True"
        await nothing_left(service, done.source, roamer.id)


async def test_what_has_changed_since_the_newest_checkpoint_is_sent_once(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("import numpy; draw = numpy.random.default_rng(0).random")
        await roamer.said("cold, hot = draw(5_000_000), draw(5_000_000)")
        await service.admin.checkpoint_every(roamer.id, 0)
        await service.admin.take_checkpoint(roamer.id)
        await roamer.said("hot += 1; expected = float(hot.sum() + cold.sum())")
        done = await roamer.migrate()
        assert done.phase is Phase.DONE, done.cause
        first, last = done.rounds
        assert 40e6 < first.sent_bytes < 45e6 and 40e6 < last.sent_bytes < 45e6
        assert await roamer.said("print(float(hot.sum() + cold.sum()) == expected)") == "True"
        story = [event.cause for event in await service.admin.events(session=roamer.id) if event.kind == "migration"]
        assert any("40 MB have changed since the newest checkpoint" in cause for cause in story), story


async def test_move_begins_with_the_newest_checkpoint_though_it_was_not_reported_yet(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, **QUICK, busy_report_s=2.0) as service, roaming(service) as roamer:
        await roamer.said("import numpy; draw = numpy.random.default_rng(0).random")
        await roamer.said("data = draw(10_000_000)")
        first = (await service.admin.take_checkpoint(roamer.id)).id

        async def reported() -> bool:
            status = (await service.admin.session(roamer.id)).checkpoints
            return status is not None and status.last is not None and status.last.id == first

        await eventually(reported)
        await roamer.said("data += 1")  # its report comes within two seconds
        newest = first

        async def written() -> bool:
            nonlocal newest
            newest = (await service.admin.checkpoints(roamer.id))[-1].id
            return newest != first

        await eventually(written)
        done = await roamer.migrate()
        assert done.phase is Phase.DONE, done.cause
        assert done.rounds[0].checkpoint == newest and done.bytes_sent < 90e6


async def test_session_whose_cell_ends_while_it_comes_to_a_standstill_is_captured_once(
    service: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with roaming(service) as roamer:
        await roamer.said("import os, time, numpy; data = numpy.random.default_rng(0).random(10_000_000)")
        await service.admin.take_checkpoint(roamer.id)
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        outputs = Outputs()
        code = f"print('in', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\ndata += 1"
        running = asyncio.ensure_future(roamer.run(code, outputs))
        await outputs.heard.wait()
        moving = asyncio.ensure_future(roamer.migrate())
        await eventually(lambda: live.stands_still)
        gate.touch()
        done = await moving
        assert done.phase is Phase.DONE, done.cause
        assert (await running)["status"] == "ok"
        taken = [view.cell for view in await service.admin.checkpoints(roamer.id)]
        assert taken.count(2) == 1, (taken, done)


async def test_move_of_a_session_that_was_restored_waits_for_no_checkpoint(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("import numpy; data = numpy.random.default_rng(0).random(10_000_000)")
        old = await service.admin.take_checkpoint(roamer.id)
        await roamer.said("data += 1")
        new = await service.admin.take_checkpoint(roamer.id)
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        await eventually(lambda: live.checkpoints is not None and live.checkpoints.last == new)
        await service.admin.restore(roamer.id, old.id)
        done = await roamer.migrate()
        assert done.phase is Phase.DONE, done.cause
        assert done.phases_s["pre_copy"] < 4.0, done.phases_s


async def test_move_waits_for_the_cell_that_runs_and_what_comes_meanwhile_runs_once_and_in_order(
    service: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with roaming(service) as roamer:
        await roamer.said("import os, time; done = []")
        outputs = Outputs()
        code = f"print('in', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\ndone.append(0)"
        running = asyncio.ensure_future(roamer.run(code, outputs))
        await outputs.heard.wait()
        moving = asyncio.ensure_future(roamer.migrate())

        async def waits_for_the_cell() -> bool:
            view = (await roamer.client.session(roamer.id)).migration
            return view is not None and view.phase in (Phase.QUIESCE, Phase.PRE_COPY) and "cell" in view.cause

        await eventually(waits_for_the_cell)
        more = [asyncio.ensure_future(roamer.run(f"done.append({number})")) for number in range(1, 6)]
        gate.touch()
        done = await moving
        assert done.phase is Phase.DONE, done.cause
        replies = await asyncio.gather(running, *more)
        assert [reply["status"] for reply in replies] == ["ok"] * 6
        assert [reply["execution_count"] for reply in replies] == [2, 3, 4, 5, 6, 7]
        assert await roamer.said("print(done)") == "[0, 1, 2, 3, 4, 5]"


@pytest.mark.parametrize("runs", [True, False])
async def test_move_goes_by_whether_a_cell_runs_now_and_not_by_what_was_reported(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    sessions, gate = service.controller.sessions, tmp_path / "gate"
    real, late = sessions.reported, HostState.BUSY if runs else HostState.IDLE

    def reported(live: LiveSession, report: HostReport) -> None:
        if report.state is not late:
            real(live, report)

    async with roaming(service) as roamer:
        await roamer.said("import os, time")
        live = sessions.get(roamer.id)
        assert live is not None
        await roamer.until(S.IDLE)
        outputs = Outputs()
        code = f"print('in', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
        if runs:
            monkeypatch.setattr(sessions, "reported", reported)
        running = asyncio.ensure_future(roamer.run(code, outputs))
        await outputs.heard.wait()
        if runs:
            assert live.session.state is S.IDLE
            plan = await roamer.client.plan_migration(roamer.id)
            assert "the cell that runs is waited for" in plan.remarks
            with pytest.raises(MigrationError, match="a cell runs"):
                await roamer.client.migrate(roamer.id, wait=False)
            gate.touch()
            assert (await running)["status"] == "ok"
            return
        await roamer.until(S.BUSY)
        monkeypatch.setattr(sessions, "reported", reported)
        gate.touch()
        assert (await running)["status"] == "ok"
        assert live.session.state is S.BUSY
        view = await roamer.client.migrate(roamer.id, wait=False)
        monkeypatch.setattr(sessions, "reported", real)
        done = await asyncio.wait_for(follow_migration(roamer.client, view, lambda text: None), 120.0)
        assert done.phase is Phase.DONE, done.cause


async def test_move_that_is_cancelled_leaves_the_session_where_it_was(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("import os, time; x = 1")
        outputs = Outputs()
        code = f"print('in', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
        running = asyncio.ensure_future(roamer.run(code, outputs))
        await outputs.heard.wait()
        view = await roamer.client.migrate(roamer.id)
        with pytest.raises(MigrationError, match="already"):
            await roamer.client.migrate(roamer.id)
        await roamer.client.cancel_migration(roamer.id, view.id)

        async def over() -> bool:
            return (await roamer.client.migration(roamer.id, view.id)).phase is Phase.CANCELLED

        await eventually(over)
        gate.touch()
        assert (await running)["status"] == "ok"
        assert await roamer.said("print(x)") == "1"
        assert await roamer.node() == source
        await nothing_left(service, view.target, roamer.id)
        with pytest.raises(InvalidRequest, match="not under way"):
            await roamer.client.cancel_migration(roamer.id, view.id)


async def test_move_that_would_lose_names_is_refused_and_names_them(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said(
            "import threading; stop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()"
        )

        async def plan_names_it() -> bool:
            return "t" in (await roamer.client.plan_migration(roamer.id)).lost

        await eventually(plan_names_it)
        with pytest.raises(NamesLost, match=r"\bt\b.*would be lost"):
            await roamer.client.migrate(roamer.id)
        with pytest.raises(MigrationError, match=r"via.*images are switched off"):
            await roamer.client.migrate(roamer.id, via="image")
        with pytest.raises(NamesLost, match=r"\bt\b.*would be lost"):
            await roamer.client.park(roamer.id)
        assert await roamer.said("print(t.is_alive()); x = 5") == "True"
        done = await roamer.migrate(accept_loss=True)
        assert done.phase is Phase.DONE, done.cause
        assert "t" in done.lost
        assert await roamer.said("print(x)") == "5"


async def test_move_to_where_there_is_no_room_is_refused(service: Service) -> None:
    async with roaming(service, "one") as one, roaming(service, "two"):
        await one.said("x = 1")
        with pytest.raises(AllocationError, match="no other node has room"):
            await one.client.migrate(one.id)
        with pytest.raises(InvalidRequest, match="no node 'nowhere'"):
            await one.client.migrate(one.id, "nowhere")
        with pytest.raises(InvalidRequest, match="already"):
            await one.client.migrate(one.id, await one.node())


async def test_move_by_somebody_else_is_refused(service: Service) -> None:
    async with roaming(service) as roamer, service.client("eve") as eve:
        await roamer.said("x = 1")
        for attempt in (
            eve.migrate(roamer.id),
            eve.plan_migration(roamer.id),
            eve.park(roamer.id),
            eve.wake(roamer.id),
        ):
            with pytest.raises(Forbidden):
                await attempt


async def test_story_tells_phases_and_why(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = 1")
        done = await roamer.migrate()
        events = await roamer.client.events(session=roamer.id)
        phases = [event.detail["phase"] for event in events if event.kind == "migration"]
        wanted = ["reserve", "pre_copy", "quiesce", "stop_copy", "restore", "verify", "cutover", "done"]
        assert [phase for phase in dict.fromkeys(phases)] == wanted
        last = [event for event in events if event.kind == "migration"][-1]
        assert last.detail["downtime_s"] == done.downtime_s
        assert done.source in last.cause and done.target in last.cause
        moves = [(event.source, event.target) for event in events if event.kind == "transition"]
        assert moves[-3:] == [("idle", "migrating"), ("migrating", "starting"), ("starting", "idle")]


async def test_target_that_dies_before_the_cutover_changes_nothing(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("x = [1]; y = x")
        agents = service.controller.agents
        target = next(node.id for node in service.engine.nodes() if node.id != source)
        client = agents.of(target)
        real = client.op

        async def dies(session: str, epoch: int, op: str, content: dict[str, object]) -> dict[str, object]:
            if op == "load":
                os.kill(host_of(service, target, session), signal.SIGKILL)
            return await real(session, epoch, op, content)

        client.op = dies  # type: ignore[method-assign]
        done = await roamer.migrate()
        assert done.phase is Phase.FAILED
        assert await roamer.node() == source
        assert await roamer.said("print(y is x)") == "True"
        await nothing_left(service, target, roamer.id)


async def test_source_whose_agent_is_away_after_the_cutover_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, op, away = service.engine.agent, AgentClient.op, asyncio.Event()

    def unless_away(node_id: str) -> AgentEndpoint:
        if away.is_set() and node_id == source:
            raise TransportError(f"node {node_id} is away.")
        return agent(node_id)

    async def then_away(self: AgentClient, session_id: str, epoch: int, asked: str, content: Any) -> Any:
        reply = await op(self, session_id, epoch, asked, content)
        if asked == "succeed":  # the last that the target needs of its source
            away.set()
        return reply

    async with roaming(service) as roamer:
        kernel = int(await roamer.said("import os; x = [1]; y = x; print(os.getpid())"))
        source = await roamer.node()
        with monkeypatch.context() as patch:
            patch.setattr(service.engine, "agent", unless_away)
            patch.setattr(AgentClient, "op", then_away)
            assert (await asyncio.wait_for(roamer.migrate(), 30.0)).phase is Phase.DONE
            assert away.is_set() and await roamer.node() not in (source, "")
            assert await roamer.said("print(y is x)") == "True"
        await nothing_left(service, source, roamer.id)
        assert not lives(kernel)


async def test_notebook_asks_for_its_own_move(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("x = 3")
        await roamer.said("%remote_gpu migrate")

        async def moved() -> bool:
            return await roamer.node() not in ("", source) and (await roamer.look()).state is S.IDLE

        await eventually(moved)
        assert await roamer.said("print(x)") == "3"


# -- parking -------------------------------------------------------------------------------------------------


async def test_parked_session_gives_its_device_back_and_the_next_cell_brings_it_back(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = [4]; y = x")
        parked = (await roamer.client.park(roamer.id)).session
        assert parked.state is S.PARKED

        async def free() -> bool:
            return not service.engine.leases()

        await eventually(free)
        outputs = Outputs()
        reply = await roamer.run("print(y is x)", outputs)
        assert (outputs.text, reply["execution_count"]) == ("True\n", 2)
        assert (await roamer.look()).state in (S.IDLE, S.BUSY)
        assert len(service.engine.leases()) == 1


async def test_session_that_idles_is_parked_by_itself_and_says_why(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, **QUICK, park_idle_s=1.0) as service, roaming(service) as roamer:
        await roamer.said("x = [4]; y = x")
        parked = await roamer.until(S.PARKED)
        assert "idle" in parked.cause and "park_idle_s" in parked.cause

        async def free() -> bool:
            return not service.engine.leases()

        await eventually(free)
        assert await roamer.said("print(y is x)") == "True"


async def test_session_that_stands_still_for_nobody_goes_on(service: Service) -> None:
    async with roaming(service) as roamer:
        lease = (await roamer.look()).lease
        assert lease is not None
        # As a service may have done that was killed then. It may be told to go on before it stands still.
        with contextlib.suppress(MigrationError):
            await service.controller.agents.of(lease.node_id).op(roamer.id, lease.epoch, "quiesce", {"wait_s": 10.0})
        assert await roamer.said("print('goes on')") == "goes on"
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        parks = service.controller.parking
        await eventually(lambda: not live.stands_still and roamer.id not in parks.under_way)
        parking = asyncio.create_task(parks.park(live, "a test"))
        assert await live.bell.until(lambda: live.session.state is S.MIGRATING, 60.0)
        parking.cancel()
        await asyncio.gather(parking, return_exceptions=True)
        assert await roamer.said("print('and on')") == "and on"
        assert (await roamer.look()).lease == lease


@pytest.mark.parametrize("how", ["parked", "suspended"])
async def test_session_that_is_being_parked_or_suspended_is_not_moved_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    asked, gate, real = asyncio.Event(), asyncio.Event(), AgentClient.op

    async def op(self: AgentClient, session_id: str, epoch: int, op: str, content: dict[str, Any]) -> Any:
        if op in ("quiesce", "suspend"):
            asked.set()
            await gate.wait()
        return await real(self, session_id, epoch, op, content)

    async with roaming(service) as roamer:
        await roamer.said("x = [4]; y = x")
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        monkeypatch.setattr(AgentClient, "op", op)
        controller = service.controller
        stopping = controller.parking.park(live, "a test") if how == "parked" else controller.turns.suspend(live, "too")
        task = asyncio.create_task(stopping)
        await asyncio.wait_for(asked.wait(), 30.0)
        with pytest.raises(MigrationError, match="parked or suspended"):
            await roamer.migrate()
        gate.set()
        await task
        assert await roamer.said("print(y is x)") == "True"
        assert (await roamer.migrate()).phase is Phase.DONE


async def test_parked_session_that_is_released_leaves_nothing(service: Service) -> None:
    async with roaming(service) as roamer:
        node = await roamer.node()
        await roamer.said("x = 1")
        await roamer.client.park(roamer.id)
        await roamer.client.release(roamer.id)
        await nothing_left(service, node, roamer.id)


async def test_sessions_take_turns_on_one_device(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, checkpoint_share=1e6, park_for_waiting_s=0.5) as service:
        async with roaming(service, "one") as one:
            await one.said("mine = 'one'")
            view = await service.admin.create_session("two", wait_s=60)
            assert view.session.state in (S.IDLE, S.STARTING, S.QUEUED)
            await eventually(lambda: service.controller.sessions.get(view.session.id).session.state is S.IDLE)  # type: ignore[union-attr]
            assert (await one.look()).state is S.PARKED
            assert await one.said("print(mine)") == "one"
            assert service.controller.sessions.get(view.session.id).session.state is S.PARKED  # type: ignore[union-attr]


# -- loss ----------------------------------------------------------------------------------------------------


async def test_host_that_is_killed_is_followed_by_one_with_the_newest_checkpoint(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = [1]; y = x")

        async def kept() -> bool:
            return len(await roamer.client.checkpoints(roamer.id)) == 1

        await eventually(kept)
        host = int(await roamer.said("import os; print(os.getppid())"))
        os.kill(host, signal.SIGKILL)
        await roamer.until(S.LOST, S.RESTORING, S.STARTING)
        session = await roamer.until(S.IDLE)
        assert session.epoch == 2
        with pytest.raises(StaleEpoch):  # although nothing has run there
            commit_as(service, roamer.id, 1)
        assert await roamer.said("print(y is x)") == "True"
        story = [event.target for event in await roamer.client.events(session=roamer.id) if event.kind == "transition"]
        assert [state for state in story if state in ("lost", "restoring")] == ["lost", "restoring"]
        (recovered,) = [event for event in await roamer.client.events(session=roamer.id) if event.kind == "recovered"]
        cell = recovered.detail["cell"]
        assert cell in (1, 2) and f"as after cell {cell}" in recovered.cause
        assert recovered.detail["lost_cells"] == ([2] if cell == 1 else [])


@pytest.mark.parametrize("journal", [True, False])
async def test_cell_that_was_cut_off_is_run_again_where_its_session_wants_that(
    service: Service, tmp_path: Path, journal: bool
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with pytest.raises(InvalidRequest, match="on_node_loss"):
        await service.admin.create_session("never", request=ResourceRequest(on_node_loss="always"))
    async with roaming(service, request=ResourceRequest(on_node_loss="rerun")) as roamer:
        await roamer.said("ran = []")

        async def kept() -> bool:
            return len(await roamer.client.checkpoints(roamer.id)) == 1

        await eventually(kept)
        host = int(await roamer.said("import os; print(os.getppid())"))
        outputs = Outputs()
        cell = f"print('begun', flush=True); ran.append(open({str(gate)!r}).read())"
        running = asyncio.ensure_future(roamer.run(cell, outputs))
        await eventually(lambda: "begun" in outputs.text)
        if not journal:
            (folder,) = service.controller.settings.folder.glob(f"nodes/*/sessions/{roamer.id}/journal")
            shutil.rmtree(folder)
        os.kill(host, signal.SIGKILL)
        # The service's own way is to ask.
        await eventually(lambda: outputs.text.count("begun") == 2, 60.0)
        await asyncio.to_thread(gate.write_text, "go")
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        assert await roamer.said("print(ran)") == "['go']"


# -- nodes ---------------------------------------------------------------------------------------------------


async def test_drain_empties_a_node_and_cordons_it(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = 6")
        node = await roamer.node()
        await service.admin.drain(node, deadline_s=60)

        async def empty() -> bool:
            return (await service.admin.drain_view(node)).done

        await eventually(empty, 60.0)
        view = await service.admin.drain_view(node)
        assert (view.left, view.cause) == ((), "the node is empty")
        assert await roamer.said("print(x)") == "6"
        assert await roamer.node() != node
        assert (await states(service))[node] == "cordoned"
        await service.admin.cordon(node, cordoned=False)
        assert [(each.state.value, each.drain) for each in await service.admin.nodes()] == [("up", None)] * 2


async def test_command_line_moves_drains_and_proposes_moves_that_make_room(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cli(*arguments: str) -> str:
        told = ["--url", service.url, *arguments]
        done = await asyncio.to_thread(gpuaas_home.cli, *told, timeout_s=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with running_service(gpuaas_home.path, **{**QUICK, "devices": "cpu:2"}) as service:
        refused = await asyncio.to_thread(gpuaas_home.cli, "--url", service.url, "sessions", check=False)
        assert refused.returncode == 1 and "token: missing" in refused.stderr
        monkeypatch.setenv("GPUAAS_TOKEN", service.token)
        async with roaming(service, "one") as roamer, roaming(service, "other"):
            await roamer.said("x = 6")
            assert "No move would make room" in await cli("rebalance", "--dry-run")
            waiting = (await service.admin.create_session("waits", request=ResourceRequest(devices=2))).session
            assert waiting.state is S.QUEUED
            (proposed,) = json.loads(await cli("rebalance", "--dry-run", "--json"))
            assert proposed["session_name"] in ("one", "other") and "waits" in proposed["why"]
            assert (await service.admin.session(waiting.id)).session.state is S.QUEUED, "it was only proposed"
            await service.admin.release(waiting.id)
            source = await roamer.node()
            done = json.loads(await cli("migrate", "one", "--json"))
            assert done["phase"] == "done" and done["source"] == source != done["target"]
            assert {"reserve", "pre_copy", "quiesce", "stop_copy", "restore"} <= done["phases_s"].keys()
            assert 0 < done["downtime_s"] <= done["total_s"] and done["bytes_sent"] > 0
            told = await cli("drain", done["target"], "--deadline", "1m")
            assert done["target"] in told
            assert await roamer.node() == source
            assert await roamer.said("print(x)") == "6"
            assert f"moved from {source} to {done['target']}" in await cli("story", "one")


async def test_drain_says_which_sessions_stay_and_why(service: Service) -> None:
    async with roaming(service, "one") as one, roaming(service, "two") as two:
        await one.said("x = 1")
        node = await one.node()
        await service.admin.drain(node, deadline_s=3)

        async def over() -> bool:
            return (await service.admin.drain_view(node)).done

        await eventually(over)
        view = await service.admin.drain_view(node)
        assert view.left == (one.id,)
        assert "room" in view.refused[one.id]
        (told,) = [each.drain for each in await service.admin.nodes() if each.id == node]
        assert told == view
        async with service.client("bob") as bob:
            (told,) = [each.drain for each in await bob.nodes() if each.id == node]
        assert told is not None and (told.left, told.refused, told.cause) == ((), {}, view.cause)
        assert await one.said("print(x)") == "1"
        assert await two.node() != node


@pytest.mark.fault
async def test_drain_lets_others_leave_while_moves_wait_for_the_end_of_cells(
    gpuaas_home: GpuaasHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "AT_A_TIME", 1)  # three sessions do for what five would be needed for
    async with running_service(gpuaas_home.path, **{**QUICK, "devices": "cpu:3"}) as service:
        await service.admin.cordon("local-1", cordoned=True)
        async with (
            roaming(service, "one") as one,
            roaming(service, "two") as two,
            roaming(service, "rests") as rests,
        ):
            gates, cells = {}, []
            for each in (one, two):
                await each.said("import os, time; x = os.urandom(4_000_000)")
                gates[each.id], outputs = tmp_path / each.id, Outputs()
                code = f"print('in', flush=True)\nwhile not os.path.exists({str(gates[each.id])!r}): time.sleep(0.01)"
                cells.append(asyncio.ensure_future(each.run(code, outputs)))
                await outputs.heard.wait()
                await each.until(S.BUSY)
            await rests.said("x = 1")
            await service.admin.cordon("local-1", cordoned=False)
            await service.admin.drain("local-0", deadline_s=600)

            async def has_left(roamer: Roamer) -> bool:
                return await roamer.node() == "local-1"

            async def waits(roamer: Roamer) -> bool:
                view = (await roamer.client.session(roamer.id)).migration
                return view is not None and view.phase not in ENDED and view.cause.startswith("a cell runs")

            await eventually(lambda: has_left(rests), 60.0)
            assert await rests.said("print(x)") == "1"
            for each in (one, two):  # more of them than move at a time
                await eventually(lambda each=each: waits(each), 60.0)
            assert not any(cell.done() for cell in cells)
            gates[two.id].touch()
            await eventually(lambda: has_left(two), 60.0)

            async def one_is_left() -> bool:
                return (await service.admin.drain_view("local-0")).left == (one.id,)

            await eventually(one_is_left)
            assert not cells[0].done()
            gates[one.id].touch()

            async def empty() -> bool:
                return (await service.admin.drain_view("local-0")).done

            await eventually(empty, 60.0)
            assert (await service.admin.drain_view("local-0")).cause == "the node is empty"
            assert [reply["status"] for reply in await asyncio.gather(*cells)] == ["ok", "ok"]


async def test_moves_are_proposed_for_who_is_served_next_and_not_for_who_came_first(gpuaas_home: GpuaasHome) -> None:
    settings = {**QUICK, "devices": "cpu:2", "devices_per_user": 2}
    # Nobody who waits may push these out.
    held, wanted = ResourceRequest(priority=9), ResourceRequest(devices=2)
    async with (
        running_service(gpuaas_home.path, **settings) as service,
        roaming(service, "one", request=held),
        roaming(service, "other", request=held),
        service.client("bob") as bob,
    ):

        async def proposed_for(session: str) -> bool:
            return {each.makes_room_for for each in await service.admin.proposals()} == {session}

        # Beyond its user's quota: it waits for that, and no move helps it.
        over = (await service.admin.create_session("over", request=wanted)).session
        assert (over.state, await service.admin.proposals()) == (S.QUEUED, [])
        low = (await bob.create_session("low", request=wanted)).session
        await eventually(lambda: proposed_for(low.id))
        high = (await bob.create_session("high", request=wanted)).session
        await service.admin.set_priority(high.id, 5)
        await eventually(lambda: proposed_for(high.id))


async def test_move_that_is_given_up_before_it_begins_is_brought_to_an_end(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said("x = 1")
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        migrations = service.controller.migrations
        begun = await migrations.begin(live, None, via="auto", accept_loss=False, cause="a test")
        migrations.give_up(live, "a change of mind")  # its task has not had a turn yet

        async def over() -> bool:
            return (await roamer.client.migration(roamer.id, begun.id)).phase in (Phase.FAILED, Phase.CANCELLED)

        await eventually(over)
        assert (await roamer.migrate()).phase is Phase.DONE
        assert await roamer.said("print(x)") == "1"


async def test_cordon_outlives_the_service(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, end_sessions=False, **QUICK) as service:
        await service.admin.cordon("local-1", cordoned=True)
    async with running_service(gpuaas_home.path, end_sessions=False, **QUICK) as service:
        assert {each.id: each.state.value for each in await service.admin.nodes()} == {
            "local-0": "up",
            "local-1": "cordoned",
        }
        await service.admin.cordon("local-1", cordoned=False)
    async with running_service(gpuaas_home.path, **QUICK) as service:
        assert {each.state.value for each in await service.admin.nodes()} == {"up"}


async def states(service: Service) -> dict[str, str]:
    return {each.id: each.state.value for each in await service.admin.nodes()}


async def emptied(service: Service, node: str) -> None:
    """Return when a drain of a node without sessions has ended."""

    async def over() -> bool:
        return (await service.admin.drain_view(node)).done

    await eventually(over)
    assert (await service.admin.drain_view(node)).cause == "the node is empty"


@pytest.mark.sqlite
async def test_cordon_is_that_of_the_database_and_not_of_the_folder(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    one, other = gpuaas_home.path, tmp_path / "other"
    settings = {**QUICK, "database_url": f"sqlite:///{tmp_path}/common.db"}
    async with running_service(one, **settings) as service:
        await service.admin.drain("local-0", deadline_s=60)
        await emptied(service, "local-0")
        await service.admin.cordon("local-1", cordoned=True)
    async with running_service(other, **settings) as service:
        assert await states(service) == {"local-0": "cordoned", "local-1": "cordoned"}
        await emptied(service, "local-0")
        await service.admin.cordon("local-1", cordoned=False)
    async with running_service(one, **settings) as service:
        assert await states(service) == {"local-0": "cordoned", "local-1": "up"}


async def test_cordons_that_an_earlier_version_has_kept_in_a_file_hold_until_they_are_ended(
    gpuaas_home: GpuaasHome,
) -> None:
    (gpuaas_home.path / "cordons.json").write_text('["local-1"]')
    async with running_service(gpuaas_home.path, end_sessions=False, **QUICK) as service:
        assert await states(service) == {"local-0": "up", "local-1": "cordoned"}
        await service.admin.cordon("local-1", cordoned=False)
    async with running_service(gpuaas_home.path, **QUICK) as service:
        assert await states(service) == {"local-0": "up", "local-1": "up"}


async def test_node_that_another_controller_was_emptying_takes_no_sessions_and_stays_so(
    gpuaas_home: GpuaasHome,
) -> None:
    database = Database(quick_settings(gpuaas_home.path).database, events_kept=10)
    view = DrainView(node="local-1", deadline_s=time.time() + 60)
    DrainRows(database).keep(Drain(view=view, cause="asked", accept_loss=False))
    database.close()
    async with running_service(gpuaas_home.path, end_sessions=False, **QUICK) as service:
        assert await states(service) == {"local-0": "up", "local-1": "cordoned"}
        await emptied(service, "local-1")
    async with running_service(gpuaas_home.path, **QUICK) as service:
        assert await states(service) == {"local-0": "up", "local-1": "cordoned"}
        await emptied(service, "local-1")
