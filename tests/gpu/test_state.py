"""Device memory, tensors and arrays on a real GPU: what elsewhere runs on CPU tensors and a device of Python."""

from __future__ import annotations

from typing import Any

import pytest

from tests.state.device_contract import check_device_memory
from tests.state.roundtrip import cell, roundtrip

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

MAKE = """
import torch
t = torch.arange(6.0, device="cuda"); part = t[2:4]; bits = t.view(torch.int32)
w = torch.nn.Parameter(torch.ones(3, device="cuda")); (w * 2).sum().backward()
model = torch.nn.Linear(4, 4).cuda(); optimizer = torch.optim.Adam(model.parameters(), fused=True)
model(torch.ones(2, 4, device="cuda")).sum().backward(); optimizer.step()
generator = torch.Generator("cuda").manual_seed(3); torch.rand(5, device="cuda", generator=generator)
device = torch.device("cuda"); stream = torch.cuda.Stream(); here = torch.ones(2)
"""


def test_memory_of_torch() -> None:
    from jupyter_gpuaas.state.device.copies import TorchMemory

    check_device_memory(lambda size: TorchMemory(torch.UntypedStorage(size, device="cuda:0")))


def test_copies_larger_than_the_ring_are_right() -> None:
    from jupyter_gpuaas.state.device.copies import TorchMemory
    from jupyter_gpuaas.state.device.ring import SLOT_BYTES, SLOTS

    size = SLOT_BYTES * (2 * SLOTS + 1) + 12345
    tensor = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    memory = TorchMemory(tensor.untyped_storage())
    back = bytearray(size)
    memory.read([(0, size)], [memoryview(back)])
    assert torch.equal(torch.frombuffer(back, dtype=torch.uint8), tensor.cpu())
    before = memory.chunk_digests(1 << 20)
    tensor[size // 2] ^= 1
    after = memory.chunk_digests(1 << 20)
    assert [number for number, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [size // 2 >> 20]
    memory.write([(0, size)], [back])
    assert memory.chunk_digests(1 << 20) == before


def test_digests_on_the_device_are_those_of_the_host() -> None:
    from jupyter_gpuaas.state.device.digests import torch_digests

    tensor = torch.randint(0, 255, (5_000_001,), dtype=torch.uint8)
    assert torch_digests(tensor.cuda(), 1 << 16) == torch_digests(tensor, 1 << 16)


def test_work_that_was_queued_belongs_to_the_state() -> None:
    side = torch.cuda.Stream()
    tensor = torch.zeros(1 << 24, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for _ in range(50):
            tensor += 1
    new, _, _ = roundtrip({"t": tensor})
    assert (new["t"] == 50).all()


@pytest.mark.parametrize("device_map", [{}, {"cuda": "cpu"}, {"cpu": "cuda:0"}])
def test_tensors_models_and_generators(device_map: dict[str, str]) -> None:
    made = cell(MAKE)
    if device_map.get("cuda") == "cpu":
        del made["stream"], made["generator"], made["optimizer"]  # streams and fused kernels of the GPU
    new, _, _ = roundtrip(made, device_map=device_map)
    kind = device_map.get("cuda", "cuda")
    new["part"][0] = 99
    new["bits"][3] = 0
    assert new["t"].tolist() == [0, 1, 99, 0, 4, 5] and new["t"].device.type == kind
    assert new["w"].grad.tolist() == [2, 2, 2] and new["w"].grad.device.type == kind
    assert new["device"].type == kind and new["here"].device.type == device_map.get("cpu", "cpu")[:4]
    if kind == "cuda":
        drawn = [torch.rand(3, device="cuda", generator=space["generator"]) for space in (made, new)]
        assert torch.equal(*drawn)
        _step(made)
        _step(new)
        assert torch.equal(made["model"].weight, new["model"].weight)


def _step(space: dict[str, Any]) -> None:
    space["optimizer"].zero_grad()
    space["model"](torch.ones(2, 4, device="cuda")).square().sum().backward()
    space["optimizer"].step()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_another_device() -> None:
    new, _, _ = roundtrip(cell(MAKE), device_map={"cuda:0": "cuda:1"})
    assert new["t"].device == torch.device("cuda:1") and new["model"].weight.device.index == 1


def test_cupy_shares_with_torch() -> None:
    cupy = pytest.importorskip("cupy")
    from jupyter_gpuaas.state.device.copies import CupyMemory

    check_device_memory(lambda size: CupyMemory(cupy.cuda.alloc(size), size))
    new, _, _ = roundtrip(
        cell(
            "import cupy, torch\na = cupy.arange(6.0); b = a[::2]; c = a.reshape(2, 3).T\n"
            "t = torch.zeros(4, device='cuda'); u = cupy.asarray(t); v = torch.as_tensor(a, device='cuda')"
        )
    )
    new["b"][1] = 9
    new["u"][2] = 5
    assert new["c"][2, 0] == 9 and new["t"][2] == 5 and new["v"][2] == 9
    cpu, _, _ = roundtrip({"b": new["b"]}, device_map={"cuda": "cpu"})
    assert cpu["b"].tolist() == [0, 9, 4]
