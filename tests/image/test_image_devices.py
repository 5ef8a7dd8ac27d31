"""An image of a kernel that has device memory: real CRIU, a stand-in for the CUDA driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.errors import DeviceRefused, ImageUnavailable, StoreError
from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.cuda import CudaLibrary
from jupyter_gpuaas.image.cuda_helper import Answer, CudaHelper, Request, Served
from jupyter_gpuaas.image.cuda_stand_in import StandInLibrary, StandInProcess
from jupyter_gpuaas.image.cuda_states import ProcessState
from jupyter_gpuaas.image.dump import ImageName
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.image.manifest import DeviceNeed
from jupyter_gpuaas.image.pack import StoredImage
from jupyter_gpuaas.image.tree_devices import placed
from jupyter_gpuaas.store import MemoryStore

from .cells import Client, copy_work, spec, start

KEY = b"k" * 32
A, B = bytes(range(16)), bytes(range(16, 32))
MIB = 1 << 20


class HelperHere(CudaHelper):
    """Answers in this process, so that a test sees the stand-in's state."""

    def __init__(self, library: StandInLibrary) -> None:
        self._served = Served(CudaLibrary(library), library)

    async def _ask(self, request: Request) -> Answer:
        answer = self._served.answer(request)
        if answer.error:
            raise DeviceRefused(answer.error, code=answer.code)
        return answer


async def test_device_memory_moves_to_another_device_and_a_resumed_source_keeps_its_own(
    criu: Criu, tmp_path: Path
) -> None:
    client, store = Client(), MemoryStore()
    here, there = StandInLibrary({A: 8 * MIB}, {}), StandInLibrary({B: 8 * MIB}, {})
    kernel = await start(tmp_path / "a", client, criu)
    kernel.use_cuda(HelperHere(here))
    here.processes[kernel.pid] = StandInProcess({A: 2 * MIB})
    await client.run(kernel, "x = 1")
    manifest = await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    inner = {process.pid: process.inner_pid for process in kernel.jail.processes()}
    assert manifest.devices == (DeviceNeed(inner[kernel.pid], {A.hex(): 2 * MIB}),)
    assert here.processes[kernel.pid].state is ProcessState.CHECKPOINTED
    assert here.free_bytes() == {A: 8 * MIB}

    copy_work(tmp_path / "a", tmp_path / "b")
    moved = await ImageKernel.restore(
        spec(tmp_path / "b"),
        client,
        criu=criu,
        origin=StoredImage(store),
        image_id="image",
        key=KEY,
        cuda=HelperHere(there),
        onto=[B],
    )
    there.processes[moved.pid] = StandInProcess({A: 2 * MIB}, ProcessState.CHECKPOINTED)
    await moved.thaw()
    assert there.processes[moved.pid] == StandInProcess({B: 2 * MIB}, ProcessState.RUNNING)
    await client.run(moved, "assert x == 1")
    await moved.end()

    await kernel.thaw()
    assert here.processes[kernel.pid] == StandInProcess({A: 2 * MIB}, ProcessState.RUNNING)
    await client.run(kernel, "assert x == 1")
    await kernel.end()


def test_devices_that_the_session_has_here_take_the_place_of_those_that_it_used() -> None:
    needs = [DeviceNeed(2, {A.hex(): 1}), DeviceNeed(3, {B.hex(): 1, A.hex(): 5})]
    c = bytes([9] * 16)
    assert placed(needs, [B, A]) == {A: A, B: B}
    assert placed(needs, [c, A]) == {A: A, B: c}
    assert placed([], []) == {}
    with pytest.raises(DeviceRefused, match="used 2 devices"):
        placed(needs, [A])


async def test_session_whose_device_work_does_not_end_is_not_dumped_and_runs_on(criu: Criu, tmp_path: Path) -> None:
    client, store = Client(), MemoryStore()
    library = StandInLibrary({A: 8 * MIB}, {})
    kernel = await start(tmp_path, client, criu, cuda=HelperHere(library))
    # The relay is looked at first; it stands for a process that was suspended before another refused.
    relay = kernel.jail.processes()[0].pid
    library.processes |= {
        relay: StandInProcess({A: MIB}),
        kernel.pid: StandInProcess({A: MIB}, busy=True),
    }
    with pytest.raises(DeviceRefused, match="did not end"):
        await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    assert not kernel.frozen and store.manifests() == []
    assert {process.state for process in library.processes.values()} == {ProcessState.RUNNING}
    await client.run(kernel, "x = 1")
    await kernel.end()


async def test_image_with_device_memory_is_refused_where_it_finds_no_room(criu: Criu, tmp_path: Path) -> None:
    client, store = Client(), MemoryStore()
    library = StandInLibrary({A: 8 * MIB}, {})
    kernel = await start(tmp_path / "a", client, criu, cuda=HelperHere(library))
    library.processes[kernel.pid] = StandInProcess({A: 2 * MIB})
    await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
    jail = spec(tmp_path / "b")
    full = HelperHere(StandInLibrary({B: 8 * MIB}, {1: StandInProcess({B: 7 * MIB})}))
    for cuda, error in (
        (None, ImageUnavailable),
        (full, DeviceRefused),
        (HelperHere(StandInLibrary({}, {})), DeviceRefused),
    ):
        with pytest.raises(error):
            await ImageKernel.restore(
                jail, client, criu=criu, origin=StoredImage(store), image_id="image", key=KEY, cuda=cuda
            )
    assert not (tmp_path / "b" / "jail" / "images").exists()
    await kernel.end()


async def test_session_whose_image_fails_has_its_device_memory_back_as_soon_as_there_is_room(
    criu: Criu, tmp_path: Path
) -> None:
    client = Client()
    library = StandInLibrary({A: 8 * MIB}, {})
    kernel = await start(tmp_path, client, criu, cuda=HelperHere(library))
    library.processes[kernel.pid] = its = StandInProcess({A: 6 * MIB})

    class FullStore(MemoryStore):
        def put(self, *arguments: Any, **more: Any) -> Any:
            library.processes[1] = StandInProcess({A: 4 * MIB})
            raise StoreError("the store is full.")

    with pytest.raises(StoreError, match="is full"):
        await kernel.dump(StoredImage(FullStore()), KEY, ImageName(id="image"))
    # Its processor's part goes on, and can be stopped again.
    await client.run(kernel, "x = 1")
    assert kernel.halted and not kernel.frozen and its.state is ProcessState.CHECKPOINTED
    await kernel.freeze()
    for _ in range(2):
        with pytest.raises(DeviceRefused, match="bytes free"):
            await kernel.thaw()
    del library.processes[1]
    await kernel.thaw()
    assert its.state is ProcessState.RUNNING and not kernel.halted
    await client.run(kernel, "assert x == 1")
    await kernel.end()
