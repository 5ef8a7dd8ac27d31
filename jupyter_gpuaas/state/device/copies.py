"""Device memory of the host, of torch on CUDA and of cupy.

Written for CUDA, but run only on CPU tensors and a test device so far: there was no GPU. `tests/gpu/test_state.py` is
what has to pass on one.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from .memory import DIGEST_BYTES, Spans
from .ring import SLOT_BYTES, SLOTS, Ring


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

    def chunk_digests(self, chunk_bytes: int) -> list[bytes]:
        self._settle()
        return torch_digests(self._bytes, chunk_bytes)

    def read(self, spans: Spans, into: Sequence[memoryview]) -> None:
        self._settle()
        ring, slots, stream = _torch_ring(self.device)

        def start(offset: int, slot: int, length: int) -> Callable[[], None]:
            return self._copy(slots[slot][:length], self._bytes[offset : offset + length], stream)

        ring.read(spans, into, start)

    def write(self, spans: Spans, data: Sequence[Any]) -> None:
        self._settle()
        ring, slots, stream = _torch_ring(self.device)

        def start(offset: int, slot: int, length: int) -> Callable[[], None]:
            return self._copy(self._bytes[offset : offset + length], slots[slot][:length], stream)

        ring.write(spans, data, start)

    def torch_bytes(self) -> Any:
        """All of it as a flat tensor."""
        return self._bytes

    def _settle(self) -> None:
        if self.device.startswith("cuda"):
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
            whole = cupy.ndarray(self.nbytes, cupy.uint8, self.pointer)
            digests = _digests(cupy, whole, chunk_bytes, {})
            return _split(cupy.asnumpy(digests).tobytes())

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

        def start(offset: int, slot: int, length: int) -> Callable[[], None]:
            with cupy.cuda.Device(self.pointer.device_id):
                here, there = addresses[slot], self.address + offset
                pair = (here, there) if to_host else (there, here)
                kind = runtime.memcpyDeviceToHost if to_host else runtime.memcpyHostToDevice
                runtime.memcpyAsync(*pair, length, kind, stream.ptr)
                event = stream.record()
            wait: Callable[[], None] = event.synchronize
            return wait

        return start


def _nothing() -> None: ...


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


# -- digests -----------------------------------------------------------------------------------------------

#: Bytes that are digested at once; what the digest needs besides is about three times as much.
_SLAB_BYTES = 64 << 20
#: Of each of the two sums: a multiplier, a shift, and the bits that a shift without a sign leaves.
_SUMS = ((-7046029254386353131, 32, (1 << 32) - 1), (-4417276706812531889, 29, (1 << 35) - 1))
_MIX = -8796714831421723037


def torch_digests(whole: Any, chunk_bytes: int) -> list[bytes]:
    """128 bits for each chunk of a flat tensor of bytes, computed where it lies."""
    torch = sys.modules["torch"]
    with torch.inference_mode():
        digests = _digests(torch, whole, chunk_bytes, {"device": whole.device})
        return _split(digests.cpu().contiguous().numpy().tobytes())


def _digests(xp: Any, whole: Any, chunk_bytes: int, place: dict[str, Any]) -> Any:
    """Of each chunk two sums of its words, each word mixed and weighed by its place.

    Mixed before and after it is weighed, as a plain weighted sum cannot see that two doubles changed their sign: the
    top bit of an odd weight times 2**63 is 2**63 at every place.
    """
    if chunk_bytes % 8:
        raise ValueError("a chunk is a multiple of 8 bytes")
    words = chunk_bytes // 8
    weights = [_weights(xp.arange(words, dtype=xp.int64, **place), odd) for odd, _, _ in _SUMS]
    size = int(whole.shape[0])
    slab = max(1, _SLAB_BYTES // chunk_bytes) * chunk_bytes
    found = [xp.zeros((0, 2), dtype=xp.int64, **place)]
    for begin in range(0, size, slab):
        part = whole[begin : min(begin + slab, size)]
        length = int(part.shape[0])
        if length % chunk_bytes:
            padded = xp.zeros(-(-length // chunk_bytes) * chunk_bytes, dtype=xp.uint8, **place)
            padded[:length] = part
            part = padded
        x = part.view(xp.int64).reshape(-1, words)
        sums = []
        for (odd, shift, mask), weight in zip(_SUMS, weights, strict=True):
            y = (x ^ odd) * _MIX
            y ^= (y >> shift) & mask
            y *= weight
            y ^= (y >> shift) & mask
            sums.append(y.sum(1))
        found.append(xp.stack(sums, 1))
    return xp.concatenate(found)


def _weights(index: Any, odd: int) -> Any:
    """An odd number for each place, by the finalizer of splitmix64."""
    z = (index + 1) * odd
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return (z ^ ((z >> 31) & ((1 << 33) - 1))) | 1


def _split(digests: bytes) -> list[bytes]:
    return [digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)]
