"""Sessions whose next host fails to bring them back, over real nodes and kernels: another one tries, not for ever."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.controller import commands
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.recoveries import UNREADABLE
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.lifecycle.recovery import HOSTS_IN_A_ROW
from jupyter_gpuaas.model import CheckpointView, Phase, ResourceRequest, SessionState
from jupyter_gpuaas.state.listing import owners_address
from tests.conftest import GpuaasHome
from tests.fault.nodes import lives, records
from tests.fault.steps import Steps
from tests.roaming import Roamer, roaming
from tests.service import DEADLINE_S, Service, eventually, running_service

#: Between real nodes, and so not quick: a part of `make test-faults`.
pytestmark = pytest.mark.fault

S = SessionState
QUICK = {"nodes": 2, "checkpoint_share": 1e6, "workdir": "session", "checkpoint_together_s": 0.0}
#: A variable that gives trouble to whoever makes it anew, as files say; each try is noted.
TROUBLE = """
import os, pathlib, signal, time
folder = pathlib.Path({folder!r})
class Trouble:
    def __init__(self):
        self.folder = folder
    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(self.folder / "tried", "a") as file:
            file.write("once more\\n")
        if (self.folder / "kill once").exists():
            (self.folder / "kill once").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.folder / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.folder / "kill host").exists():
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        while (self.folder / "hang").exists():
            time.sleep(0.01)
trouble, x = Trouble(), [1]
y = x
"""


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path, **QUICK) as running:
        yield running


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made = Steps(random.Random(1))
    made.watch(monkeypatch)
    return made


def kernel_on(service: Service, node: str, session: str) -> psutil.Process:
    """The kernel of the session's host on a node."""
    (host,) = records(service.controller.settings.folder, node, session)
    (kernel,) = (each for each in psutil.Process(host.pid).children() if "jupyter_gpuaas.kernel" in each.cmdline())
    return kernel


def other(node: str) -> str:
    return "local-1" if node == "local-0" else "local-0"


async def story(roamer: Roamer) -> list[str]:
    events = await roamer.client.events(session=roamer.id)
    return [event.target for event in events if event.kind == "transition"]


async def one_host(service: Service, roamer: Roamer) -> None:
    """Nothing of the session is anywhere but on its node."""
    folder, node = service.controller.settings.folder, await roamer.node()

    def alone() -> bool:
        hosts = [path.parent.parent.name for path in folder.glob("nodes/*/hosts/*.json")]
        leases = [lease.node_id for lease in service.engine.leases()]
        return hosts == leases == [node] and not list(folder.glob("nodes/*/remains/*"))

    await eventually(alone, 60.0)


async def in_trouble(service: Service, roamer: Roamer, folder: Path, *, journal: bool = True) -> None:
    """Lose the host of a session with such a variable in its checkpoint."""
    await roamer.said(TROUBLE.format(folder=str(folder)))

    async def kept() -> bool:
        status = (await roamer.client.session(roamer.id)).checkpoints
        return status is not None and status.last is not None and not status.last.lost

    await eventually(kept)
    home, node = service.controller.settings.folder, await roamer.node()
    (host,) = records(home, node, roamer.id)
    if not journal:
        shutil.rmtree(home / "nodes" / node / "sessions" / roamer.id / "journal")
    os.kill(host.pid, signal.SIGKILL)


def tried(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len((folder / "tried").read_text().splitlines())
    return 0


# -- behind the cutover ----------------------------------------------------------------------------------------


async def test_target_whose_kernel_dies_before_it_is_live_is_followed_by_another(
    service: Service, steps: Steps
) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("x = [1]; y = x")
        steps.arm("live", "before", lambda: kernel_on(service, other(source), roamer.id).kill())
        done = await roamer.migrate(other(source))
        assert done.phase is Phase.DONE and steps.armed is None
        # The source has had everything until then: nothing is lost, and no cell.
        assert await roamer.said("x.append(2); print(x, y is x)") == "[1, 2] True"
        found = await story(roamer)
        assert found[found.index("migrating") :] == ["migrating", "starting", "lost", "restoring", "starting", "idle"]
        await one_host(service, roamer)


async def test_target_whose_kernel_is_slow_to_be_live_is_asked_again(
    service: Service, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stopped, asked = AgentClient.op, [], 0

    async def op(self: AgentClient, session_id: str, epoch: int, op: str, content: dict[str, Any]) -> Any:
        nonlocal asked
        asked += op == "live"
        if op == "live" and asked == 2:
            stopped[0].resume()
        return await real(self, session_id, epoch, op, content)

    def stop() -> None:
        stopped.append(kernel_on(service, other(source), roamer.id))
        stopped[0].suspend()

    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("x = [1]; y = x")
        monkeypatch.setattr(AgentClient, "op", op)
        steps.arm("live", "before", stop)
        try:
            done = await roamer.migrate(other(source))
            assert done.phase is Phase.DONE and asked == 2
            assert await roamer.said("x.append(2); print(x, y is x)") == "[1, 2] True"
            assert stopped[0].is_running() and await roamer.node() == other(source)
            assert "lost" not in await story(roamer)
            await one_host(service, roamer)
        finally:
            for kernel in stopped:
                with contextlib.suppress(psutil.Error):
                    kernel.resume()


# -- back from a checkpoint ------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [True, False])
async def test_kernel_that_dies_while_it_makes_the_variables_is_followed_by_another(
    service: Service, tmp_path: Path, journal: bool
) -> None:
    (tmp_path / "kill once").touch()
    async with roaming(service) as roamer:
        await in_trouble(service, roamer, tmp_path, journal=journal)
        assert await roamer.told("print(x, y is x, trouble.folder == folder)") == "[1] True True"
        assert tried(tmp_path) == 2
        assert (await story(roamer)).count("lost") == 2
        await one_host(service, roamer)


@pytest.mark.parametrize(
    ("kills", "journal", "why"),
    [("kill", True, "SIGKILL"), ("kill host", True, "host process"), ("kill host", False, "host process")],
)
async def test_checkpoint_that_kills_every_process_ends_its_session_with_the_reason(
    service: Service, tmp_path: Path, kills: str, journal: bool, why: str
) -> None:
    (tmp_path / kills).touch()
    async with roaming(service) as roamer:
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        await in_trouble(service, roamer, tmp_path, journal=journal)
        await eventually(live.ended, 120.0)
        assert live.session.state is S.FAILED
        assert f"{HOSTS_IN_A_ROW} hosts in a row" in live.session.cause and why in live.session.cause
        assert tried(tmp_path) == HOSTS_IN_A_ROW
        folder = service.controller.settings.folder

        def nothing_left() -> bool:
            left = [*folder.glob("nodes/*/remains/*"), *folder.glob("nodes/*/hosts/*.json")]
            return not service.engine.leases() and not left

        await eventually(nothing_left)
        # Whoever knows what is wrong with it begins with an older one, or with this.
        (tmp_path / kills).unlink()
        assert (await service.admin.restore(roamer.id, "-1", new="again")).names


@contextlib.contextmanager
def store_away(service: Service, live: LiveSession) -> Iterator[None]:
    """For the time of the block the checkpoints of the session's owner are not where they were."""
    there = Path(owners_address(service.controller.checkpoints.address, live.session.owner)) / "manifests"
    away = there.rename(there.with_name("away"))
    try:
        yield
    finally:
        away.rename(there)


async def lose_host_without_store(service: Service, live: LiveSession) -> None:
    """Lose the host of a session; returns when that waits for the store."""
    (host,) = records(service.controller.settings.folder, live.lease.node_id if live.lease else "*", live.session.id)
    os.kill(host.pid, signal.SIGKILL)
    assert await live.bell.until(lambda: UNREADABLE in live.session.cause, DEADLINE_S)
    assert live.session.state is S.LOST


@pytest.mark.parametrize(("standby", "empty"), [(0, False), (1, False), (0, True)])
async def test_session_whose_checkpoints_cannot_be_read_for_a_while_comes_back_when_they_can(
    service: Service, standby: int, empty: bool
) -> None:
    async with roaming(service, request=ResourceRequest(standby=standby)) as roamer:
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        await roamer.said("x = [1]; y = x")
        if standby:
            await roamer.followed(after=1)
        await eventually(lambda: live.checkpoints is not None and live.checkpoints.taken)
        if not empty:  # as a store looks that is opened where it is not mounted
            assert await roamer.client.checkpoints(roamer.id)
        reads = 0
        way_back = service.controller.recoveries._way_back

        def read(record: SessionRecord) -> CheckpointView | None:
            nonlocal reads
            reads += 1
            return way_back(record)

        service.controller.recoveries._way_back = read
        with store_away(service, live):
            await lose_host_without_store(service, live)
            before = reads
            await eventually(lambda: reads >= before + 2)
            assert live.session.state is S.LOST
        assert await roamer.told("print(x, y is x)") == "[1] True"
        events = await roamer.client.events(session=roamer.id)
        assert len([each for each in events if each.cause.startswith(UNREADABLE)]) == 1
        assert not any(UNREADABLE in each.cause for each in events if each.kind != "session")


async def test_session_that_waits_for_the_checkpoint_store_can_be_ended(service: Service) -> None:
    async with roaming(service) as roamer:
        live = service.controller.sessions.get(roamer.id)
        assert live is not None
        await roamer.said("x = [1]")
        assert await roamer.client.checkpoints(roamer.id) is not None
        with store_away(service, live):
            await lose_host_without_store(service, live)
            assert (await service.admin.release(roamer.id)).session.state is S.CLOSED
        assert not service.engine.leases()


async def test_kernel_that_hangs_while_it_makes_a_variable_is_given_up(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "limit_s", lambda start_s, state_bytes, failures: 8.0 * 2**failures)
    (tmp_path / "hang").touch()
    async with roaming(service) as roamer:
        await in_trouble(service, roamer, tmp_path)

        async def given_up() -> bool:
            return (await story(roamer)).count("lost") == 2

        await eventually(given_up, 60.0)
        (tmp_path / "hang").unlink()
        assert await roamer.told("print(x, y is x)") == "[1] True"
        causes = [event.cause for event in await roamer.client.events(session=roamer.id)]
        assert any("was not there after 8 s" in cause for cause in causes)
        await one_host(service, roamer)


@pytest.mark.parametrize("journal", [True, False])
async def test_session_that_hangs_on_its_way_back_can_be_ended(service: Service, tmp_path: Path, journal: bool) -> None:
    (tmp_path / "hang").touch()
    async with roaming(service) as roamer:
        await in_trouble(service, roamer, tmp_path, journal=journal)
        await eventually(lambda: tried(tmp_path) == 1, 60.0)
        hosts = [record.pid for record in records(service.controller.settings.folder, session=roamer.id)]
        assert (await service.admin.release(roamer.id)).session.state is S.CLOSED
        assert hosts and not any(map(lives, hosts)) and not service.engine.leases()


async def test_parked_session_whose_kernel_dies_when_it_is_woken_is_brought_back(
    service: Service, tmp_path: Path
) -> None:
    async with roaming(service) as roamer:
        await roamer.said(TROUBLE.format(folder=str(tmp_path)))
        await roamer.client.park(roamer.id)
        await roamer.until(S.PARKED)
        (tmp_path / "kill once").touch()
        assert await roamer.told("x.append(2); print(x, y is x)") == "[1, 2] True"
        assert tried(tmp_path) == 2
        await one_host(service, roamer)
