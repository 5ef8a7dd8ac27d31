"""An image of a kernel whose variables lie on a real GPU: the driver, and then CRIU."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.cuda_helper import CudaHelper
from jupyter_gpuaas.image.dump import ImageName
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.image.pack import StoredImage
from jupyter_gpuaas.store import MemoryStore

from .cells import Client, copy_work, spec, start

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

KEY = b"k" * 32
CELL = """
import torch
torch.cuda.manual_seed(5)
x = torch.arange(1 << 24, device="cuda").float(); part = x[7:9]
count = (n * n for n in range(100)); next(count)
"""


async def test_a_kernel_with_a_gpu_goes_on_in_another_jail(criu: Criu, tmp_path: Path) -> None:
    client, store = Client(), MemoryStore()
    helper = await CudaHelper.start()
    try:
        kernel = await start(tmp_path / "a", client, criu, cuda=helper)
        await client.run(kernel, CELL)
        manifest = await kernel.dump(StoredImage(store), KEY, ImageName(id="image"))
        assert sum(sum(need.needs.values()) for need in manifest.devices) >= 1 << 26
        await kernel.end()
        copy_work(tmp_path / "a", tmp_path / "b")
        moved = await ImageKernel.restore(
            spec(tmp_path / "b"), client, criu=criu, origin=StoredImage(store), image_id="image", key=KEY, cuda=helper
        )
        await moved.thaw()
        await client.run(
            moved,
            "part[0] = -1.0\nassert x[7] == -1 and float(x[8:].double().sum()) == sum(range(8, 1 << 24))\n"
            "assert next(count) == 1; print(torch.rand(2, device='cuda').tolist(), (x @ x).isfinite().item())",
        )
        generator = torch.Generator("cuda").manual_seed(5)
        assert client.text == f"{torch.rand(2, device='cuda', generator=generator).tolist()} True\n"
        await moved.end()
    finally:
        await helper.close()
