"""Checkpoints of what lies on a GPU: of one moment, only what changed, there and back, and nothing silently wrong."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jupyter_gpuaas.state import Checkpointer
from jupyter_gpuaas.state.device import copies
from jupyter_gpuaas.store import MemoryStore
from jupyter_gpuaas.store.base import CHUNK_BYTES
from tests.state.roundtrip import cell

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

MIB = 1 << 20


@pytest.fixture
def checkpointer() -> Checkpointer:
    return Checkpointer(MemoryStore(), key=b"k" * 32, hidden=False)


def restored(checkpointer: Checkpointer, checkpoint: Any, **more: Any) -> dict[str, Any]:
    return Checkpointer(checkpointer.store, key=b"k" * 32, hidden=False).restore(checkpoint, **more).namespace


@pytest.mark.parametrize("share", [copies.STAGED_SHARE, 0.0])
def test_it_is_the_state_of_one_moment(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(copies, "STAGED_SHARE", share)
    space = cell("import torch; t = torch.randint(0, 255, ((200 << 20) + 77,), dtype=torch.uint8, device='cuda')")
    expected = space["t"].clone()
    pending = checkpointer.begin(space)
    assert (pending.nbytes >= expected.numel()) is (share == 0.0)
    space["t"].zero_()
    checkpoint = pending.write()
    assert checkpoint.costs.device_bytes == expected.numel()
    assert checkpoint.costs.copied_bytes >= expected.numel()
    assert torch.equal(restored(checkpointer, checkpoint)["t"], expected)


def test_only_chunks_that_changed_are_copied_and_written(checkpointer: Checkpointer) -> None:
    space = cell("import torch; t = torch.randint(0, 255, (256 << 20,), dtype=torch.uint8, device='cuda')")
    checkpointer.capture(space)
    for number in (3, 100, 101):
        space["t"][number * CHUNK_BYTES + number] ^= 1
    again = checkpointer.capture(space)
    assert again.costs.copied_bytes <= 3 * CHUNK_BYTES + 64 * 1024
    assert again.costs.written_bytes <= 3.1 * CHUNK_BYTES
    untouched = checkpointer.capture(space)
    assert untouched.costs.written_bytes < 64 * 1024
    assert torch.equal(restored(checkpointer, again)["t"], space["t"])


def test_from_the_gpu_to_the_cpu_and_back(checkpointer: Checkpointer) -> None:
    space = cell(
        "import torch\nt = torch.arange(6.0, device='cuda'); part = t[2:4]\n"
        "model = torch.nn.Linear(4, 4).cuda(); weight = model.weight; half = torch.ones(3, device='cuda').half()"
    )
    for device_map, kind in (({"cuda": "cpu"}, "cpu"), ({"cpu": "cuda:0"}, "cuda")):
        checkpoint = Checkpointer(checkpointer.store, key=b"k" * 32, hidden=False).capture(space)
        before, space = space, restored(checkpointer, checkpoint, device_map=device_map)
        assert {space[name].device.type for name in ("t", "part", "weight", "half")} == {kind}
        assert space["model"].weight is space["weight"]
        assert torch.equal(space["weight"].cpu(), before["weight"].cpu())
        space["part"][0] = 99
        assert space["t"][2] == 99 and space["half"].dtype is torch.float16


def test_what_is_made_of_addresses_is_reported_and_the_rest_is_kept(checkpointer: Checkpointer) -> None:
    space = cell(
        "import torch\nx = torch.ones(8, device='cuda'); y = torch.zeros(8, device='cuda')\n"
        "graph = torch.cuda.CUDAGraph()\n"
        "with torch.cuda.graph(graph):\n    y.copy_(x * 2)\n"
        "graph.replay(); held = [graph, 1]\n"
        "net = torch.nn.Linear(8, 8).cuda(); fast = torch.cuda.make_graphed_callables(net, (x,))\n"
        "pinned = torch.ones(5).pin_memory(); event = torch.cuda.Event(); event.record()\n"
        "side, usual = torch.cuda.Stream(priority=-1), torch.cuda.default_stream()\n"
    )
    checkpoint = checkpointer.capture(space)
    report = checkpoint.report
    assert {name for name, verdict in report.items() if verdict.outcome == "lost"} >= {"graph", "held"}
    assert report["fast"].outcome == "lost" or "fast" not in report
    assert "address" in report["graph"].note
    assert report["pinned"].outcome == "rebuilt" and "pin_memory" in report["pinned"].note
    assert report["event"].outcome == report["side"].outcome == "rebuilt"
    new = restored(checkpointer, checkpoint)
    assert new["y"].tolist() == [2.0] * 8 and new["pinned"].tolist() == [1.0] * 5
    assert new["usual"] == torch.cuda.default_stream() and new["side"].priority == -1
    new["event"].record(new["side"])
    new["event"].synchronize()


def test_a_graph_can_be_captured_while_a_checkpoint_is_written(checkpointer: Checkpointer) -> None:
    space = cell("import torch; t = torch.randint(0, 255, (512 << 20,), dtype=torch.uint8, device='cuda')")
    expected = space["t"].clone()
    x = torch.ones(1000, device="cuda")
    pending = checkpointer.begin(space)
    space["t"].zero_()
    done: list[Any] = []
    writing = threading.Thread(target=lambda: done.append(pending.write()))
    writing.start()
    graphs = 0
    while writing.is_alive() or not graphs:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(200):
                x = x * 1.0
        graph.replay()
        graphs += 1
    writing.join()
    assert torch.equal(restored(checkpointer, done[0])["t"], expected)


def test_large_memory_is_digested_by_the_kernel() -> None:
    from jupyter_gpuaas.state.device import digests

    device = torch.cuda.current_device()
    assert digests._kernel_of_torch(device) is not None
    for size, chunk_bytes in ((64 * MIB, MIB), (9 * MIB + 13, MIB), (8 * MIB + 1, 1 << 16), (5 * MIB, 1 << 12)):
        whole = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
        assert digests.torch_digests(whole, chunk_bytes) == digests.torch_digests(whole.cpu(), chunk_bytes)


def test_large_memory_of_cupy_is_digested_by_the_kernel() -> None:
    cupy = pytest.importorskip("cupy")
    from jupyter_gpuaas.state.device import digests

    assert digests._kernel_of_cupy(0) is not None
    whole = cupy.random.randint(0, 255, 9 * MIB + 13, dtype=cupy.uint8)
    tensor = torch.as_tensor(whole, device="cuda").cpu()
    assert digests.cupy_digests(cupy, whole, MIB) == digests.torch_digests(tensor, MIB)
