"""Sessions with device memory through the service: real nodes, kernels and CRIU, a stand-in for driver and NVML."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.errors import MigrationError
from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.cuda_states import ProcessState
from jupyter_gpuaas.model import Phase, ResourceRequest, SessionState
from tests.conftest import GpuaasHome
from tests.image.test_moves import running_cell, work
from tests.roaming import Roamer, roaming
from tests.service import Service, eventually, running_service
from tests.stand_ins import gpu_files

MIB = 1 << 20
HERE, THERE = gpu_files.DEVICES
MIDDLE = """
import os
with open("log.txt", "a") as log:
    print("middle", flush=True)
    while not os.path.exists("go"):
        pass
print("end", log.closed)
"""


@pytest.fixture
def gpus(gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a file for each process with memory on the machine's two GPUs."""
    files = gpuaas_home.path / "gpus" / "files"
    files.mkdir(parents=True)
    monkeypatch.setenv(gpu_files.VARIABLE, str(files))
    ahead = os.environ.get("PYTHONPATH")
    folder = str(Path(gpu_files.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ahead}" if ahead else folder)
    return files


@pytest.fixture
async def service(criu: Criu, gpus: Path, gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    settings = {"nodes": 2, "devices": "auto", "checkpoint_share": 1e6, "workdir": "session", "images": "auto"}
    async with running_service(gpuaas_home.path, **settings) as running:
        assert {device.kind for node in await running.admin.nodes() for device in node.devices} == {"cuda"}
        yield running


async def with_memory(roamer: Roamer, gpus: Path) -> tuple[Path, bytes, bytes]:
    """Its kernel gets 2 MiB on the session's GPU; the file, that GPU, and the other node's."""
    file = gpus / await roamer.said(gpu_files.ITS_FILE)
    mine = HERE if await roamer.node() == "local-0" else THERE
    assert await roamer.said("print(os.environ['CUDA_VISIBLE_DEVICES'])") == gpu_files.name(mine)
    gpu_files.write(file, {mine: 2 * MIB})
    return file, mine, THERE if mine is HERE else HERE


async def test_session_with_device_memory_moves_in_the_middle_of_a_cell(service: Service, gpus: Path) -> None:
    async with roaming(service) as roamer:
        file, _, other = await with_memory(roamer, gpus)
        running, outputs = await running_cell(roamer, MIDDLE, "middle")
        done = await roamer.migrate(via="image")
        assert (done.phase, done.via) == (Phase.DONE, "image"), done.cause
        await eventually(lambda: gpu_files.read(file) == ({other: 2 * MIB}, ProcessState.RUNNING))
        (work(service, done.target, roamer.id) / "go").touch()
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        assert outputs.text.splitlines() == ["middle", "end True"]


async def test_session_stays_with_its_device_memory_where_the_other_gpu_has_no_room(
    service: Service, gpus: Path
) -> None:
    async with roaming(service) as roamer:
        file, mine, other = await with_memory(roamer, gpus)
        source = await roamer.node()
        # Of a process of this test, which has nothing to do with any session.
        gpu_files.write(gpu_files.path(os.getpid()), {other: gpu_files.TOTAL_BYTES - MIB})
        running, outputs = await running_cell(roamer, MIDDLE, "middle")
        failed = await roamer.migrate(via="image")
        assert failed.phase is Phase.FAILED and "bytes free" in failed.cause, failed.cause
        assert await roamer.node() == source
        assert gpu_files.read(file) == ({mine: 2 * MIB}, ProcessState.RUNNING)
        (work(service, source, roamer.id) / "go").touch()
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        assert outputs.text.splitlines() == ["middle", "end True"]


async def test_busy_session_with_device_memory_goes_as_an_image_only_when_that_is_asked_for(
    service: Service, gpus: Path
) -> None:
    async with roaming(service) as roamer:
        await with_memory(roamer, gpus)
        running, _ = await running_cell(roamer, MIDDLE, "middle")
        with pytest.raises(MigrationError, match="--via image"):
            await roamer.migrate(wait=False)
        (work(service, await roamer.node(), roamer.id) / "go").touch()
        await running


async def test_parked_session_leaves_its_gpu_and_has_it_back_for_its_next_cell(service: Service, gpus: Path) -> None:
    # Bound to its node, it keeps its process.
    async with roaming(service, request=ResourceRequest(node="local-0")) as roamer:
        file, mine, _ = await with_memory(roamer, gpus)
        before = await roamer.said("kept = open('/dev/null'); print(os.getppid())")
        parked = await roamer.client.park(roamer.id)
        assert parked.session.state is SessionState.PARKED
        assert gpu_files.read(file) == ({mine: 2 * MIB}, ProcessState.CHECKPOINTED)
        await eventually(lambda: not [lease for lease in service.engine.leases() if lease.device_ids])
        assert await roamer.said("print(os.getppid(), kept.closed)") == f"{before} False"
        assert gpu_files.read(file) == ({mine: 2 * MIB}, ProcessState.RUNNING)


async def told(roamer: Roamer, words: str) -> None:
    async def there() -> bool:
        return words in await roamer.client.log(roamer.id)

    await eventually(there)


@pytest.mark.parametrize("step", ["resume", "live"])
async def test_session_that_finds_its_gpu_full_has_its_memory_back_when_there_is_room(
    service: Service, gpus: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to go on after a move, or after one that fails, and somebody has its memory: nothing is lost by that."""
    taken, real = gpu_files.path(os.getpid()), AgentClient.op
    async with roaming(service) as roamer:
        file, mine, other = await with_memory(roamer, gpus)

        async def op(self: AgentClient, session_id: str, epoch: int, op: str, content: dict[str, Any]) -> Any:
            if op == step and not taken.exists():
                gpu_files.write(taken, {mine if step == "resume" else other: gpu_files.TOTAL_BYTES - MIB})
            if op == "load" and step == "resume":
                raise MigrationError("not here.")
            return await real(self, session_id, epoch, op, content)

        monkeypatch.setattr(AgentClient, "op", op)
        running, outputs = await running_cell(roamer, MIDDLE, "middle")
        done = await roamer.migrate(via="image")
        assert done.phase is (Phase.FAILED if step == "resume" else Phase.DONE), done.cause
        session = await roamer.look()
        assert session.state is SessionState.BUSY
        assert gpu_files.read(file)[1] == ProcessState.CHECKPOINTED
        await told(roamer, "could not be given back")
        taken.unlink()
        await eventually(lambda: gpu_files.read(file)[1] == ProcessState.RUNNING)
        await told(roamer, "memory of its devices back")
        (work(service, await roamer.node(), roamer.id) / "go").touch()
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        assert outputs.text.splitlines() == ["middle", "end True"]
