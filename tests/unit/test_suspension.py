"""A real kernel process that stands still without devices: CUDA's driver is a stand-in for it, all else is real."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jupyter_gpuaas.errors import DeviceRefused, MigrationError
from jupyter_gpuaas.image.cuda import CudaLibrary
from jupyter_gpuaas.image.cuda_helper import Answer, CudaHelper, Request, Served
from jupyter_gpuaas.image.cuda_stand_in import StandInLibrary, StandInProcess
from jupyter_gpuaas.image.cuda_states import ProcessState
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.node.kernel_process import KernelProcess
from jupyter_gpuaas.node.suspension import Suspended, Suspension
from jupyter_gpuaas.wire.jupyter import make_parts
from tests.fault.nodes import is_stopped
from tests.service import eventually

A = bytes(range(16))
MIB = 1 << 20
#: No other test's: what has this mark is stopped.
RUN = f"run of test {os.getpid()}"


class HelperHere(CudaHelper):
    """Answers in this process, so that a test sees the stand-in's state."""

    def __init__(self, library: StandInLibrary) -> None:
        self._served = Served(CudaLibrary(library), library)

    @property
    def pid(self) -> int:
        return 0

    async def _ask(self, request: Request) -> Answer:
        answer = self._served.answer(request)
        if answer.error:
            raise DeviceRefused(answer.error, code=answer.code)
        return answer


class Heard:
    """A kernel's handler."""

    def __init__(self) -> None:
        self.text = ""

    def kernel_said(self, channel: Channel, batch: list[tuple[bytes, list[bytes]]]) -> None:
        self.text += "".join(bytes(parts[3]).decode() for _, parts in batch)

    def kernel_exited(self, status: int) -> None: ...


@pytest.fixture
async def heard() -> Heard:
    return Heard()


@asynccontextmanager
async def started(heard: Heard) -> AsyncIterator[KernelProcess]:
    folder = Path(tempfile.mkdtemp(prefix="gpuaas-"))  # short: paths of sockets are
    environ = {**os.environ, "GPUAAS_RUN": RUN}
    log = os.open(os.devnull, os.O_WRONLY)
    made = KernelProcess(folder, environ, log, heard)  # type: ignore[arg-type]
    await made.start(60.0)
    try:
        yield made
    finally:
        made.kill()
        await made.ended()
        made.close()
        os.close(log)
        shutil.rmtree(folder)


@pytest.fixture
async def kernel(heard: Heard) -> AsyncIterator[KernelProcess]:
    async with started(heard) as made:
        yield made


def suspension(kernel: KernelProcess, library: StandInLibrary | None) -> Suspension:
    return Suspension(kernel, RUN, HelperHere(library) if library is not None else None)


def run(kernel: KernelProcess, code: str) -> None:
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    kernel.send(Channel.SHELL, make_parts(b"", "execute_request", b"{}", content)[1:])


NO_BOUND = {"room_bytes": -1, "refused": str}


async def test_kernel_with_device_memory_stands_still_without_it_and_goes_on_with_it(
    kernel: KernelProcess, heard: Heard
) -> None:
    library = StandInLibrary({A: 8 * MIB}, {kernel.pid: StandInProcess({A: 6 * MIB})})
    run(kernel, "import time\nfor i in range(10**9):\n    print('line', i)\n    time.sleep(0.01)")
    await eventually(lambda: "line 3" in heard.text)
    suspended = Suspended()
    await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    assert is_stopped(kernel.pid) and suspended.stands
    assert library.processes[kernel.pid].state is ProcessState.CHECKPOINTED
    assert library.free_bytes() == {A: 8 * MIB}
    # Whoever has the device meanwhile has not left it yet.
    library.processes[1] = StandInProcess({A: 4 * MIB})
    with pytest.raises(DeviceRefused, match="bytes free"):
        await suspended.end(kernel)
    assert suspended.holds and library.processes[kernel.pid].state is ProcessState.CHECKPOINTED
    del library.processes[1]
    before = heard.text
    assert await suspended.end(kernel)
    assert library.processes[kernel.pid].state is ProcessState.RUNNING
    assert not suspended.holds and not is_stopped(kernel.pid)
    await eventually(lambda: len(heard.text) > len(before))
    assert not await suspended.end(kernel)


async def test_kernel_whose_device_work_does_not_end_goes_on(kernel: KernelProcess) -> None:
    library = StandInLibrary({A: 8 * MIB}, {kernel.pid: StandInProcess({A: MIB}, busy=True)})
    suspended = Suspended()
    with pytest.raises(DeviceRefused, match="did not end"):
        await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    assert not suspended.holds and not is_stopped(kernel.pid)
    assert library.processes[kernel.pid].state is ProcessState.RUNNING


async def test_kernel_that_has_not_got_its_device_memory_back_counts_as_suspended_until_it_has(
    kernel: KernelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = StandInLibrary({A: 8 * MIB}, {kernel.pid: StandInProcess({A: 6 * MIB})})
    suspended = Suspended()

    async def fails() -> None:
        library.processes[1] = StandInProcess({A: 4 * MIB})  # just then somebody takes what is free
        raise MigrationError("it cannot be stopped.")

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "pause", fails)
        with pytest.raises(MigrationError, match="cannot be stopped"):
            await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    assert suspended.holds and not suspended.stands and not is_stopped(kernel.pid)
    with pytest.raises(DeviceRefused, match="bytes free"):
        await suspended.end(kernel)
    assert suspended.holds
    # It may be told to give up its turn before it has got it.
    await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    assert suspended.stands and is_stopped(kernel.pid)
    with pytest.raises(DeviceRefused, match="bytes free"):
        await suspended.end(kernel)
    assert not suspended.stands and not is_stopped(kernel.pid)
    del library.processes[1]
    assert await suspended.end(kernel)
    assert library.processes[kernel.pid].state is ProcessState.RUNNING and not suspended.holds


async def test_kernel_that_would_keep_too_much_memory_goes_on(kernel: KernelProcess) -> None:
    suspended = Suspended()
    with pytest.raises(MigrationError, match="too large"):
        await suspended.begin(
            suspension(kernel, None), room_bytes=1 << 20, refused=lambda wants_bytes: f"{wants_bytes} are too large"
        )
    assert not suspended.holds and not is_stopped(kernel.pid)


async def test_kernel_that_was_killed_while_it_stood_still_holds_its_successor_up_no_longer(
    kernel: KernelProcess,
) -> None:
    library = StandInLibrary({A: 8 * MIB}, {kernel.pid: StandInProcess({A: MIB})})
    suspended = Suspended()
    await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    kernel.kill()
    assert await asyncio.wait_for(kernel.ended(), 30)
    assert await suspended.end(None)
    assert not suspended.holds


async def test_kernel_after_one_that_had_not_got_its_device_memory_back_stands_still_and_goes_on(
    kernel: KernelProcess, heard: Heard
) -> None:
    library = StandInLibrary({A: 8 * MIB}, {kernel.pid: StandInProcess({A: 6 * MIB})})
    suspended = Suspended()
    await suspended.begin(suspension(kernel, library), **NO_BOUND)  # type: ignore[arg-type]
    library.processes[1] = StandInProcess({A: 4 * MIB})
    with pytest.raises(DeviceRefused, match="bytes free"):
        await suspended.end(kernel)
    kernel.kill()  # its user restarts it meanwhile
    assert await asyncio.wait_for(kernel.ended(), 30)
    del library.processes[kernel.pid]
    async with started(heard) as successor:
        await suspended.begin(suspension(successor, library), **NO_BOUND)  # type: ignore[arg-type]
        assert suspended.stands and is_stopped(successor.pid)
        assert await suspended.end(successor)
        assert not suspended.holds and not is_stopped(successor.pid)
