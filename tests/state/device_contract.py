"""What every device memory must do, and a device of Python for tests: small, slow, and done when it says so."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from jupyter_gpuaas.state.device.copies import HostMemory
from jupyter_gpuaas.state.device.memory import DeviceMemory, Spans
from jupyter_gpuaas.state.device.ring import Ring

Make = Callable[[int], DeviceMemory]


class OutOfMemory(Exception):
    pass


class SlowDevice:
    """A device with little memory, whose copies happen when they are waited for and not before."""

    def __init__(self, capacity: int, *, slot_bytes: int = 1 << 10, slots: int = 3) -> None:
        self.left = capacity
        self.addresses = itertools.count(1 << 40, 1 << 30)
        self.slots = [bytearray(slot_bytes) for _ in range(slots)]
        self.ring = Ring([memoryview(slot) for slot in self.slots])
        self.under_way = self.most_under_way = self.copied = 0
        self.fail_after: int | None = None

    def allocate(self, nbytes: int) -> SlowMemory:
        if nbytes > self.left:
            raise OutOfMemory(f"{nbytes} bytes wanted, {self.left} left")
        self.left -= nbytes
        return SlowMemory(self, nbytes)


class SlowMemory:
    """Memory of a slow device."""

    device = "slow:0"

    def __init__(self, owner: SlowDevice, nbytes: int) -> None:
        self.owner, self.nbytes = owner, nbytes
        self.address = next(owner.addresses)
        self.data = bytearray(nbytes)

    def chunk_digests(self, chunk_bytes: int) -> list[bytes]:
        return HostMemory(self.data).chunk_digests(chunk_bytes)

    def read(self, spans: Spans, into: Sequence[memoryview]) -> None:
        self.owner.ring.read(spans, into, lambda *where: self._later(*where, to_host=True))

    def stage(self, spans: Spans) -> SlowMemory | None:
        total = sum(length for _, length in spans)
        if total > self.owner.left // 4:
            return None
        staged = self.owner.allocate(total)
        staged.data[:] = b"".join(self.data[offset : offset + length] for offset, length in spans)
        return staged

    def write(self, spans: Spans, data: Sequence[Any]) -> None:
        self.owner.ring.write(spans, data, lambda *where: self._later(*where, to_host=False))

    def _later(self, offset: int, slot: int, at: int, length: int, *, to_host: bool) -> Callable[[], None]:
        device = self.owner
        device.under_way += 1
        device.most_under_way = max(device.most_under_way, device.under_way)

        def wait() -> None:
            device.under_way -= 1
            device.copied += length
            if device.fail_after is not None and device.copied > device.fail_after:
                raise OSError("the link broke")
            if to_host:
                device.slots[slot][at : at + length] = self.data[offset : offset + length]
            else:
                self.data[offset : offset + length] = device.slots[slot][at : at + length]

        return wait


def check_device_memory(make: Make) -> None:
    """The contract, over sizes around chunk and slot."""
    rng = random.Random(0)
    chunk = 1 << 10
    for size in (1, 7, 8, chunk - 1, chunk, chunk + 1, 5 * chunk + 3, 64 * chunk):
        memory = make(size)
        assert memory.nbytes == size
        data = rng.randbytes(size)
        memory.write([(0, size)], [data])
        back = bytearray(size)
        memory.read([(0, size)], [memoryview(back)])
        assert back == data

        digests = memory.chunk_digests(chunk)
        assert len(digests) == -(-size // chunk) and all(len(digest) == 16 for digest in digests)
        assert memory.chunk_digests(chunk) == digests
        # A part: what lies beside it stays, and only its chunk has another digest.
        at = rng.randrange(size)
        memory.write([(at, 1)], [bytes([data[at] ^ 0x80])])
        changed = [index for index, digest in enumerate(memory.chunk_digests(chunk)) if digest != digests[index]]
        assert changed == [at // chunk]
        parts = [(at, 1), (0, size // 2)]
        targets = [bytearray(length) for _, length in parts]
        memory.read(parts, [memoryview(target) for target in targets])
        assert targets[0][0] == data[at] ^ 0x80
        memory.write([(at, 1)], [data[at : at + 1]])
        assert memory.chunk_digests(chunk) == digests
        # A copy on the device is what was there, whatever comes after.
        staged = memory.stage(parts)
        if staged is not None:
            memory.write([(0, size)], [bytes(size)])
            back = bytearray(staged.nbytes)
            staged.read([(0, staged.nbytes)], [memoryview(back)])
            assert back == data[at : at + 1] + data[: size // 2]
            memory.write([(0, size)], [data])

    # Many words that change alike: signs, exchanged places, and one more here for one less there.
    memory = make(chunk)
    plain = bytes(range(256)) * 4
    seen = set()
    flipped = bytearray(plain)
    flipped[7] ^= 0x80
    flipped[15] ^= 0x80
    swapped = plain[8:16] + plain[:8] + plain[16:]
    shifted = bytearray(plain)
    shifted[0] += 1
    shifted[8] -= 1
    zeros = bytes(chunk)
    for content in (plain, bytes(flipped), swapped, bytes(shifted), zeros, b"\1" + zeros[1:]):
        memory.write([(0, chunk)], [content])
        seen.add(memory.chunk_digests(chunk)[0])
    assert len(seen) == 6
