"""The service ends while it brings a session to a standstill: killed at each step, or in order. The session goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.client.embedded import find_running
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import Phase
from tests.conftest import GpuaasHome
from tests.fault.mortals import Mortals
from tests.fault.stage import SETTINGS
from tests.fault.walker import Walker, walking
from tests.service import eventually, quick_settings

pytestmark = pytest.mark.fault

#: What it takes to park such a session, in this order.
AS_CHECKPOINT = [("quiesce", "after"), ("hand_over", "after")]
#: A variable whose capture waits as long as there is a file, and says so by another.
SLOW = """
import os, time
class Slow:
    def __getstate__(self):
        if os.path.exists({hold!r}):
            open({reached!r}, "w").close()
            while os.path.exists({hold!r}):
                time.sleep(0.01)
        return {{}}
slow = Slow()
"""
#: A cell that runs until there is a file.
LONG = """
import os, time
while not os.path.exists({path!r}):
    time.sleep(0.01)
print("to its end")
"""


@pytest.fixture
def mortals(gpuaas_home: GpuaasHome) -> Iterator[Callable[..., Mortals]]:
    made: list[Mortals] = []

    def make(**changes: Any) -> Mortals:
        made.append(Mortals(gpuaas_home, **changes))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextlib.asynccontextmanager
async def walked(mortals: Mortals, folder: Path, name: str = "walker") -> AsyncIterator[Walker]:
    """A session of the service that runs, whose client stays when that is gone."""
    endpoint = await find_running(mortals.home.path)
    assert endpoint is not None
    settings = quick_settings(mortals.home.path, **SETTINGS)
    async with (
        ServiceClient(endpoint.url, endpoint.token) as client,
        walking(client, settings, folder / f"book of {name}", name) as walker,
    ):
        yield walker


async def parked(walker: Walker) -> None:
    """Ask for its parking, of which nothing may come."""
    with contextlib.suppress(GpuaasError):
        await walker.client.park(walker.id)


@pytest.mark.parametrize(("nodes", "point"), [*((2, point) for point in AS_CHECKPOINT), (1, ("suspend", "after"))])
async def test_session_goes_on_that_a_killed_service_was_about_to_park(
    mortals: Callable[..., Mortals], tmp_path: Path, nodes: int, point: tuple[str, str]
) -> None:
    service = mortals(nodes=nodes)
    await service.start()
    async with walked(service, tmp_path) as walker:
        service.dies_at(*point)
        await parked(walker)
        await service.dead()
        cell = asyncio.ensure_future(walker.step())
        await service.start()
        await cell
        await walker.settled()
        await walker.check(died=False)


@pytest.mark.parametrize("first", ["capture ends", "service starts"])
async def test_session_goes_on_whose_service_was_killed_during_its_last_checkpoint(
    mortals: Callable[..., Mortals], tmp_path: Path, first: str
) -> None:
    service = mortals(checkpoint_every=0)
    await service.start()
    hold, reached = tmp_path / "hold", tmp_path / "reached"
    async with walked(service, tmp_path) as walker:
        await walker.said(SLOW.format(hold=str(hold), reached=str(reached)))
        hold.touch()
        parking = asyncio.ensure_future(parked(walker))
        await eventually(reached.exists, 60.0)
        assert service.process is not None
        service.process.kill()
        await service.dead()
        await parking
        cell = asyncio.ensure_future(walker.step())
        if first == "capture ends":
            hold.unlink()
            await service.start()
        else:
            await service.start()
            hold.unlink()
        await cell
        await walker.settled()
        await walker.check(died=False)


async def test_session_goes_on_at_once_when_the_service_ends_in_order_while_it_is_being_parked(
    mortals: Callable[..., Mortals], tmp_path: Path
) -> None:
    service = mortals(checkpoint_every=0)
    await service.start()
    hold, reached = tmp_path / "hold", tmp_path / "reached"
    async with walked(service, tmp_path) as walker:
        await walker.said(SLOW.format(hold=str(hold), reached=str(reached)))
        hold.touch()
        parking = asyncio.ensure_future(parked(walker))
        await eventually(reached.exists, 60.0)
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        await service.dead()
        await parking
        hold.unlink()
        await walker.step()  # nobody is there who could let it go on now
        await service.start()
        await walker.settled()
        await walker.check(died=False)


async def test_cell_goes_on_whose_service_was_killed_as_its_turn_was_over(
    mortals: Callable[..., Mortals], tmp_path: Path
) -> None:
    service = mortals(nodes=1, turn_s=0.5)
    await service.start()
    async with walked(service, tmp_path) as walker:
        end = tmp_path / "end"
        service.dies_at("suspend", "after")
        cell = asyncio.ensure_future(walker.said(LONG.format(path=str(end))))
        await walker.client.create_session("who waits")
        await service.dead()
        end.touch()
        await service.start()
        assert await asyncio.wait_for(cell, 120.0) == "to its end"


async def test_move_that_the_next_service_ends_tells_how_long_the_session_stood_still(
    mortals: Callable[..., Mortals], tmp_path: Path
) -> None:
    service = mortals()
    await service.start()
    async with walked(service, tmp_path) as walker:
        await walker.kept()
        service.dies_at("live", "before")
        with contextlib.suppress(GpuaasError):
            await walker.begun()
        await service.dead()
        await service.start()
        last = await walker.settled()
        assert last is not None and last.phase is Phase.DONE
        events = await walker.client.events()
        quiet_s = next(each.time_s for each in events if each.detail.get("phase") == Phase.STOP_COPY)
        started_s = next(each.time_s for each in reversed(events) if each.cause == "the service has started")
        # It stood still before the one, and went on after the other.
        assert started_s - quiet_s <= last.downtime_s < last.total_s
        assert f"stood still for {last.downtime_s:.2f} s" in last.cause
        await walker.check(died=False)
