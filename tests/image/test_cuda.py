"""CUDA's checkpoint calls: the table of states, one contract for the stand-in and a real driver, the node's helper."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_gpuaas.errors import DeviceRefused, ImageUnavailable, InvalidTransition
from jupyter_gpuaas.image import cuda
from jupyter_gpuaas.image.cuda import CudaDriver, CudaLibrary, DeviceMeter, Suspended, resume, suspend
from jupyter_gpuaas.image.cuda_helper import CudaHelper
from jupyter_gpuaas.image.cuda_stand_in import StandInLibrary, StandInProcess
from jupyter_gpuaas.image.cuda_states import TRANSITIONS, Action, ProcessState, step, way

A, B = bytes(range(16)), bytes(range(16, 32))
PID = 4711
GIB = 1 << 30


@pytest.mark.parametrize("state", ProcessState)
@pytest.mark.parametrize("action", Action)
def test_states_every_cell_leads_on_or_is_refused(state: ProcessState, action: Action) -> None:
    if action in TRANSITIONS[state]:
        assert step(state, action) in ProcessState
    else:
        with pytest.raises(InvalidTransition):
            step(state, action)


def test_states_ways_are_the_shortest() -> None:
    assert way(ProcessState.RUNNING, ProcessState.CHECKPOINTED) == [Action.LOCK, Action.CHECKPOINT]
    assert way(ProcessState.CHECKPOINTED, ProcessState.RUNNING) == [Action.RESTORE, Action.UNLOCK]
    assert way(ProcessState.LOCKED, ProcessState.RUNNING) == [Action.UNLOCK]
    assert way(ProcessState.RUNNING, ProcessState.RUNNING) == []
    with pytest.raises(InvalidTransition):
        way(ProcessState.FAILED, ProcessState.RUNNING)


def test_argument_blocks_have_the_size_that_the_driver_reads() -> None:
    for kind in (cuda.LockArgs, cuda.RestoreArgs, cuda.EmptyArgs):
        assert ctypes.sizeof(kind) == 64
    assert ctypes.sizeof(cuda.GpuPair) == 32
    assert (cuda.LockArgs.timeout_ms.offset, cuda.RestoreArgs.pairs.offset, cuda.RestoreArgs.count.offset) == (0, 0, 8)


# -- the contract: over the stand-in, and over the real driver where there is one ------------------------------


@dataclass
class Subject:
    driver: CudaDriver
    meter: DeviceMeter
    #: A process with device memory.
    pid: int


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "stand-in":
        library = StandInLibrary({A: 8 * GIB, B: 8 * GIB}, {PID: StandInProcess({A: 2 * GIB})})
        yield Subject(CudaLibrary(library), library, PID)
        return
    import subprocess

    from jupyter_gpuaas.image.cuda_meter import NvmlMeter

    try:
        driver = cuda.load_driver()
    except ImageUnavailable as error:
        pytest.skip(str(error))
    program = (
        "import torch; x = torch.arange(1 << 28, device='cuda'); print(int(x.sum()), flush=True)\n"
        "input(); print(int(x.sum()), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        before = process.stdout.readline()
        assert before.strip()
        yield Subject(driver, NvmlMeter(), process.pid)
        # Whatever the test did, it has left the process running, with its memory as it was.
        assert driver.state(process.pid) is ProcessState.RUNNING
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == before


def test_driver_suspended_process_gives_its_device_back_and_takes_it_again(subject: Subject) -> None:
    driver, meter, pid = subject.driver, subject.meter, subject.pid
    held = meter.used_bytes(pid)
    free = meter.free_bytes()
    assert sum(held.values()) > 0
    suspended = suspend(driver, meter, pid, timeout_ms=10_000, host_free_bytes=1 << 40)
    assert driver.state(pid) is ProcessState.CHECKPOINTED
    assert suspended.needs == held
    assert sum(meter.free_bytes().values()) > sum(free.values())
    resume(driver, meter, suspended)
    assert driver.state(pid) is ProcessState.RUNNING
    assert meter.used_bytes(pid).keys() == held.keys()


def test_driver_call_in_the_wrong_state_is_refused_and_changes_nothing(subject: Subject) -> None:
    driver, pid = subject.driver, subject.pid
    for call in (driver.checkpoint, driver.restore, driver.unlock):
        with pytest.raises(DeviceRefused) as refused:
            call(pid)
        assert refused.value.code == cuda.ILLEGAL_STATE
        assert driver.state(pid) is ProcessState.RUNNING
    driver.lock(pid, 10_000)
    with pytest.raises(DeviceRefused):
        driver.restore(pid)
    assert driver.state(pid) is ProcessState.LOCKED
    driver.unlock(pid)
    assert driver.state(pid) is ProcessState.RUNNING


def test_driver_without_host_memory_nothing_is_tried(subject: Subject) -> None:
    with pytest.raises(DeviceRefused, match="memory left"):
        suspend(subject.driver, subject.meter, subject.pid, timeout_ms=10_000, host_free_bytes=1)
    assert subject.driver.state(subject.pid) is ProcessState.RUNNING


def test_driver_unknown_process_is_refused(subject: Subject) -> None:
    with pytest.raises(DeviceRefused):
        subject.driver.state(1)


# -- what only the stand-in can be made to do ------------------------------------------------------------------


def stand_in(**processes: StandInProcess) -> tuple[CudaLibrary, StandInLibrary]:
    library = StandInLibrary({A: 8 * GIB, B: 8 * GIB}, {int(name[1:]): process for name, process in processes.items()})
    return CudaLibrary(library), library


def test_suspend_of_endless_device_work_is_refused_in_words_and_the_process_runs_on() -> None:
    driver, library = stand_in(p7=StandInProcess({A: GIB}, busy=True))
    with pytest.raises(DeviceRefused, match="did not end within 250 ms") as refused:
        suspend(driver, library, 7, timeout_ms=250, host_free_bytes=1 << 40)
    assert refused.value.code == cuda.NOT_READY
    assert driver.state(7) is ProcessState.RUNNING


def test_suspend_that_is_refused_half_way_unlocks_the_process() -> None:
    driver, library = stand_in(p7=StandInProcess({A: GIB}, unsupported=True))
    with pytest.raises(DeviceRefused, match="NOT_SUPPORTED"):
        suspend(driver, library, 7, timeout_ms=250, host_free_bytes=1 << 40)
    assert driver.state(7) is ProcessState.RUNNING


def test_resume_without_room_tries_nothing_and_works_later() -> None:
    driver, library = stand_in(p7=StandInProcess({A: 5 * GIB}))
    suspended = suspend(driver, library, 7, timeout_ms=250, host_free_bytes=1 << 40)
    library.processes[8] = StandInProcess({A: 4 * GIB})
    with pytest.raises(DeviceRefused, match="bytes free"):
        resume(driver, library, suspended)
    assert driver.state(7) is ProcessState.CHECKPOINTED
    # Not asked first, the driver would have lost the process for good.
    with pytest.raises(DeviceRefused, match="OUT_OF_MEMORY"):
        CudaLibrary(library).restore(7)
    assert driver.state(7) is ProcessState.FAILED
    with pytest.raises(DeviceRefused, match="FAILED"):
        resume(driver, library, suspended)


def test_resume_on_another_device_moves_the_memory() -> None:
    driver, library = stand_in(p7=StandInProcess({A: 5 * GIB}))
    suspended = suspend(driver, library, 7, timeout_ms=250, host_free_bytes=1 << 40)
    library.processes[8] = StandInProcess({A: 7 * GIB})
    resume(driver, library, suspended, [(A, B), (B, A)])
    assert library.used_bytes(7) == {B: 5 * GIB}
    assert driver.state(7) is ProcessState.RUNNING


def test_restore_with_an_incomplete_mapping_is_refused() -> None:
    driver, library = stand_in(p7=StandInProcess({A: GIB}))
    suspend(driver, library, 7, timeout_ms=250, host_free_bytes=1 << 40)
    with pytest.raises(DeviceRefused, match="INVALID_VALUE"):
        driver.restore(7, [(A, B)])
    assert driver.state(7) is ProcessState.CHECKPOINTED


def test_pair_up_is_complete_and_keeps_what_is_the_same() -> None:
    c = bytes([9] * 16)
    assert cuda.pair_up([A, B], [A, B], {}) == [(A, A), (B, B)]
    assert cuda.pair_up([A, B], [A, B], {A: B}) == [(A, B), (B, A)]
    assert cuda.pair_up([A], [B, c], {}) == [(A, B)]
    with pytest.raises(DeviceRefused, match="2 devices"):
        cuda.pair_up([A, B], [c], {})


def test_library_that_lacks_one_of_the_six_calls_is_not_used() -> None:
    whole = StandInLibrary({}, {})
    names = [name for name in cuda.SYMBOLS if name != "cuCheckpointProcessRestore"]
    partial = SimpleNamespace(cuInit=whole.cuInit, **{name: getattr(whole, name) for name in names})
    with pytest.raises(ImageUnavailable, match="cuCheckpointProcessRestore"):
        CudaLibrary(partial)


# -- the helper ------------------------------------------------------------------------------------------------


@pytest.fixture
async def helper(tmp_path: Path) -> AsyncIterator[CudaHelper]:
    """Over a stand-in that knows 7, 8 and 9; the meter has seen memory of 10 as well. No driver is there any more when
    ``gone`` is."""
    program = (
        "import os, sys\n"
        "from jupyter_gpuaas.image.cuda import CudaLibrary\n"
        "from jupyter_gpuaas.image.cuda_helper import Served, ready, serve\n"
        "from jupyter_gpuaas.image.cuda_stand_in import StandInLibrary, StandInProcess\n"
        f"if os.path.exists({str(tmp_path / 'gone')!r}): ready('there is no CUDA driver.'); sys.exit()\n"
        f"library = StandInLibrary({{{A!r}: 8 << 30}}, {{7: StandInProcess({{{A!r}: 1 << 20}}),"
        f" 8: StandInProcess({{{A!r}: 1 << 20}}, busy=True), 9: StandInProcess({{}}, 77)}})\n"
        f"seen = library.processes | {{10: StandInProcess({{{A!r}: 5}})}}\n"
        "driver = CudaLibrary(library)\n"
        f"ready(); serve(Served(driver, StandInLibrary({{{A!r}: 8 << 30}}, seen)))\n"
    )
    helper = await CudaHelper.start([sys.executable, "-c", program])
    yield helper
    await helper.close()


async def test_helper_suspends_and_resumes(helper: CudaHelper) -> None:
    assert await helper.uses_device(7) and not await helper.uses_device(1)
    suspended = await helper.suspend(7, 1000)
    assert suspended == Suspended(7, {A: 1 << 20})
    assert await helper.state(7) is ProcessState.CHECKPOINTED
    await helper.resume(suspended)
    assert await helper.state(7) is ProcessState.RUNNING


async def test_helper_passes_refusals_on_with_their_code(helper: CudaHelper) -> None:
    with pytest.raises(DeviceRefused, match="did not end") as refused:
        await helper.suspend(8, 10)
    assert refused.value.code == cuda.NOT_READY


async def test_process_of_which_it_cannot_be_told_is_not_taken_for_one_without_devices(helper: CudaHelper) -> None:
    with pytest.raises(DeviceRefused, match="state 77 that is unknown"):
        await helper.uses_device(9)
    with pytest.raises(DeviceRefused, match=r"process 10 has 5 bytes on devices, and yet: .*INVALID_VALUE"):
        await helper.uses_device(10)


async def test_helper_that_ends_answers_those_who_wait_and_is_started_again(helper: CudaHelper, tmp_path: Path) -> None:
    os.kill(helper.pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(helper.state(7))
    await asyncio.sleep(0)  # it is asked
    before = helper.pid
    helper._process.kill()
    with pytest.raises(DeviceRefused, match="has ended"):
        await waiting
    both = await asyncio.gather(helper.state(7), helper.uses_device(1))
    assert both == [ProcessState.RUNNING, False]
    assert helper.pid != before
    (tmp_path / "gone").touch()
    helper._process.kill()
    await helper._reading
    with pytest.raises(DeviceRefused, match=r"has ended\. Another cannot be started: there is no CUDA driver"):
        await helper.state(7)


async def test_helper_without_a_driver_says_why() -> None:
    try:
        ctypes.CDLL(cuda.LIBRARY)
    except OSError:
        with pytest.raises(ImageUnavailable, match="no CUDA driver"):
            await CudaHelper.start()
    else:
        pytest.skip("this machine has a CUDA driver")
