"""Sessions that are hurt while they move: one thing breaks at one step, at either end or between them.

Whatever breaks: afterwards there is exactly one host of the session, with the state of its last cell; each cell ran
once, or its user was told; nothing is left elsewhere. Before the cutover the session stays where it is, behind it it is
on its new node.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.controller import moving
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.lifecycle import migration as lifecycle
from tests.conftest import GpuaasHome
from tests.fault.mortal import FILE
from tests.fault.stage import HANGING, NETS, SEED, SETTINGS, Point, Stage, staged, story, trial
from tests.fault.steps import points
from tests.fault.walker import Walker, walking
from tests.service import eventually, quick_settings

pytestmark = [pytest.mark.fault, pytest.mark.trials, pytest.mark.timeout(7200)]

#: Trials of each way to break things; there are twice as many as `points`, in an order that the seed decides.
TRIALS = int(os.environ.get("GPUAAS_MOVES_HURT", "1"))
#: What a controller waits for at most in trials in which somebody does not answer any more.
IMPATIENT_S = 8.0


def trials(how: str) -> list[tuple[Point, bool]]:
    """Moments, and whether the client runs cells meanwhile: all of them in turn, in an order of chance."""
    found = [(point, busy) for point in points() for busy in (False, True)]
    random.Random(f"{SEED}/{how}").shuffle(found)
    return list(itertools.islice(itertools.cycle(found), TRIALS))


@pytest.fixture
async def stage(gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    async with staged(gpuaas_home.path, monkeypatch) as made:
        yield made


WAYS = [
    "source_host_killed",
    "target_host_killed",
    "source_agent_killed",
    "target_agent_killed",
    "link_cut",
    "link_down",
    "link_stalled",
    "link_stalled_for_a_while",
    "disk_full",
    "source_disk_full",
    "target_slow",
    "target_hangs",
    "chunk_spoilt",
    "chunks_spoilt",
]


@pytest.mark.parametrize("how", WAYS)
async def test_one_session_with_its_last_state_whatever_breaks(
    stage: Stage, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.through_nets = how in NETS
    if how in HANGING:
        monkeypatch.setattr(moving, "STEP_S", IMPATIENT_S)
        monkeypatch.setattr(moving, "COPY_S", 2 * IMPATIENT_S)  # a kernel starts in this time
        monkeypatch.setattr(lifecycle, "STILL_S", IMPATIENT_S)
    outcomes: Counter[str] = Counter()
    settings = quick_settings(stage.folder, **SETTINGS)
    async with walking(stage.service.admin, settings, tmp_path / "book", "walker") as walker:
        stage.walker = walker
        for number, (point, busy) in enumerate(trials(how)):
            where = f"trial {number}: {how} {point[1]} {point[0]}, {'busy' if busy else 'idle'}"
            print(where, flush=True)
            try:
                phase = await asyncio.wait_for(trial(stage, how, point, busy), 400.0)
            except BaseException as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}; {await story(walker)}") from error
            outcomes[phase] += 1
    print(f"{how}: {sum(outcomes.values())} trials, {stage.hurt} hurt: {dict(outcomes)}")


# -- the controller itself -------------------------------------------------------------------------------------


class Mortals:
    """A service in a process of its own, that can be told when to die."""

    def __init__(self, home: GpuaasHome) -> None:
        self.home = home
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in SETTINGS.items()]
        lines += ['devices = "cpu:1"', "spare_kernels = 0", "stop_timeout_s = 2.0"]
        (home.path / "settings.toml").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = self._spawn()

        async def answers() -> bool:
            assert self.process is not None and self.process.poll() is None, (self.home.path / "mortal.log").read_text()
            written = read_service_file(self.home.path)
            return written is not None and written.pid == self.process.pid and bool(await find_running(self.home.path))

        await eventually(answers, 60.0)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.home.path / "mortal.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.fault.mortal"], env=self.home.env, stdout=log, stderr=log
            )

    def close(self) -> None:
        (self.home.path / FILE).unlink(missing_ok=True)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture
def mortals(gpuaas_home: GpuaasHome) -> Iterator[Mortals]:
    mortals = Mortals(gpuaas_home)
    yield mortals
    mortals.close()


async def test_one_session_with_its_last_state_when_the_controller_is_killed(mortals: Mortals, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    await mortals.start()
    endpoint = await find_running(mortals.home.path)
    assert endpoint is not None
    settings = quick_settings(mortals.home.path, **SETTINGS)
    async with (
        ServiceClient(endpoint.url, endpoint.token) as client,
        walking(client, settings, tmp_path / "book", "walker") as walker,
    ):
        for number, (point, busy) in enumerate(trials("controller")):
            where = f"trial {number}: controller killed {point[1]} {point[0]}, {'busy' if busy else 'idle'}"
            print(where, flush=True)
            try:
                outcomes[await asyncio.wait_for(_controller_trial(mortals, walker, point, busy), 300.0)] += 1
            except BaseException as error:
                log = (mortals.home.path / "mortal.log").read_text()[-2000:]
                raise AssertionError(
                    f"{where}: {type(error).__name__}: {error}; {await story(walker)}; {log}"
                ) from error
    trials_ = sum(outcomes.values())
    print(f"controller: {trials_} trials, {trials_} hurt: {dict(outcomes)}")


async def _controller_trial(mortals: Mortals, walker: Walker, point: Point, busy: bool) -> str:
    await walker.kept()
    (mortals.home.path / FILE).write_text(" ".join(point))
    enough = asyncio.Event()
    walk = asyncio.ensure_future(walker.walk(enough)) if busy else None
    moving = asyncio.ensure_future(walker.begun())
    assert mortals.process is not None
    await eventually(lambda: mortals.process is not None and mortals.process.poll() is not None, 60.0)
    with contextlib.suppress(GpuaasError):
        await moving
    await mortals.start()
    await walker.settled()
    enough.set()
    if walk is not None:
        await asyncio.wait_for(walk, 120.0)
    last = await walker.settled()
    await walker.check(died=False)
    assert last is not None
    return last.phase.value
