"""Sessions on a real GPU: found, given to one session at a time, back after a loss, moved and parked."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from jupyter_gpuaas.model import Phase, SessionState
from tests.conftest import GpuaasHome
from tests.roaming import Roamer, roaming
from tests.service import Service, eventually, running_service

pynvml = pytest.importorskip("pynvml")
torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

S = SessionState
SETTINGS = {"devices": "auto", "checkpoint_share": 1e6, "workdir": "session"}
MAKE = (
    "import os, torch\nx = torch.arange(1 << 26, device='cuda').float(); part = x[10:20]\n"
    "model = torch.nn.Linear(64, 64).cuda(); torch.cuda.manual_seed(3)"
)
LOOK = "print(x.device, part.data_ptr() - x.data_ptr(), float(x[:1000].sum()), model.weight[5, 7].item())"


@pytest.fixture
def uuid() -> Iterator[str]:
    pynvml.nvmlInit()
    found = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0))
    yield found if isinstance(found, str) else found.decode()
    pynvml.nvmlShutdown()


async def kept(roamer: Roamer, cells: int) -> None:
    """Until the checkpoint after so many cells is there."""

    async def there() -> bool:
        return any(view.cell >= cells for view in await roamer.client.checkpoints(roamer.id))

    await eventually(there, 60.0)


async def on_gpu(service: Service) -> list[str]:
    return [device.kind for node in await service.admin.nodes() for device in node.devices]


async def test_one_session_has_the_gpu_and_another_waits_for_it(gpuaas_home: GpuaasHome, uuid: str) -> None:
    async with running_service(gpuaas_home.path, park_for_waiting_s=0.0, **SETTINGS) as service:
        assert (await on_gpu(service))[0] == "cuda"
        async with roaming(service, "one") as one:
            assert await one.said(f"{MAKE}\nprint(os.environ['CUDA_VISIBLE_DEVICES'])") == uuid
            assert await one.said("print(torch.cuda.device_count(), torch.cuda.get_device_name())") == (
                f"1 {torch.cuda.get_device_name(0)}"
            )
            views = [
                await service.admin.create_session(f"more-{number}") for number in range(torch.cuda.device_count())
            ]
            assert views[-1].session.state is S.QUEUED
            for view in views:
                await service.admin.release(view.session.id)


async def test_session_is_back_on_the_gpu_after_its_host_was_killed_and_after_it_was_parked(
    gpuaas_home: GpuaasHome,
) -> None:
    async with running_service(gpuaas_home.path, **SETTINGS) as service, roaming(service) as roamer:
        await roamer.said(MAKE)
        before = await roamer.said(LOOK)
        assert before.startswith("cuda:0 40 ")
        await kept(roamer, 1)
        host = int(await roamer.said("print(os.getppid())"))
        os.kill(host, signal.SIGKILL)
        await roamer.until(S.LOST, S.RESTORING, S.STARTING)
        assert await roamer.said(LOOK) == before
        expected = await roamer.said("state = torch.cuda.get_rng_state(); print(torch.rand(3, device='cuda').tolist())")
        await roamer.client.park(roamer.id)
        assert (await roamer.look()).state is S.PARKED
        await eventually(lambda: not service.engine.leases())  # its host ends meanwhile
        assert await roamer.said(LOOK) == before
        again = "torch.cuda.set_rng_state(state); print(torch.rand(3, device='cuda').tolist())"
        assert await roamer.said(again) == expected


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="each node has a GPU")
async def test_session_moves_from_the_gpu_to_a_node_that_has_none(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, nodes=2, **SETTINGS) as service, roaming(service) as roamer:
        assert sorted(await on_gpu(service)) == ["cpu", "cuda"]
        await roamer.said(MAKE)
        before = await roamer.said(LOOK)
        assert before.startswith("cuda:0")
        done = await roamer.migrate(accept_loss=True)
        assert done.phase is Phase.DONE, done.cause
        assert await roamer.said(LOOK) == before.replace("cuda:0", "cpu")
        assert await roamer.said("print(next(model.parameters()).device)") == "cpu"
