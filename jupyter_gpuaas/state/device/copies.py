"""Device memory of the host, of torch on CUDA and of cupy."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import xxhash

from .digests import cupy_digests, torch_digests, torch_digests_together
from .kernels import beside_captures
from .memory import DeviceMemory, Spans
from .ring import SLOT_BYTES, SLOTS, Ring

#: Of the free memory of a device, what copies may take until they are on the host.
STAGED_SHARE = 0.25


class HostMemory:
    """A buffer of the host, behind the same protocol."""

    device = "cpu"

    def __init__(self, buffer: Any, address: int = 0) -> None:
        self.view = memoryview(buffer).cast("B")
        self.address = address

    @property
    def nbytes(self) -> int:
        return self.view.nbytes

    def chunk_digests(self, chunk_bytes: int) -> list[bytes]:
        starts = range(0, self.nbytes, chunk_bytes)
        return [xxhash.xxh3_128_digest(self.view[start : start + chunk_bytes]) for start in starts]

    def read(self, spans: Spans, into: Sequence[memoryview]) -> None:
        for (offset, length), target in zip(spans, into, strict=True):
            target[:] = self.view[offset : offset + length]

    def stage(self, spans: Spans) -> DeviceMemory | None:
        return None

    def write(self, spans: Spans, data: Sequence[Any]) -> None:
        for (offset, length), source in zip(spans, data, strict=True):
            self.view[offset : offset + length] = memoryview(source).cast("B")


class TorchMemory:
    """The memory of a torch storage, on any device that torch can copy from; on CUDA by way of pinned slots.

    Notes
    -----
    A read waits for all streams of the device: work that was queued before the capture belongs to the state. The
    copies run on a stream of their own, so later cells do not queue behind them.
    """

    def __init__(self, storage: Any) -> None:
        torch = sys.modules["torch"]
        self.storage = storage
        self.device = str(storage.device)
        self.address = int(storage.data_ptr())
        self.nbytes = int(storage.nbytes())
        self._bytes = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        #: Nobody writes to it any more, so there is nothing to wait for; another thread than the user's may read it.
        self._settled = False

    def chunk_digests(self, chunk_bytes: int) -> list[bytes]:
        self._settle()
        return torch_digests(self._bytes, chunk_bytes)

    def read(self, spans: Spans, into: Sequence[memoryview]) -> None:
        with beside_captures() if self._settled else nullcontext():
            self._settle()
            ring, slots, stream = _torch_ring(self.device)

            def start(offset: int, slot: int, at: int, length: int) -> Callable[[], None]:
                return self._copy(slots[slot][at : at + length], self._bytes[offset : offset + length], stream)

            ring.read(spans, into, start, aside=self._settled)

    def stage(self, spans: Spans) -> DeviceMemory | None:
        return _stage([(self, spans)]) if self.device.startswith("cuda") else None

    def write(self, spans: Spans, data: Sequence[Any]) -> None:
        self._settle()
        ring, slots, stream = _torch_ring(self.device)

        def start(offset: int, slot: int, at: int, length: int) -> Callable[[], None]:
            return self._copy(self._bytes[offset : offset + length], slots[slot][at : at + length], stream)

        ring.write(spans, data, start)

    def torch_bytes(self) -> Any:
        """All of it as a flat tensor."""
        return self._bytes

    def _settle(self) -> None:
        if self.device.startswith("cuda") and not self._settled:
            sys.modules["torch"].cuda.synchronize(self.device)

    def _copy(self, target: Any, source: Any, stream: Any) -> Callable[[], None]:
        torch = sys.modules["torch"]
        if stream is None:
            target.copy_(source)
            return _nothing
        with torch.cuda.stream(stream), torch.inference_mode():
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()
            event.record(stream)
        wait: Callable[[], None] = event.synchronize
        return wait


class CupyMemory:
    """The memory of a cupy allocation."""

    def __init__(self, pointer: Any, nbytes: int) -> None:
        self.pointer = pointer
        self.device = f"cuda:{pointer.device_id}"
        self.address = int(pointer.ptr)
        self.nbytes = nbytes

    def chunk_digests(self, chunk_bytes: int) -> list[bytes]:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.pointer.device_id):
            cupy.cuda.runtime.deviceSynchronize()
            return cupy_digests(cupy, cupy.ndarray(self.nbytes, cupy.uint8, self.pointer), chunk_bytes)

    def stage(self, spans: Spans) -> DeviceMemory | None:
        return None

    def read(self, spans: Spans, into: Sequence[memoryview]) -> None:
        ring, addresses, stream = _cupy_ring(self.pointer.device_id)
        ring.read(spans, into, self._start(addresses, stream, to_host=True))

    def write(self, spans: Spans, data: Sequence[Any]) -> None:
        ring, addresses, stream = _cupy_ring(self.pointer.device_id)
        ring.write(spans, data, self._start(addresses, stream, to_host=False))

    def _start(self, addresses: list[int], stream: Any, *, to_host: bool) -> Any:
        cupy = sys.modules["cupy"]
        runtime = cupy.cuda.runtime
        with cupy.cuda.Device(self.pointer.device_id):
            runtime.deviceSynchronize()

        def start(offset: int, slot: int, at: int, length: int) -> Callable[[], None]:
            with cupy.cuda.Device(self.pointer.device_id):
                here, there = addresses[slot] + at, self.address + offset
                pair = (here, there) if to_host else (there, here)
                kind = runtime.memcpyDeviceToHost if to_host else runtime.memcpyHostToDevice
                runtime.memcpyAsync(*pair, length, kind, stream.ptr)
                event = stream.record()
            wait: Callable[[], None] = event.synchronize
            return wait

        return start


def digests_of(memories: Sequence[DeviceMemory], chunk_bytes: int) -> list[list[bytes]]:
    """Of each memory. What torch has on one device is waited for once, and answers together."""
    found: dict[int, list[bytes]] = {}
    for device, numbers in _of_torch(memories).items():
        sys.modules["torch"].cuda.synchronize(device)
        wholes = [memories[number].torch_bytes() for number in numbers]  # type: ignore[attr-defined]
        found |= zip(numbers, torch_digests_together(wholes, chunk_bytes), strict=True)
    return [
        found[number] if number in found else memory.chunk_digests(chunk_bytes)
        for number, memory in enumerate(memories)
    ]


def stage_together(wanted: Sequence[tuple[DeviceMemory, Spans]]) -> list[tuple[DeviceMemory, int] | None]:
    """`DeviceMemory.stage` for several at once: the copy of each, and where in it its bytes begin."""
    found: list[tuple[DeviceMemory, int] | None] = [None] * len(wanted)
    together = _of_torch([memory for memory, _ in wanted])
    for numbers in together.values():
        staged = _stage([wanted[number] for number in numbers])
        at = 0
        for number in numbers:
            found[number] = None if staged is None else (staged, at)
            at += sum(length for _, length in wanted[number][1])
    apart = set(range(len(wanted))).difference(*together.values())
    for number in apart:
        memory, spans = wanted[number]
        alone = memory.stage(spans)
        found[number] = None if alone is None else (alone, 0)
    return found


def _of_torch(memories: Sequence[DeviceMemory]) -> dict[str, list[int]]:
    """Numbers of those that torch has on CUDA, by device."""
    found: dict[str, list[int]] = {}
    for number, memory in enumerate(memories):
        if isinstance(memory, TorchMemory) and memory.device.startswith("cuda"):
            found.setdefault(memory.device, []).append(number)
    return found


def _stage(wanted: Sequence[tuple[Any, Spans]]) -> TorchMemory | None:
    """Copies in one piece, as taking memory from the driver takes longer than filling it."""
    torch = sys.modules["torch"]
    device = wanted[0][0].device
    total = sum(length for _, spans in wanted for _, length in spans)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    cached_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if not total or total > STAGED_SHARE * (free_bytes + cached_bytes):
        return None
    try:
        staged = TorchMemory(torch.UntypedStorage(total, device=device))
    except torch.cuda.OutOfMemoryError:
        return None
    torch.cuda.synchronize(device)
    at = 0
    with torch.inference_mode():
        for memory, spans in wanted:
            source = memory.torch_bytes()
            for offset, length in _joined(spans):
                staged._bytes[at : at + length].copy_(source[offset : offset + length])
                at += length
    torch.cuda.synchronize(device)
    staged._settled = True
    return staged


def _nothing() -> None: ...


def _joined(spans: Spans) -> list[tuple[int, int]]:
    """The same bytes in as few spans as can be."""
    found: list[tuple[int, int]] = []
    for offset, length in spans:
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((offset, length))
    return found


@functools.cache
def _torch_ring(device: str) -> tuple[Ring, list[Any], Any]:
    """Slots, the same as tensors, and the stream of a device; kept, as making pinned memory is slow."""
    torch = sys.modules["torch"]
    cuda = device.startswith("cuda")
    slots = [torch.empty(SLOT_BYTES, dtype=torch.uint8, device="cpu", pin_memory=cuda) for _ in range(SLOTS)]
    return Ring([memoryview(slot.numpy()) for slot in slots]), slots, torch.cuda.Stream(device) if cuda else None


@functools.cache
def _cupy_ring(device: int) -> tuple[Ring, list[int], Any]:
    cupyx, cupy = importlib.import_module("cupyx"), sys.modules["cupy"]
    with cupy.cuda.Device(device):
        slots = [cupyx.empty_pinned(SLOT_BYTES, "u1") for _ in range(SLOTS)]
        stream = cupy.cuda.Stream(non_blocking=True)
    return Ring([memoryview(slot) for slot in slots]), [slot.ctypes.data for slot in slots], stream
