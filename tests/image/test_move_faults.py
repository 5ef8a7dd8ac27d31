"""Sessions that are hurt while they move together with their process: as ``tests/fault/test_migration_faults.py``.

Before the session is handed over, an image that fails is followed by a move with the variables alone, so that a move
may end well although something broke.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import cast

import pytest

from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import ResourceRequest
from tests.conftest import GpuaasHome
from tests.fault.mortals import controller_trials, mortal_service
from tests.fault.stage import NETS, SEED, SETTINGS, Point, Stage, chosen, impatient, moments, staged, story, sure, trial
from tests.fault.walker import Walker, walking
from tests.image.test_moves import images_in, running_cell
from tests.roaming import roaming
from tests.service import eventually, quick_settings

pytestmark = pytest.mark.timeout(7200)

#: How often a move is hurt: each way at each moment, in an order that the seed decides.
TRIALS = int(os.environ.get("GPUAAS_IMAGES_HURT", "4"))
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


def trials() -> list[tuple[str, Point, bool]]:
    """Ways and moments, and whether the client runs cells meanwhile. The first finds something to break for sure."""
    found = [(how, point, busy) for how in WAYS for point in moments(how) for busy in (False, True)]
    random.Random(f"{SEED}/images").shuffle(found)
    found.insert(0, found.pop(next(number for number, each in enumerate(found) if sure(*each))))
    return list(itertools.islice(itertools.cycle(found), TRIALS))


@pytest.fixture
async def stage(criu: Criu, gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    async with staged(gpuaas_home.path, monkeypatch, images="auto") as made:
        yield made


async def test_one_session_with_its_last_state_whatever_breaks_while_its_process_moves(stage: Stage) -> None:
    outcomes: Counter[str] = Counter()
    settings = quick_settings(stage.folder, **SETTINGS)
    # Where every jail sees it; /tmp is a jail's own.
    async with walking(stage.service.admin, settings, stage.folder / "book", "walker") as walker:
        stage.walker = walker
        for number, (how, point, busy) in enumerate(trials()):
            where = f"trial {number}: {how} {point[1]} {point[0]}, {'busy' if busy else 'idle'}"
            print(where, flush=True)
            stage.through_nets = how in NETS
            try:
                with pytest.MonkeyPatch.context() as patch:
                    impatient(how, patch)
                    outcome = await asyncio.wait_for(trial(stage, how, point, busy, "image"), 400.0)
                await eventually(lambda: not images_in(stage.folder))
            except BaseException as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}; {await story(walker)}") from error
            outcomes[outcome] += 1
    print(f"{sum(outcomes.values())} trials: {dict(outcomes)}")


@pytest.mark.parametrize("policy", ["ask", "rerun"])
async def test_what_a_loss_between_cutover_and_live_undoes_is_told(
    criu: Criu, gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """The image's host is gone. What there is: a checkpoint from before, and at the source a kernel that is frozen."""
    request = ResourceRequest(on_node_loss=policy)
    gate = gpuaas_home.path / "gate"
    async with (
        staged(gpuaas_home.path, monkeypatch, images="auto", checkpoint_every=3) as stage,
        roaming(stage.service, request=request) as roamer,
    ):
        stage.walker = cast(Walker, roamer)
        await roamer.said("import os; ran = []")
        for number in (2, 3, 4, 5):
            await roamer.said(f"ran.append({number})")

        async def kept() -> list[int]:
            return [each.cell for each in await roamer.client.checkpoints(roamer.id)]

        await eventually(kept)
        assert await kept() == [3]
        stage.source = await roamer.node()
        stage.target = "local-1" if stage.source == "local-0" else "local-0"
        code = f"print('begun')\nwhile not os.path.exists({str(gate)!r}): pass\nran.append('cut off')"
        running, _ = await running_cell(roamer, code, "begun")
        stage.steps.arm("cutover", "after", stage.target_host_killed)
        await roamer.migrate(via="image")
        assert stage.hurt == 1
        if policy == "rerun":
            gate.touch()
            assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        else:
            reply = await asyncio.wait_for(running, 60.0)
            assert reply["ename"] == ENAME and "after cell 3" in reply["evalue"], reply
        assert await roamer.said("print(ran)") == str([2, 3, *(["cut off"] if policy == "rerun" else [])])
        assert "cells 4, 5" in await roamer.client.log(roamer.id)
        (event,) = [each for each in await roamer.client.events(session=roamer.id) if each.kind == "recovered"]
        assert event.detail["lost_cells"] == [4, 5]


async def test_one_session_with_its_last_state_when_the_controller_is_killed_while_its_process_moves(
    criu: Criu, gpuaas_home: GpuaasHome
) -> None:
    moments = chosen("controller_killed", f"{SEED}/controller/images", -(-TRIALS // len(WAYS)))
    with mortal_service(gpuaas_home, images="auto") as mortals:
        outcomes = await controller_trials(mortals, gpuaas_home.path / "book", moments, "image")
        await eventually(lambda: not images_in(gpuaas_home.path))
    print(f"controller: {sum(outcomes.values())} trials, all hurt: {dict(outcomes)}")
