"""The measurements of ``device.py``, each in a process of its own whose ``__main__`` is a notebook's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

GB, MIB, GIB = 10**9, 1 << 20, 1 << 30
KEY = b"k" * 32


def main() -> None:
    """Do what the arguments say; the last line of the output is the result."""
    what, *arguments = sys.argv[1:]
    found = {"link": link, "digests": digests, "save": save, "restore": restore, "stall": stall, "suspend": suspend}[
        what
    ](*arguments)
    print(json.dumps(found))


def timed(work: Callable[[], Any], rounds: int = 5) -> float:
    """Median seconds, after one that does not count; the device has come to its end each time."""
    import torch

    times = []
    for number in range(rounds + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if number:
            times.append(time.perf_counter() - started)
    return median(times)


def link() -> dict[str, Any]:
    """GB/s between host and device: torch's copies, and ours by the ring."""
    import torch

    from jupyter_gpuaas.state.device.copies import TorchMemory
    from jupyter_gpuaas.wire.memory import allocate

    size = 2 * GIB
    tensor = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    other = torch.empty_like(tensor)
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    plain = torch.zeros(size, dtype=torch.uint8)
    memory = TorchMemory(tensor.untyped_storage())
    warm = memoryview(plain.numpy())

    def rate(work: Callable[[], Any], rounds: int = 5) -> float:
        return size / timed(work, rounds) / GB

    rows = [
        {
            "to the host": direction == "read",
            "pinned GB/s": rate(lambda d=direction: (pinned.copy_ if d == "read" else tensor.copy_)(
                tensor if d == "read" else pinned, non_blocking=True
            )),
            "pageable GB/s": rate(lambda d=direction: (plain.copy_ if d == "read" else tensor.copy_)(
                tensor if d == "read" else plain
            ), 2),
            "ring, warm memory GB/s": rate(lambda d=direction: getattr(memory, d)([(0, size)], [warm])),
            "ring, fresh memory GB/s": rate(lambda: memory.read([(0, size)], [allocate(size)]), 3)
            if direction == "read"
            else "",
        }
        for direction in ("read", "write")
    ]  # fmt: skip
    for row in rows:
        row["ring / pinned"] = row["ring, warm memory GB/s"] / row["pinned GB/s"]
    spans = [(number * 4 * MIB, MIB) for number in range(size // (4 * MIB))]
    targets = [warm[at : at + MIB] for at, _ in spans]
    scattered = sum(length for _, length in spans) / timed(lambda: memory.read(spans, targets)) / GB
    inside = 2 * size / timed(lambda: other.copy_(tensor)) / GB
    away = torch.zeros(size, dtype=torch.uint8)
    beside = {
        "scattered chunks GB/s": scattered,
        "copy on the device GB/s, both ways": inside,
        "copy in the host GB/s": rate(lambda: away.copy_(pinned)),
        "copy in the host by one thread GB/s": rate(lambda: away.numpy().__setitem__(slice(None), pinned.numpy()), 2),
        "threads": torch.get_num_threads(),
    }
    return {"rows": rows, **beside}


def digests() -> dict[str, Any]:
    """GB/s of the digests, beside a read of the same memory."""
    import torch

    from jupyter_gpuaas.state.device import digests as ours

    size = 8 * GIB
    tensor = torch.randint(-(2**62), 2**62, (size // 8,), dtype=torch.int64, device="cuda")
    whole = tensor.view(torch.uint8)
    other = torch.empty_like(whole)
    started = time.perf_counter()
    kernel = ours._kernel_of_torch(0)
    first_s = time.perf_counter() - started
    copy = 2 * size / timed(lambda: other.copy_(whole)) / GB
    found = {
        "GB": size / GB,
        "device copy GB/s": copy,
        "sum of the same GB/s": size / timed(lambda: tensor.sum()) / GB,
        "digests GB/s": size / timed(lambda: ours.torch_digests(whole, MIB)) / GB,
        "by operations GB/s": size
        / timed(lambda: ours.by_operations(torch, whole, MIB, {"device": whole.device}).cpu(), 2)
        / GB,
        "kernel": kernel is not None,
        "kernel is ready after s": first_s,
    }
    if kernel:
        sums = torch.zeros((size // MIB, ours.SUMS), dtype=torch.int64, device="cuda")
        found["kernel GB/s"] = size / timed(lambda: kernel(whole, MIB, sums)) / GB
    found["digest time / read time"] = copy / found["digests GB/s"]
    return found


# -- models ------------------------------------------------------------------------------------------------

CELL = """
import torch
torch.manual_seed(1)
width, count = 4096, max(1, round({size} * 10**9 / 12 / 4096**2))
model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False, device="cuda") for _ in range(count)))
optimizer = torch.optim.Adam(model.parameters(), fused=True)
x = torch.randn(32, width, device="cuda")
model(x).square().mean().backward(); optimizer.step(); optimizer.zero_grad(set_to_none=True)
torch.cuda.synchronize()
"""

#: What a cell may have touched that trains the model, as a session finds it out.
_NAMES = frozenset({"model", "optimizer", "x"})


def _room(size_gb: str) -> None:
    """Take memory and give it back before a clock starts: a virtual machine is slow to give what it never had."""
    import numpy

    numpy.ones(int(float(size_gb) * 1.5 * GB), "u1")


def _model(size_gb: str) -> dict[str, Any]:
    namespace = sys.modules["__main__"].__dict__
    exec(compile(CELL.format(size=size_gb), "<cell>", "exec", dont_inherit=True), namespace)
    return namespace


def _change(namespace: dict[str, Any]) -> int:
    """One in a hundred of the bytes, in stretches; gives how many."""
    changed = 0
    for tensor in _tensors(namespace):
        flat = tensor.view(-1)
        part = flat[: max(1, flat.numel() // 100)]
        part.add_(1)
        changed += part.numel() * part.element_size()
    return changed


def _tensors(namespace: dict[str, Any]) -> list[Any]:
    states = namespace["optimizer"].state.values()
    moments = [tensor for state in states for name, tensor in state.items() if name != "step"]
    return [*(parameter.data for parameter in namespace["model"].parameters()), *moments]


def _digest(namespace: dict[str, Any]) -> list[str]:
    import torch

    from jupyter_gpuaas.state.device.digests import torch_digests

    return [b"".join(torch_digests(t.view(-1).view(torch.uint8), MIB)).hex() for t in _tensors(namespace)]


def stall(size_gb: str) -> dict[str, Any]:
    """How long a capture holds the next cell up; nothing is written."""
    from jupyter_gpuaas.state import Checkpointer
    from jupyter_gpuaas.store import MemoryStore

    namespace = _model(size_gb)
    checkpointer = Checkpointer(MemoryStore(), key=KEY)
    pending = checkpointer.begin(namespace)
    return {
        "full stall s": pending.stall_s,
        "full GB": pending.nbytes / GB,
        "full GB/s": pending.nbytes / pending.stall_s / GB,
    }


def save(size_gb: str, folder: str, peers: str) -> dict[str, Any]:
    import torch

    from jupyter_gpuaas.state import Checkpointer
    from jupyter_gpuaas.store import FolderStore

    _room(size_gb)
    namespace = _model(size_gb)
    checkpointer = Checkpointer(FolderStore(f"{folder}/ours"), key=KEY)
    small = {"x": torch.ones(8 * MIB, device="cuda")}
    Checkpointer(FolderStore(f"{folder}/first"), key=KEY).capture(small)  # libraries, kernel and slots are there
    found: dict[str, Any] = {}
    started = time.perf_counter()
    pending = checkpointer.begin(namespace)
    found["stall s"] = pending.stall_s
    full = pending.write()
    found["save s"] = time.perf_counter() - started
    found["saved GB"] = full.costs.device_bytes / GB
    found["save GB/s"] = found["saved GB"] / found["save s"]
    again = checkpointer.begin(namespace, touched=_NAMES, source="step()")
    found["unchanged stall s"] = again.stall_s
    again.write()
    changed = _change(namespace)
    torch.cuda.synchronize()
    started = time.perf_counter()
    part = checkpointer.begin(namespace, touched=_NAMES, source="step()")
    found["1 % stall s"] = part.stall_s
    last = part.write()
    found["1 % save s"] = time.perf_counter() - started
    found["1 % changed MB"], found["1 % written MB"] = changed / 10**6, last.costs.written_bytes / 10**6
    found["expected"] = _digest(namespace)
    if peers == "none":
        return found | {"ids": [full.id, last.id]}
    started = time.perf_counter()
    state = {"model": namespace["model"].state_dict(), "optimizer": namespace["optimizer"].state_dict()}
    with open(f"{folder}/torch.pt", "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    found["torch.save s"] = time.perf_counter() - started
    return found | {"ids": [full.id, last.id]}


def restore(size_gb: str, folder: str, ids: str) -> dict[str, Any]:
    import torch

    from jupyter_gpuaas.state import Checkpointer
    from jupyter_gpuaas.store import FolderStore

    torch.ones(1, device="cuda")
    found: dict[str, Any] = {}
    namespace = sys.modules["__main__"].__dict__
    _room(size_gb)
    started = time.perf_counter()
    Checkpointer(FolderStore(f"{folder}/ours"), key=KEY).restore(json.loads(ids)[-1], into=namespace)
    torch.cuda.synchronize()
    found["restore s"] = time.perf_counter() - started
    found["digests"] = _digest(namespace)
    if not os.path.exists(f"{folder}/torch.pt"):
        return found
    for name in ("model", "optimizer", "x"):
        namespace.pop(name)
    torch.cuda.empty_cache()
    _room(size_gb)
    started = time.perf_counter()
    torch.load(f"{folder}/torch.pt", map_location="cuda")
    torch.cuda.synchronize()
    found["torch.load s"] = time.perf_counter() - started
    return found


# -- the driver --------------------------------------------------------------------------------------------

HOLDER = """
import sys, torch
size = int(float(sys.argv[1]) * 2**27)
x = torch.empty(max(1, size), dtype=torch.int64, device="cuda").random_()
print(int(x.sum()), flush=True)
for line in sys.stdin:
    print(int(x.sum()), flush=True)
"""


def suspend(gib: str) -> dict[str, Any]:
    """A process that holds so many GiB, suspended and resumed by the node's helper."""
    return asyncio.run(_suspend(float(gib)))


async def _suspend(gib: float) -> dict[str, Any]:
    from jupyter_gpuaas.image.cuda_helper import CudaHelper

    started = time.perf_counter()
    helper = await CudaHelper.start()
    helper_s = time.perf_counter() - started
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(gib), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdin is not None and holder.stdout is not None
    before = await holder.stdout.readline()
    found: dict[str, Any] = {"held GiB": gib, "helper starts in s": helper_s}
    try:
        for round_ in ("first", "again")[: 1 if gib > 32 else 2]:
            free = sum((await helper.free_bytes()).values())
            started = time.perf_counter()
            suspended = await helper.suspend(holder.pid, 30_000)
            found[f"suspend s, {round_}"] = time.perf_counter() - started
            found["freed GiB"] = (sum((await helper.free_bytes()).values()) - free) / GIB
            found["NVML GiB"] = sum(suspended.needs.values()) / GIB
            started = time.perf_counter()
            await helper.resume(suspended)
            found[f"resume s, {round_}"] = time.perf_counter() - started
            holder.stdin.write(b"\n")
            found["memory is as before"] = await holder.stdout.readline() == before
            if gib >= 1:
                for what in ("suspend", "resume"):
                    found[f"{what} GB/s"] = gib * GIB / found[f"{what} s, {round_}"] / GB
    finally:
        holder.stdin.close()
        await holder.wait()
        await helper.close()
    return found
