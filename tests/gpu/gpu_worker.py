"""A program that uses a GPU in many ways, told by lines what to do: for tests that suspend it meanwhile.

``python gpu_worker.py GIB`` holds so much device memory. Each line is answered with one.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch


def triton_kernel() -> Any:
    """A kernel of Triton as a function; the same of torch where Triton cannot compile here."""
    import gpu_worker_kernel

    return gpu_worker_kernel.doubled


class Worker:
    def __init__(self, gib: float) -> None:
        torch.manual_seed(11)
        self.data = torch.zeros(int(gib * 2**28), device="cuda", dtype=torch.int32)
        self.data[:: 1 << 16] = torch.arange(len(self.data[:: 1 << 16]), device="cuda", dtype=torch.int32)
        self.a = torch.randn(512, 512, device="cuda", dtype=torch.half)
        self.x = torch.ones(512, 512, device="cuda", dtype=torch.half)
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            self.a @ self.x
        side.synchronize()
        with torch.cuda.graph(self.graph):
            self.y = torch.relu(self.a @ self.x) * 0.01
        self.doubled = triton_kernel()
        self.event = torch.cuda.Event()
        self.pinned = torch.arange(1000).pin_memory()

    def work(self) -> str:
        """Graph, cuBLAS, Triton, the device's generator, pinned memory: what comes out, as bits."""
        self.graph.replay()
        self.x = self.x.copy_(self.y + torch.randn_like(self.y) * 0.01)
        product = self.doubled((self.a.float() @ self.x.float()).contiguous())
        self.event.record()
        self.event.synchronize()
        moved = self.pinned.to("cuda", non_blocking=True)
        bits = product.view(torch.int32).sum(dtype=torch.int64) + moved.sum()
        return f"{int(bits)} {int(self.data.sum(dtype=torch.int64))}"

    def spin(self, seconds: str) -> str:
        """Device work that takes so long; answered while it runs."""
        rate = 1.5e9
        torch.cuda._sleep(int(float(seconds) * rate))
        return "spins"

    def managed(self) -> str:
        """Takes a little managed memory, and writes to it from both sides."""
        runtime = ctypes.CDLL(f"libcudart.so.{torch.version.cuda.partition('.')[0]}")
        pointer = ctypes.c_void_p()
        code = runtime.cudaMallocManaged(ctypes.byref(pointer), ctypes.c_size_t(8 << 20), ctypes.c_uint(1))
        if code == 0:
            ctypes.memset(pointer, 1, 8 << 20)
            code = runtime.cudaMemset(pointer, 2, ctypes.c_size_t(1 << 20))
            torch.cuda.synchronize()
        return str(code)


def main() -> None:
    worker = Worker(float(sys.argv[1]))
    print("ready", worker.work(), flush=True)
    for line in sys.stdin:
        what, *arguments = line.split()
        print(getattr(worker, what)(*arguments), flush=True)


if __name__ == "__main__":
    main()
