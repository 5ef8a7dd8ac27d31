"""Sessions that are hurt while they move: one thing breaks at one step, at either end or between them.

Whatever breaks: afterwards there is exactly one host of the session, with the state of its last cell; each cell ran
once, or its user was told; nothing is left elsewhere. Before the cutover the session stays where it is, behind it it is
on its new node.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import GpuaasHome
from tests.fault.mortals import controller_trials, mortal_service
from tests.fault.stage import NETS, SEED, SETTINGS, Stage, chosen, impatient, staged, story, trial
from tests.fault.walker import walking
from tests.service import quick_settings

pytestmark = [pytest.mark.fault, pytest.mark.trials, pytest.mark.timeout(7200)]

#: Trials of each way to break things; there are twice as many as `points`, in an order that the seed decides.
TRIALS = int(os.environ.get("GPUAAS_MOVES_HURT", "1"))


@pytest.fixture
async def stage(gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    async with staged(gpuaas_home.path, monkeypatch) as made:
        yield made


WAYS = [
    "source_host_killed",
    "target_host_killed",
    "target_kernel_killed",
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
    impatient(how, monkeypatch)
    outcomes: Counter[str] = Counter()
    settings = quick_settings(stage.folder, **SETTINGS)
    async with walking(stage.service.admin, settings, tmp_path / "book", "walker") as walker:
        stage.walker = walker
        for number, (point, busy) in enumerate(chosen(how, f"{SEED}/{how}", TRIALS)):
            where = f"trial {number}: {how} {point[1]} {point[0]}, {'busy' if busy else 'idle'}"
            print(where, flush=True)
            try:
                phase = await asyncio.wait_for(trial(stage, how, point, busy), 400.0)
            except BaseException as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}; {await story(walker)}") from error
            outcomes[phase] += 1
    print(f"{how}: {sum(outcomes.values())} trials, {stage.hurt} hurt: {dict(outcomes)}")


# -- the controller itself -------------------------------------------------------------------------------------


async def test_one_session_with_its_last_state_when_the_controller_is_killed(
    gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    moments = chosen("controller_killed", f"{SEED}/controller", TRIALS)
    with mortal_service(gpuaas_home) as mortals:
        outcomes = await controller_trials(mortals, tmp_path / "book", moments)
    print(f"controller: {sum(outcomes.values())} trials, all hurt: {dict(outcomes)}")
