"""CUDA's checkpoint calls on a process that really computes: suspended, it holds no device; resumed, it goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_gpuaas.errors import DeviceRefused, ImageUnavailable
from jupyter_gpuaas.image.cuda import NOT_READY, CudaLibrary, load_driver, resume, suspend
from jupyter_gpuaas.image.cuda_helper import CudaHelper
from jupyter_gpuaas.image.cuda_meter import NvmlMeter, host_free_bytes
from jupyter_gpuaas.image.cuda_states import ProcessState

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

GIB = 1 << 30


class Worker:
    """The far end of ``gpu_worker.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker has ended"
        return line.strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()


@contextmanager
def worker(gib: float = 1) -> Iterator[Worker]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("gpu_worker.py")), str(gib)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            made = Worker(process)
            assert made.answer().startswith("ready")
            yield made
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def driver() -> CudaLibrary:
    try:
        return load_driver()
    except ImageUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def meter() -> NvmlMeter:
    return NvmlMeter()


def free(meter: NvmlMeter) -> int:
    return sum(meter.free_bytes().values())


def test_graph_libraries_generators_and_memory_go_on_as_in_a_twin(driver: CudaLibrary, meter: NvmlMeter) -> None:
    with worker() as one, worker() as twin:
        for _ in range(3):
            before = free(meter)
            suspended = suspend(driver, meter, one.pid, timeout_ms=10_000, host_free_bytes=host_free_bytes())
            assert free(meter) - before >= GIB
            # Somebody else has the room meanwhile, and writes to it.
            other = torch.full((free(meter) - GIB,), 7, dtype=torch.uint8, device="cuda")
            one.tell("work")
            assert int(other[-1]) == 7 and driver.state(one.pid) is ProcessState.CHECKPOINTED
            with pytest.raises(DeviceRefused, match="bytes free"):
                resume(driver, meter, suspended)
            del other
            torch.cuda.empty_cache()
            resume(driver, meter, suspended)
            # The work that it was told of meanwhile had to wait.
            assert one.answer() == twin.ask("work")
            assert one.ask("work") == twin.ask("work")


def test_device_work_that_takes_long_is_waited_for_only_so_long(driver: CudaLibrary, meter: NvmlMeter) -> None:
    with worker() as one, worker() as twin:
        assert one.ask("spin 3") == "spins"
        with pytest.raises(DeviceRefused, match="did not end") as refused:
            suspend(driver, meter, one.pid, timeout_ms=200, host_free_bytes=host_free_bytes())
        assert refused.value.code == NOT_READY
        assert driver.state(one.pid) is ProcessState.RUNNING
        suspended = suspend(driver, meter, one.pid, timeout_ms=30_000, host_free_bytes=host_free_bytes())
        resume(driver, meter, suspended)
        assert one.ask("work") == twin.ask("work")


async def test_the_helper_of_a_node_does_it_for_two_processes(meter: NvmlMeter) -> None:
    helper = await CudaHelper.start()
    try:
        with worker() as one, worker() as other, worker() as twin:
            assert await helper.uses_device(one.pid) and not await helper.uses_device(1)
            suspended = [await helper.suspend(each.pid, 10_000) for each in (one, other)]
            expected = twin.ask("work")
            for each in suspended:
                await helper.resume(each)
            assert one.ask("work") == other.ask("work") == expected
    finally:
        await helper.close()


def test_managed_memory_is_kept_or_refused_and_the_process_goes_on(driver: CudaLibrary, meter: NvmlMeter) -> None:
    with worker() as one, worker() as twin:
        assert one.ask("managed") == "0"
        try:
            suspended = suspend(driver, meter, one.pid, timeout_ms=10_000, host_free_bytes=host_free_bytes())
        except DeviceRefused as error:
            print("managed memory:", error)
            assert driver.state(one.pid) is ProcessState.RUNNING
        else:
            print("managed memory: suspended")
            resume(driver, meter, suspended)
        assert one.ask("work") == twin.ask("work")
